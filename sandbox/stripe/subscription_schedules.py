"""Subscription schedules, as far as a change at the end of a period needs them: the phase that runs, and the next ones.

https://docs.stripe.com/billing/subscriptions/subscription-schedules. A schedule comes from a subscription; its next phase
is entered when the subscription renews, and after the last one it lets the subscription go.
"""

from __future__ import annotations

import copy
from typing import Any

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.intervals import period_end
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

_CANCELLATION = ("cancel_at", "cancel_at_period_end")
_ENDED = frozenset({"canceled", "incomplete_expired"})

# Fields that are null in a phase and in a schedule that has just begun.
_PHASE_EMPTY = (
    "application_fee_percent",
    "billing_cycle_anchor",
    "billing_thresholds",
    "collection_method",
    "default_payment_method",
    "description",
    "invoice_settings",
    "on_behalf_of",
    "transfer_data",
    "trial_end",
)
_KEPT_TERMS = ("billing_cycle_anchor", "collection_method", "description", "trial_end")
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
    for item, wanted in zip(items, phase["items"], strict=True):
        item["price"] = copy.deepcopy(account.find(Kind.PRICE, wanted["price"]))
        item["quantity"] = wanted["quantity"]
    entered = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    account.change(schedule, {"current_phase": entered}, event="subscription_schedule.updated")
    return {"metadata": merged_metadata(subscription["metadata"], phase["metadata"])}


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
    trial = {"trial_end": subscription["trial_end"]} if subscription["status"] == "trialing" else {}
    return {
        "id": new_id(Kind.SUBSCRIPTION_SCHEDULE),
        "object": Kind.SUBSCRIPTION_SCHEDULE.value,
        **dict.fromkeys(_EMPTY),
        "billing_mode": copy.deepcopy(subscription["billing_mode"]),
        "created": account.time(),
        "current_phase": {"start_date": start, "end_date": end},
        "customer": subscription["customer"],
        "default_settings": {"billing_cycle_anchor": "automatic", "collection_method": "charge_automatically"},
        "end_behavior": "cancel" if subscription["cancel_at_period_end"] else "release",
        "livemode": False,
        "metadata": {},
        "phases": [_phase(subscription["currency"], current, start, end, trial)],
        "status": "active",
        "subscription": subscription["id"],
        "test_clock": None,
    }


def _phase(currency: str, items: list[Object], start: int, end: int, given: Params) -> Object:
    return {
        **dict.fromkeys(_PHASE_EMPTY),
        "add_invoice_items": [],
        "currency": currency,
        "default_tax_rates": [],
        "discounts": [],
        **{name: given[name] for name in _KEPT_TERMS if name in given},
        "end_date": end,
        "items": [
            {
                "billing_thresholds": None,
                "discounts": [],
                "metadata": item.get("metadata", {}),
                "price": item["price"],
                "quantity": item.get("quantity", 1),
                "tax_rates": [],
            }
            for item in items
        ],
        "metadata": merged_metadata({}, given.get("metadata")),
        "proration_behavior": given.get("proration_behavior", "create_prorations"),
        "start_date": start,
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
        changes["phases"] = _phases(account, schedule, call.params["phases"])
    account.change(schedule, changes, event="subscription_schedule.updated")
    return shown(schedule)


def _phases(account: Account, schedule: Object, given: list[Params]) -> list[Object]:
    """Read phases: the first is the one that runs, unchanged in its start; each begins where the one before it ends."""
    current = schedule["current_phase"]
    running = next(phase for phase in schedule["phases"] if phase["start_date"] == current["start_date"])
    if given[0].get("start_date") != current["start_date"]:
        raise ApiError("The start date of the current phase cannot be changed.", param="phases[0][start_date]")
    if (running["trial_end"] or 0) > account.time() and given[0].get("trial_end") is None:
        # Stripe would end the trial and charge at once; no caller of the stand-in means to.
        raise ApiError("The stand-in for Stripe does not end a trial through a schedule.", param="phases[0][trial_end]")
    if any(phase.get("discounts") for phase in given):
        raise ApiError("The stand-in for Stripe has no discounts.", param="phases[0][discounts]")
    count = len(running["items"])
    phases: list[Object] = []
    start = current["start_date"]
    for index, phase in enumerate(given):
        if len(phase["items"]) != count:
            text = "The stand-in for Stripe takes as many items in each phase as the subscription has."
            raise ApiError(text, param=f"phases[{index}][items]")
        for number, item in enumerate(phase["items"]):
            _check_price(account, item, running, f"phases[{index}][items][{number}][price]")
        end = _end_of(phase, start, index)
        phases.append(_phase(running["currency"], phase["items"], start, end, phase))
        start = end
    return phases


def _check_price(account: Account, item: Params, running: Object, param: str) -> None:
    if "price" not in item:
        raise missing_param(param)
    price = account.find(Kind.PRICE, item["price"], param=param)
    if not price["active"] and item["price"] not in {held["price"] for held in running["items"]}:
        raise ApiError("The price specified is inactive. This field only accepts active prices.", param=param)
    if not price["recurring"]:
        raise ApiError(f"The price specified is not recurring: {price['id']}", param=param)


def _end_of(phase: Params, start: int, index: int) -> int:
    if "end_date" in phase and "duration" in phase:
        raise ApiError("You may only specify one of these parameters: end_date, duration.", param=f"phases[{index}]")
    end: Any = phase.get("end_date")
    if "duration" in phase:
        end = period_end(start, start, phase["duration"]["interval"], phase["duration"].get("interval_count", 1))
    if not isinstance(end, int):
        raise missing_param(f"phases[{index}][duration]")
    if end <= start:
        raise ApiError("The end date of a phase must be after its start date.", param=f"phases[{index}][end_date]")
    return end


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
            "phases.duration.*",
            "phases.end_date",
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
