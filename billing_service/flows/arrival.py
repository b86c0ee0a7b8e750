"""One observation on its way into the merge."""

from __future__ import annotations

from dataclasses import dataclass

from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import Claim


@dataclass(frozen=True)
class Arrival:
    """One observation as it is to be merged: the state that it would make by itself, and whose our metadata says it is."""

    state: ObjectState
    claim: Claim
    anchors: frozenset[str] = frozenset()
    event_id: str | None = None  # None: a read of our own
    read_id: str | None = None  # the object whose reading brought it; None: an event
