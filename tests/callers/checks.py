"""What must hold after each call, worked out from what the stand-in Stripe has and from no code of ours."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from billing.v1 import entitlement_pb2, subscription_pb2

from tests.callers.stage import PARSED, Stage, Told, documented

LIVE = frozenset({"trialing", "active", "past_due", "unpaid", "paused", "incomplete"})
_Json = dict[str, Any]


@dataclass(frozen=True)
class Held:
    """What Stripe has of a subscription."""

    status: str
    items: tuple[tuple[str, str, int], ...]  # id, plan, how many
    cancels_with_period: bool
    cancel_at: int | None
    schedule: str | None
    to_come: list[tuple[int, list[tuple[str, int]]]]
    is_paused: bool
    price_ids: tuple[str, ...]

    @property
    def ends(self) -> bool:
        """Whether it is over, or to end; under a schedule a time is when the next phase begins."""
        return self.cancels_with_period or (self.cancel_at is not None and self.schedule is None)


@dataclass(frozen=True)
class Picture:
    """What Stripe has of a customer at a moment."""

    subscriptions: dict[str, Held]
    invoices: dict[str, tuple[str, int, int, str]]  # why, how much, what of it is asked for, its status
    sessions: dict[str, str]

    def changes(self, before: Picture) -> dict[str, tuple[int, int]]:
        """Give the invoices of changes that were made since, with what they come to, and what of it is asked for."""
        made = {one: invoice for one, invoice in self.invoices.items() if one not in before.invoices}
        return {
            one: (total, due) for one, (why, total, due, _) in made.items() if why == "subscription_update" and total
        }


def picture(stage: Stage, truth: _Json) -> Picture:
    """Take a picture of what Stripe has of a customer."""
    return Picture(
        {one["id"]: _held(stage, one) for one in truth["subscriptions"]},
        {
            one["id"]: (one["billing_reason"], one["total"], one["amount_due"], one["status"])
            for one in truth["invoices"]
        },
        {one["id"]: one["status"] for one in truth["checkout_sessions"]},
    )


def _held(stage: Stage, one: _Json) -> Held:
    items = one["items"]["data"]
    return Held(
        status=one["status"],
        items=tuple((item["id"], stage.plan_of(item["price"]), item["quantity"]) for item in items),
        cancels_with_period=one["cancel_at_period_end"],
        cancel_at=one["cancel_at"],
        schedule=one["schedule"],
        to_come=stage.phases_to_come(one["schedule"]),
        is_paused=one["pause_collection"] is not None,
        price_ids=tuple(item["price"]["id"] for item in items),
    )


def has_its_reason(method: str, told: Told) -> None:
    """A refusal has a reason that the contract names for the method, and words."""
    if told.answer is None and told.code != "CANCELLED":
        assert told.reason in documented(method), f"{method}: {told}"
        assert told.message


def one_page_of_a_group(truth: _Json, given: set[str]) -> None:
    """No two pages of a plan group that somebody was given can be paid on at once, and one Stripe customer is used."""
    pages = [one for one in truth["checkout_sessions"] if one["status"] == "open" and one["id"] in given]
    plans = [PARSED.plans[one["metadata"]["billing_plan_key"]] for one in pages]
    groups = Counter(plan.group or plan.plan_key for plan in plans)
    assert all(count == 1 for count in groups.values()), f"pages that can be paid on: {groups}"
    there = {one["id"] for one in truth["customers"] if not one["deleted"]}
    used = {one["customer"] for one in truth["checkout_sessions"]}
    assert len(there & used) <= 1, f"Stripe customers: {there & used}"


def held_once_or_found(stage: Stage, customer_id: str, truth: _Json) -> None:
    """At most one subscription of a plan group is live, unless a finding says so."""
    held: Counter[str] = Counter()
    for one in truth["subscriptions"]:
        plans = (PARSED.plans.get(stage.plan_of(item["price"])) for item in one["items"]["data"])
        held.update({plan.group for plan in plans if plan and plan.group and one["status"] in LIVE})
    assert all(count == 1 for count in held.values()) or stage.found_twice(customer_id), f"held {held}, and not found"


def is_as_answered(answer: subscription_pb2.Subscription, held: Held) -> None:
    """Stripe has what a subscription was answered to be."""
    now = {(plan, quantity) for _, plan, quantity in held.items}
    assert (answer.plan_key, answer.quantity) in now or not answer.plan_key, f"{answer} is {held}"
    if held.status in LIVE:
        assert answer.HasField("end_time") == (held.cancels_with_period or held.cancel_at is not None), (
            f"{answer} is {held}"
        )
    else:
        assert answer.HasField("end_time")
    waits = [(item, start) for start, items in held.to_come for item in items]
    if answer.HasField("scheduled_change"):
        change = answer.scheduled_change
        wanted = ((change.plan_key, change.quantity), change.effective_time.seconds)
        assert wanted in waits, f"{answer}, and there waits {waits}"
    else:
        assert not waits, f"{answer}, and there waits {waits}"


def costs_what_was_said(
    preview: subscription_pb2.PreviewSubscriptionUpdateResponse, made: dict[str, tuple[int, int]]
) -> None:
    """A change now costs what the preview said, and asks for as much of it."""
    asked = [(preview.proration_amount_minor, preview.due_now_amount_minor)]
    assert [*made.values()] == (asked if any(asked[0]) else []), f"{preview}: {made}"


def gives_what_was_said(
    preview: subscription_pb2.PreviewSubscriptionUpdateResponse,
    before: entitlement_pb2.GetEntitlementsResponse,
    after: entitlement_pb2.GetEntitlementsResponse,
) -> None:
    """A change now changes the features that the preview said, as it said."""
    had, has = ({one.feature_key: one.value for one in each.entitlements} for each in (before, after))
    said = {one.feature_key: (one.before, one.after) for one in preview.feature_changes}
    assert {key: (had[key], has[key]) for key in has if had[key] != has[key]} == said
