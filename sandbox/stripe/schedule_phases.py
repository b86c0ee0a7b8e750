"""The phases of a subscription schedule: what each has a subscription be, and how a request's are read.

https://docs.stripe.com/api/subscription_schedules/object#subscription_schedule_object-phases
"""

from __future__ import annotations

from typing import Any

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.intervals import period_end
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata

# Fields that are null in a phase that says nothing of them.
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
_KEPT_TERMS = ("billing_cycle_anchor", "collection_method", "description", "invoice_settings", "trial_end")


def read(account: Account, schedule: Object, given: list[Params]) -> list[Object]:
    """Read phases: the first is the one that runs, unchanged in its start; each begins where the one before it ends."""
    current = schedule["current_phase"]
    running = next(phase for phase in schedule["phases"] if phase["start_date"] == current["start_date"])
    if given[0].get("start_date") != current["start_date"]:
        raise ApiError("The start date of the current phase cannot be changed.", param="phases[0][start_date]")
    if (running["trial_end"] or 0) > account.time() and given[0].get("trial_end") is None:
        # Stripe would end the trial and charge at once; no caller of the stand-in means to.
        raise ApiError("The stand-in for Stripe does not end a trial through a schedule.", param="phases[0][trial_end]")
    if any("discount" not in one for phase in given for one in phase.get("discounts") or ()):
        text = "The stand-in for Stripe takes only discounts that there are in a phase."
        raise ApiError(text, param="phases[0][discounts]")
    held = account.find(Kind.SUBSCRIPTION, schedule["subscription"])["items"]["data"]
    if [(one.get("price"), one.get("quantity", 1)) for one in given[0]["items"]] != [
        (one["price"]["id"], one["quantity"]) for one in held
    ]:  # Stripe would change the subscription at once; no caller of the stand-in means to
        text = "The stand-in for Stripe does not change what runs through a schedule."
        raise ApiError(text, param="phases[0][items]")
    count = len(held)
    phases: list[Object] = []
    start = current["start_date"]
    for index, phase in enumerate(given):
        if len(phase["items"]) != count:
            text = "The stand-in for Stripe takes as many items in each phase as the subscription has."
            raise ApiError(text, param=f"phases[{index}][items]")
        for number, item in enumerate(phase["items"]):
            _check_price(account, item, held, f"phases[{index}][items][{number}][price]")
        end = _end_of(phase, start, index)
        phases.append(shaped(running["currency"], phase["items"], start, end, phase))
        start = end
    return phases


def _check_price(account: Account, item: Params, held: list[Object], param: str) -> None:
    if "price" not in item:
        raise missing_param(param)
    price = account.find(Kind.PRICE, item["price"], param=param)
    if not price["active"] and item["price"] not in {one["price"]["id"] for one in held}:
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


def shaped(currency: str, items: list[Object], start: int, end: int, given: Params) -> Object:
    """Shape a phase of these items, from `start` to `end` in seconds since the epoch."""
    return {
        **dict.fromkeys(_PHASE_EMPTY),
        "add_invoice_items": [],
        "currency": currency,
        "default_tax_rates": [],
        "discounts": [
            {"coupon": None, "discount": one["discount"], "promotion_code": None}
            for one in given.get("discounts") or ()
        ],
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
