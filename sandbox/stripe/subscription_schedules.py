"""Subscription schedules, as far as a change at the end of a period needs them: the phase that runs, and the next ones.

https://docs.stripe.com/billing/subscriptions/subscription-schedules. A schedule comes from a subscription; its next phase
is entered when the subscription renews, and after the last one it lets the subscription go.
"""

from __future__ import annotations

import copy

import stripe.params as sdk

from sandbox.stripe import schedule_phases
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

_CANCELLATION = ("cancel_at", "cancel_at_period_end")
_ENDED = frozenset({"canceled", "incomplete_expired"})

# Fields that are null in a schedule that has just begun.
_EMPTY = ("application", "canceled_at", "completed_at", "customer_account", "released_at", "released_subscription")


def require_free(subscription: Object, params: Params) -> None:
    """Raise ApiError for a cancellation of a subscription that stands under a schedule, in Stripe's words."""
    if subscription["schedule"] and any(name in params for name in _CANCELLATION):
        raise ApiError(
            f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating any"
            " cancelation behavior directly is not allowed. Please update the schedule instead."
        )


def enter_next_phase(account: Account, subscription: Object, items: list[Object], *, at: int) -> Object:
    """Have a subscription that renews `at` a time enter its schedule's next phase, if that begins then.

    `items` are changed, other changes returned.
    """
    if not subscription["schedule"]:
        return {}
    schedule = account.find(Kind.SUBSCRIPTION_SCHEDULE, subscription["schedule"])
    current = schedule["current_phase"]
    if current["end_date"] > at:
        return {}
    phase = next((p for p in schedule["phases"] if p["start_date"] == current["end_date"]), None)
    if phase is None:
        _let_go(account, schedule, "released")
        return {"schedule": None}
    _replace_items(account, items, phase["items"])
    entered = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    account.change(schedule, {"current_phase": entered}, event="subscription_schedule.updated")
    metadata = merged_metadata(subscription["metadata"], phase["metadata"])
    return {"metadata": metadata, **_terms_of(schedule, phase, subscription["discounts"])}


def _replace_items(account: Account, items: list[Object], wanted: list[Object]) -> None:
    """Make a phase's items of a subscription's, one after the other; what was added since goes, and what was removed comes back."""
    for _ in range(len(items), len(wanted)):
        items.append({**copy.deepcopy(items[0]), "id": new_id(Kind.SUBSCRIPTION_ITEM)})
    del items[len(wanted) :]
    for item, one in zip(items, wanted, strict=True):
        item |= {"price": copy.deepcopy(account.find(Kind.PRICE, one["price"])), "quantity": one["quantity"]}


def _terms_of(schedule: Object, phase: Object, discounts: list[str]) -> Object:
    """Tell how a subscription is billed in a phase: as that says, or else as the schedule does, which has it of the subscription."""
    own = phase if phase["collection_method"] else schedule["default_settings"]
    terms = {
        "collection_method": own["collection_method"],
        "days_until_due": (own["invoice_settings"] or {}).get("days_until_due"),
    }
    named = {given["discount"] for given in phase["discounts"]}
    return terms if named.issuperset(discounts) else {**terms, "discounts": [one for one in discounts if one in named]}


def cancel(account: Account, subscription: Object) -> Object:
    """End the schedule of a subscription that ends; tell what that changes in the subscription."""
    if not subscription["schedule"]:
        return {}
    _let_go(account, account.find(Kind.SUBSCRIPTION_SCHEDULE, subscription["schedule"]), "canceled")
    return {"schedule": None}


def _let_go(account: Account, schedule: Object, status: str) -> None:
    changes: Object = {"status": status, "current_phase": None, f"{status}_at": account.time()}
    if status == "released":
        changes |= {"released_subscription": schedule["subscription"], "subscription": None}
    account.change(schedule, changes, event=f"subscription_schedule.{status}")


def _create(account: Account, call: Call) -> Object:
    if "from_subscription" not in call.params:
        raise missing_param("from_subscription")
    subscription = account.find(Kind.SUBSCRIPTION, call.params["from_subscription"], param="from_subscription")
    if subscription["status"] in _ENDED:
        raise ApiError("You cannot migrate a subscription that is already canceled.", param="from_subscription")
    if subscription["schedule"]:
        raise ApiError(
            "You cannot migrate a subscription that is already attached to a schedule:"
            f" `{subscription['schedule']}` is its schedule.",
            param="from_subscription",
        )
    schedule = account.add(_from(account, subscription), event="subscription_schedule.created")
    account.change(subscription, {"schedule": schedule["id"]}, event="customer.subscription.updated")
    return shown(schedule)


