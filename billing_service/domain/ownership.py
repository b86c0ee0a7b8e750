"""Whose each object is: by the Stripe customer that it names, or by what it hangs together with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from billing_service.domain.merge import ObjectState
from billing_service.domain.views import anchors


def owners_of(states: Iterable[ObjectState], bindings: Mapping[str, str]) -> Mapping[str, str]:
    """Give the customer of each object, for those that have one (`bindings`: Stripe customer -> customer).

    What an object itself names goes before what it hangs on; a chain is followed to its end.
    """
    known = sorted(states, key=lambda state: state.object_id)
    owners = {s.object_id: owner for s in known if (owner := bindings.get(s.stripe_customer_id or "")) is not None}
    hanging = {s.object_id: anchors_of(s) for s in known}
    loose = [s.object_id for s in known if s.object_id not in owners and s.stripe_customer_id is None]
    found = True
    while found:  # each round gives at least one more its owner
        by_anchor = {anchor: owner for object_id, owner in owners.items() for anchor in hanging[object_id]}
        ready = {i: by_anchor[a] for i in loose if i not in owners for a in sorted(hanging[i]) if a in by_anchor}
        owners |= ready
        found = bool(ready)
    return owners


def anchors_of(state: ObjectState) -> frozenset[str]:
    """Give every anchor that the object named in either register."""
    views = [register.view for register in (state.payload, state.read) if register is not None]
    return frozenset[str]().union(*(anchors(state.object_id, view) for view in views))
