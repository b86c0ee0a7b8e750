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
    loose = [s.object_id for s in known if s.object_id not in owners and s.stripe_customer_id is None]
    if not loose:
        return owners
    hanging = {s.object_id: anchors_of(s) for s in known}
    by_anchor: dict[str, str] = {}
    found: Mapping[str, str] = owners
    while found and loose:  # each round but the last gives at least one more its owner
        by_anchor.update({anchor: owner for object_id, owner in found.items() for anchor in hanging[object_id]})
        found = {i: by_anchor[a] for i in loose for a in sorted(hanging[i]) if a in by_anchor}
        owners |= found
        loose = [i for i in loose if i not in found]
    return owners


def anchors_of(state: ObjectState) -> frozenset[str]:
    """Give every anchor that the object named in either register."""
    found: frozenset[str] = frozenset()
    for register in (state.payload, state.read):
        if register is not None:
            found |= anchors(state.object_id, register.view)
    return found