def _from(account: Account, subscription: Object) -> Object:
    items = subscription["items"]["data"]
    start = min(item["current_period_start"] for item in items)
    end = min(item["current_period_end"] for item in items)
    current = [{"price": item["price"]["id"], "quantity": item["quantity"]} for item in items]
    given: Object = {"trial_end": subscription["trial_end"]} if subscription["status"] == "trialing" else {}
    given["discounts"] = [{"discount": discount_id} for discount_id in subscription["discounts"]]
    return {
        "id": new_id(Kind.SUBSCRIPTION_SCHEDULE),
        "object": Kind.SUBSCRIPTION_SCHEDULE.value,
        **dict.fromkeys(_EMPTY),
        "billing_mode": copy.deepcopy(subscription["billing_mode"]),
        "created": account.time(),
        "current_phase": {"start_date": start, "end_date": end},
        "customer": subscription["customer"],
        "default_settings": {
            "billing_cycle_anchor": "automatic",
            "collection_method": subscription["collection_method"],
            "invoice_settings": {"days_until_due": subscription["days_until_due"]},
        },
        "end_behavior": "cancel" if subscription["cancel_at_period_end"] else "release",
        "livemode": False,
        "metadata": {},
        "phases": [schedule_phases.shaped(subscription["currency"], current, start, end, given)],
        "status": "active",
        "subscription": subscription["id"],
        "test_clock": None,
    }


def _find_active(account: Account, schedule_id: str) -> Object:
    schedule = account.find(Kind.SUBSCRIPTION_SCHEDULE, schedule_id)
    if schedule["status"] != "active":
        raise ApiError(
            f"You cannot change a subscription schedule that is in the `{schedule['status']}` status. You can only change a"
            " schedule that is in `not_started` or `active`."
        )
    return schedule


def _update(account: Account, call: Call) -> Object:
    schedule = _find_active(account, call.path["id"])
    changes: Object = {"metadata": merged_metadata(schedule["metadata"], call.params.get("metadata"))}
    if "end_behavior" in call.params:
        changes["end_behavior"] = call.params["end_behavior"]
    if "phases" in call.params:
        changes["phases"] = schedule_phases.read(account, schedule, call.params["phases"])
        changes["current_phase"] = {name: changes["phases"][0][name] for name in ("start_date", "end_date")}
    account.change(schedule, changes, event="subscription_schedule.updated")
    return shown(schedule)


def _release(account: Account, call: Call) -> Object:
    schedule = _find_active(account, call.path["id"])
    subscription = account.find(Kind.SUBSCRIPTION, schedule["subscription"])
    _let_go(account, schedule, "released")
    account.change(subscription, {"schedule": None}, event="customer.subscription.updated")
    return shown(schedule)


ROUTES = (
    Route(
        "POST",
        "/v1/subscription_schedules",
        _create,
        sdk.SubscriptionScheduleCreateParams,
        takes("from_subscription"),
    ),
    Route(
        "GET",
        "/v1/subscription_schedules/{id}",
        lambda account, call: shown(account.find(Kind.SUBSCRIPTION_SCHEDULE, call.path["id"])),
        sdk.SubscriptionScheduleRetrieveParams,
        takes(),
    ),
    Route(
        "POST",
        "/v1/subscription_schedules/{id}",
        _update,
        sdk.SubscriptionScheduleUpdateParams,
        takes(
            "end_behavior",
            "metadata.*",
            "phases.billing_cycle_anchor",
            "phases.collection_method",
            "phases.description",
            "phases.discounts",
            "phases.discounts.discount",
            "phases.duration.*",
            "phases.end_date",
            "phases.invoice_settings.days_until_due",
            "phases.items.metadata.*",
            "phases.items.price",
            "phases.items.quantity",
            "phases.metadata.*",
            "phases.proration_behavior",
            "phases.start_date",
            "phases.trial_end",
            "proration_behavior",
        ),
    ),
    Route("POST", "/v1/subscription_schedules/{id}/release", _release, sdk.SubscriptionScheduleReleaseParams, takes()),
)
