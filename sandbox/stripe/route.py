"""An endpoint of the API: where it is, what it takes, what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sandbox.stripe.account import Account
from sandbox.stripe.objects import Object, Params


@dataclass(frozen=True)
class Call:
    """One request that passed validation."""

    path: Mapping[str, str]  # the path's own names, {"id": "cus_..."}
    params: Params


# Runs without awaiting, so that a request is one step: nothing sees it half done.
Endpoint = Callable[[Account, Call], Object]


@dataclass(frozen=True)
class Route:
    """One method and path; `params` is the SDK's TypedDict, `supported` what of it the stand-in acts on."""

    method: str
    path: str
    run: Endpoint
    params: type
    supported: frozenset[str] = field(default=frozenset())


def takes(*names: str) -> frozenset[str]:
    """Name what an endpoint acts on; every one can be expanded."""
    return frozenset({"expand", *names})
