"""One observation on its way into the merge."""

from __future__ import annotations

from billing_service.domain.frozen import frozen
from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import Claim, Observation
from billing_service.domain.views import View


@frozen
class Arrival:
    """One observation as it is to be merged: the state that it would make by itself, and whose our metadata says it is."""

    state: ObjectState
    claim: Claim
    anchors: frozenset[str] = frozenset()
    event_id: str | None = None  # None: a read of our own
    read_id: str | None = None  # the object whose reading brought it; None: an event
    is_vague: bool = False  # see `Observation`

    @property
    def object_id(self) -> str:
        """What it is about."""
        return self.state.object_id

    @property
    def stripe_customer_id(self) -> str | None:
        """The Stripe customer that it names."""
        return self.state.stripe_customer_id

    @property
    def view(self) -> View:
        """What it says of the object."""
        return self.state.view


Seen = Observation | Arrival  # both say which objects a transaction will reach
