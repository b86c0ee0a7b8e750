"""Coupons, and the discounts that they make of what a subscription or a checkout session asks for.

https://docs.stripe.com/billing/subscriptions/coupons. One at a time; a code that a customer types stands for its coupon.
"""

from __future__ import annotations

from collections.abc import Sequence

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id, random_text
from sandbox.stripe.intervals import period_end
from sandbox.stripe.objects import Kind, Object, merged_metadata
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

ID_CHARS = 8
ONCE, REPEATING = "once", "repeating"


def share_of(coupon: Object, amount: int) -> int:
    """Tell what a coupon takes off an amount in minor units; nothing off a credit."""
    if coupon["amount_off"]:
        return min(max(0, amount), int(coupon["amount_off"]))
    return round(max(0, amount) * float(coupon["percent_off"]) / 100)


def named(account: Account, given: Sequence[Object]) -> Object:
    """Find the coupon that a `discounts` parameter names. Raises ApiError for what is not one coupon."""
    if len(given) != 1 or "coupon" not in given[0]:
        raise ApiError("The stand-in for Stripe takes one discount, by its coupon.", param="discounts")
    return account.find(Kind.COUPON, given[0]["coupon"], param="discounts[0][coupon]")


def give(account: Account, subscription: Object, coupon: Object) -> None:
    """Put a coupon's discount on a subscription that is being made or changed."""
    now = account.time()
    months = coupon["duration_in_months"]
    discount = {
        "id": new_id(Kind.DISCOUNT),
        "object": Kind.DISCOUNT.value,
        "checkout_session": None,
        "customer": subscription["customer"],
        "customer_account": None,
        "end": period_end(now, now, "month", months) if months else None,
        "invoice": None,
        "invoice_item": None,
        "promotion_code": None,
        "source": {"coupon": coupon["id"], "type": "coupon"},
        "start": now,
        "subscription": subscription["id"],
        "subscription_item": None,
    }
    account.add(discount)
    subscription["discounts"] = [discount["id"]]


def coupon_on(account: Account, subscription: Object) -> Object | None:
    """Find the coupon whose discount a subscription has now."""
    for discount in (account.find(Kind.DISCOUNT, discount_id) for discount_id in subscription["discounts"]):
        if discount["end"] is None or discount["end"] > account.time():
            return account.find(Kind.COUPON, discount["source"]["coupon"])
    return None


def use_up(account: Account, subscription: Object) -> None:
    """Take a discount away that was for one invoice, of which one was made."""
    coupon = coupon_on(account, subscription)
    if coupon is not None and coupon["duration"] == ONCE:
        subscription["discounts"] = []


def redeem(account: Account, session: Object, coupon: Object) -> None:
    """Have the customer type a code of this coupon on an open page. Raises ApiError where the page takes none."""
    if session["status"] != "open" or not session["allow_promotion_codes"] or session.get("_begun"):
        raise ApiError("This Checkout Session takes no promotion code.", param="promotion_code")
    off = share_of(coupon, session["amount_subtotal"])
    total = session["amount_subtotal"] - off
    changes = {
        "amount_total": total,
        "discounts": [{"coupon": coupon["id"], "promotion_code": None}],
        "payment_status": "unpaid" if total else "no_payment_required",
        "total_details": {**session["total_details"], "amount_discount": off},
    }
    account.change(session, {**changes, "_coupon": coupon["id"]})


def _create(account: Account, call: Call) -> Object:
    params = call.params
    if ("percent_off" in params) == ("amount_off" in params):
        raise ApiError("You must pass either amount_off or percent_off.", param="percent_off")
    if "amount_off" in params and "currency" not in params:
        raise missing_param("currency")
    if not 0 < params.get("percent_off", 100) <= 100 or params.get("amount_off", 1) < 1:
        raise ApiError("Invalid decimal: must be greater than 0 and at most 100", param="percent_off")
    duration = params.get("duration", ONCE)
    if (duration == REPEATING) != ("duration_in_months" in params):
        raise ApiError(
            "duration_in_months goes with a repeating coupon, and only with one.", param="duration_in_months"
        )
    coupon_id = params.get("id") or random_text(ID_CHARS)
    if account.store.get(Kind.COUPON, coupon_id):
        raise ApiError("Coupon already exists.", code="resource_already_exists", param="id")
    coupon = {
        "id": coupon_id,
        "object": Kind.COUPON.value,
        "amount_off": params.get("amount_off"),
        "created": account.time(),
        "currency": params.get("currency"),
        "duration": duration,
        "duration_in_months": params.get("duration_in_months"),
        "livemode": False,
        "max_redemptions": None,
        "metadata": merged_metadata({}, params.get("metadata")),
        "name": params.get("name"),
        "percent_off": params.get("percent_off"),
        "redeem_by": None,
        "times_redeemed": 0,
        "valid": True,
    }
    return shown(account.add(coupon, event="coupon.created"))


ROUTES = (
    Route(
        "POST",
        "/v1/coupons",
        _create,
        sdk.CouponCreateParams,
        takes("amount_off", "currency", "duration", "duration_in_months", "id", "metadata.*", "name", "percent_off"),
    ),
    Route(
        "GET",
        "/v1/coupons/{id}",
        lambda account, call: shown(account.find(Kind.COUPON, call.path["id"])),
        sdk.CouponRetrieveParams,
        takes(),
    ),
)
