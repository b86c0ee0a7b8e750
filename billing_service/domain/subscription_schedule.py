"""Stripe's subscription schedules, as far as a change at the end of a period needs them; pure.

https://docs.stripe.com/billing/subscriptions/subscription-schedules
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from billing_service.domain.json_fields import MalformedError
from billing_service.domain.observation import METADATA_DEPLOYMENT

_Json = Mapping[str, Any]
Body = dict[str, Any]

ACTIVE = "active"

# What a phase says beside its items, dates and metadata, and keeps saying only where it is sent again.
_PLAIN_TERMS = (
    "application_fee_percent",
    "billing_cycle_anchor",
    "billing_thresholds",
    "collection_method",
    "description",
)
_REFERRED_TERMS = ("default_payment_method", "on_behalf_of")
_DISCOUNT_NAMES = ("discount", "coupon", "promotion_code")  # a discount that runs goes first: it keeps its end


def is_ours(schedule: _Json, deployment: str) -> bool:
    """Say whether a schedule may be changed or let go: we made it, or it holds nothing that would be lost.

    Between its making and its first update one of ours has no mark yet: it has the phase that runs, and then lets go.
    """
    metadata = schedule.get("metadata") or {}
    owner = metadata.get(METADATA_DEPLOYMENT)
    if owner is not None:
        return bool(owner == deployment)
    is_bare = not metadata and schedule.get("end_behavior") == "release" and following_phase(schedule) is None
    return schedule.get("status") == ACTIVE and is_bare


def current_phase(schedule: _Json) -> _Json:
    """Give the phase of an active schedule that runs now. Raises MalformedError where none does."""
    current = schedule.get("current_phase") or {}
    phases: Sequence[_Json] = schedule["phases"]
    for phase in phases:
        if phase["start_date"] == current.get("start_date"):
            return phase
    raise MalformedError("the schedule has no phase that runs")


def following_phase(schedule: _Json) -> _Json | None:
    """Give the phase that comes after the one that runs now, or None; none follows in a schedule that has let go."""
    if schedule.get("status") != ACTIVE:
        return None
    end = current_phase(schedule)["end_date"]
    return next((phase for phase in schedule["phases"] if phase["start_date"] == end), None)


def changed_item(schedule: _Json, price_id: str | None) -> _Json | None:
    """Give the item of the following phase that is of a price, or else that differs from the phase that runs; or None."""
    following = following_phase(schedule)
    if following is None:
        return None
    running = [(id_of(item["price"]), item.get("quantity", 1)) for item in current_phase(schedule)["items"]]
    items: Sequence[_Json] = following["items"]
    asked = (item for item in items if id_of(item["price"]) == price_id)
    changed = (item for item in items if (id_of(item["price"]), item.get("quantity", 1)) not in running)
    return next(asked, None) or next(changed, None)


def schedule_body(schedule: _Json, subscription: _Json, item: _Json, period: _Json, change: _Json) -> Body:
    """Render the body of POST /v1/subscription_schedules/{id}: the phase that runs, as it is, then one with the change.

    `item` is the subscription's item that changes when its own period ends, `period` the interval of its new price, and
    `change` has its new price and quantity, the metadata from then on, and our mark. The second phase lasts one period,
    without proration; then the schedule lets the subscription go, which renews as it is then.
    https://docs.stripe.com/billing/subscriptions/subscription-schedules/use-cases
    """
    current = current_phase(schedule)
    items = _running_items(subscription, current)
    after = [{**one, **change["item"]} if item_id == item["id"] else one for item_id, one in items.items()]
    first = {
        **_terms(current),
        **_trial(subscription),
        "items": [*items.values()],
        "start_date": current["start_date"],
        "end_date": item["current_period_end"],
    }
    second = {
        **_terms(current),
        "items": after,
        "duration": {"interval": period["interval"], "interval_count": period["interval_count"]},
        "proration_behavior": "none",
        "metadata": change["metadata"],
    }
    return {
        "end_behavior": "release",
        "proration_behavior": "none",
        "metadata": change["mark"],
        "phases": [first, second],
    }


def id_of(reference: Any) -> str:
    """Give the id of a reference, bare or expanded."""
    return str(reference["id"]) if isinstance(reference, Mapping) else str(reference)


def _trial(subscription: _Json) -> Body:
    """Keep a trial that runs: a phase that does not name its end has none."""
    return {"trial_end": subscription["trial_end"]} if subscription["status"] == "trialing" else {}


def _running_items(subscription: _Json, current: _Json) -> Mapping[str, Body]:
    """Give the phase that runs its items by their ids: those of the subscription, which somebody may have changed past the schedule."""
    planned = {id_of(one["price"]): one for one in current["items"]}
    held: Sequence[_Json] = subscription["items"]["data"]
    return {
        one["id"]: {**_kept_item(planned.get(one["price"]["id"], one)), "quantity": one.get("quantity", 1)}
        for one in held
    }


def _kept_item(item: _Json) -> Body:
    kept: Body = {"price": id_of(item["price"]), "quantity": item.get("quantity", 1)}
    if item.get("discounts"):
        kept["discounts"] = _discounts(item["discounts"])
    if item.get("tax_rates"):
        kept["tax_rates"] = [id_of(rate) for rate in item["tax_rates"]]
    return kept | {name: item[name] for name in ("billing_thresholds", "metadata") if item.get(name)}


def _terms(phase: _Json) -> Body:
    """Give what a phase has beside its items and is to keep: left out, it would fall back to the schedule's defaults.

    No discounts are sent as such: left out, the customer's would be inherited.
    """
    kept: Body = {"discounts": _discounts(phase.get("discounts") or ()) or ""}
    kept |= {name: phase[name] for name in _PLAIN_TERMS if phase.get(name) is not None}
    kept |= {name: id_of(phase[name]) for name in _REFERRED_TERMS if phase.get(name)}
    days_until_due = (phase.get("invoice_settings") or {}).get("days_until_due")
    if days_until_due is not None:  # without it Stripe would not know when what is sent to be paid is due
        kept["invoice_settings"] = {"days_until_due": days_until_due}
    if phase.get("default_tax_rates"):
        kept["default_tax_rates"] = [id_of(rate) for rate in phase["default_tax_rates"]]
    tax = phase.get("automatic_tax")
    if tax:
        kept["automatic_tax"] = {"enabled": tax["enabled"]}
    return kept


def _discounts(discounts: Sequence[_Json | str]) -> list[Body]:
    """Name the discounts of a phase, or of a subscription's item, which has them by their ids."""
    given = [{"discount": one} if isinstance(one, str) else one for one in discounts]
    named = [next((name for name in _DISCOUNT_NAMES if one.get(name)), None) for one in given]
    return [{name: id_of(one[name])} for one, name in zip(given, named, strict=True) if name is not None]
