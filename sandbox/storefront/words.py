"""Answers of the billing service -> words for people. Pure: protobuf in, text and small values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

import grpc
from billing.v1 import entitlement_pb2, plan_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from sandbox.storefront.billing import BillingError

_State = entitlement_pb2.Source.State
_TRY_AGAIN = "Our billing is not reachable at the moment. Nothing was charged; please try again in a minute."

_REASONS: Mapping[str, str] = {
    "ALREADY_SUBSCRIBED": "You already have a plan of this group. Two at a time would charge you twice, so we stopped here.",
    "PLAN_NOT_FOUND": "This plan is not offered any more. Please choose another one.",
    "PRICE_NOT_FOUND": "This price is not offered any more. Please choose another one.",
    "PLAN_NOT_FOR_SALE": "This plan is free: there is nothing to pay.",
    "PRICE_NOT_AVAILABLE": "This price cannot be bought at the moment. Please choose another one, or come back later.",
    "CHECKOUT_SUPERSEDED": "You started another checkout meanwhile. Please finish that one, or choose again.",
    "REQUEST_IN_PROGRESS": "We are still working on your last click. Please try again in a moment.",
    "REQUEST_ID_REUSED": "This page was out of date. It is fresh now: please choose again.",
    "SUBSCRIPTION_NOT_FOUND": "You have no such subscription.",
    "SUBSCRIPTION_NOT_LIVE": "This subscription is over. You can buy a plan again whenever you like.",
    "SUBSCRIPTION_ENDING": "This subscription is about to end. Keep it first, then change it.",
    "SUBSCRIPTION_PAUSED": "This subscription is paused. Resume it first, then change it.",
    "SUBSCRIPTION_UNPAID": "The last payment has not arrived. Please pay it first; “Payment and invoices” leads there.",
    "SUBSCRIPTION_CHANGE_PENDING": "A change of this subscription is under way already. Please ask our team.",
    "SUBSCRIPTION_CHANGE_SUPERSEDED": "You changed this subscription meanwhile. Please look at what you have now.",
    "PLAN_GROUP_MISMATCH": "Your subscription cannot be changed to this plan.",
    "PAYMENT_FAILED": "Your card was declined, so nothing was changed. “Payment and invoices” lets you replace it.",
    "CUSTOMER_UNKNOWN_TO_STRIPE": "You have not bought anything yet, so there is nothing to manage.",
    "CHECKOUT_SESSION_NOT_FOUND": "We know of no such purchase of yours.",
    "INVALID_FIELDS": "Something in that order does not hold. Please check it and choose again.",
}


class Tone(StrEnum):
    """How a notice looks."""

    GOOD = "good"
    WAITING = "waiting"
    BAD = "bad"


@dataclass(frozen=True)
class Notice:
    """Something to tell at the top of a page."""

    tone: Tone
    title: str
    text: str


@dataclass(frozen=True)
class Fact:
    """One line of a table: a name, its value, and why."""

    name: str
    value: str
    why: str
    on: bool  # whether it gives anything


def notice_of_error(error: BillingError) -> Notice:
    """Say what went wrong and what to do, by the reason where we know it and by the canonical code where not."""
    if error.reason in _REASONS:
        return Notice(Tone.BAD, "That did not work", _REASONS[error.reason])
    if http_status(error) == 503:
        return Notice(Tone.BAD, "Please try again", _TRY_AGAIN)
    return Notice(Tone.BAD, "That did not work", "Something went wrong on our side. Nothing was charged.")


def http_status(error: BillingError) -> int:
    """Give the HTTP status that says the same as the error's canonical code."""
    passing = {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    }
    if error.code in passing:
        return 503
    refused = {
        grpc.StatusCode.INVALID_ARGUMENT: 400,
        grpc.StatusCode.NOT_FOUND: 404,
        grpc.StatusCode.ALREADY_EXISTS: 409,
        grpc.StatusCode.FAILED_PRECONDITION: 409,
    }
    return refused.get(error.code, 500)


_UNSETTLED = frozenset({entitlement_pb2.CHECKOUT_OUTCOME_STILL_OPEN, entitlement_pb2.CHECKOUT_OUTCOME_UNCONFIRMED})
_CONFIRMING = Notice(
    Tone.WAITING,
    "Confirming your payment…",
    "This page looks again by itself. You can also leave it; nothing gets lost.",
)
_OUTCOMES: Mapping[entitlement_pb2.CheckoutOutcome.ValueType, Notice] = {
    entitlement_pb2.CHECKOUT_OUTCOME_ENTITLED: Notice(
        Tone.GOOD, "Thank you!", "Your payment has arrived, and {plan} is yours."
    ),
    entitlement_pb2.CHECKOUT_OUTCOME_PENDING_PAYMENT: Notice(
        Tone.WAITING,
        "Payment on its way",
        "Your bank is processing the payment, which can take some days. {plan} is yours as soon as it has arrived.",
    ),
    entitlement_pb2.CHECKOUT_OUTCOME_PAYMENT_FAILED: Notice(
        Tone.BAD, "The payment failed", "Your bank did not carry it out. Nothing was bought; you may try again."
    ),
    entitlement_pb2.CHECKOUT_OUTCOME_EXPIRED: Notice(
        Tone.BAD, "This checkout has expired", "It was not paid in time. Nothing was bought; you may try again."
    ),
    entitlement_pb2.CHECKOUT_OUTCOME_NOT_ENTITLED: Notice(
        Tone.BAD, "No longer active", "You bought {plan}, and it is not active at the moment. Below is why."
    ),
}


def settled(outcome: entitlement_pb2.CheckoutOutcome.ValueType) -> bool:
    """Say whether nothing more is to be waited for after paying: it has failed, is with the bank, or the plan is there."""
    return outcome not in _UNSETTLED


def notice_of_checkout(outcome: entitlement_pb2.CheckoutOutcome.ValueType | None, plan_name: str) -> Notice:
    """Say where a purchase stands, as the billing service knows it; that the person came back proves nothing."""
    if outcome is None:
        return Notice(
            Tone.BAD, "No such purchase", "We know of no purchase of yours under this address. Nothing was changed."
        )
    notice = _OUTCOMES.get(outcome, _CONFIRMING)
    return replace(notice, text=notice.text.format(plan=plan_name))


def feature_facts(
    entitlements: Iterable[entitlement_pb2.Entitlement], feature_names: Mapping[str, str], plan_names: Mapping[str, str]
) -> list[Fact]:
    """Say what may be used, with the source that decides it and until when."""
    return [
        Fact(
            name=feature_names.get(item.feature_key, item.feature_key),
            value=value_words(item.value),
            why=_why(item, plan_names),
            on=is_on(item.value),
        )
        for item in entitlements
    ]


def source_facts(sources: Iterable[entitlement_pb2.Source], plan_names: Mapping[str, str]) -> list[Fact]:
    """Say what a customer holds or held, and in which state it is."""
    return [
        Fact(
            name=plan_names.get(source.plan_key, source.plan_key or "Unknown plan"),
            value=f"{source.quantity} ×" if source.quantity > 1 else "",
            why=state_words(source),
            on=source.state in {_State.STATE_ACTIVE, _State.STATE_TRIALING, _State.STATE_GRACE, _State.STATE_ENDING},
        )
        for source in sources
    ]


DONE: Mapping[str, Notice] = {
    "change-now": Notice(Tone.GOOD, "Changed", "Your new plan is yours at once."),
    "change-later": Notice(
        Tone.GOOD, "Noted", "Your plan changes when the period that is paid ends. Nothing is charged before."
    ),
    "cancel": Notice(Tone.GOOD, "Cancelled", "Your plan is yours until the period that is paid ends."),
    "resume": Notice(Tone.GOOD, "Welcome back", "Your plan renews as before."),
}


def changeable(sources: Iterable[entitlement_pb2.Source]) -> list[entitlement_pb2.Source]:
    """Give what can be managed: subscriptions that are not over."""
    return [one for one in sources if one.stripe_subscription_id and one.state != _State.STATE_ENDED]


def is_ending(source: entitlement_pb2.Source) -> bool:
    """Say whether a subscription is to end, or stands still, and so can be resumed."""
    return source.state in {_State.STATE_ENDING, _State.STATE_PAUSED}


def value_words(value: plan_pb2.FeatureValue) -> str:
    """Put a feature's value into a word or a number."""
    kind = value.WhichOneof("kind")
    if kind == "bool_value":
        return "Included" if value.bool_value else "Not included"
    if kind == "integer_value":
        return f"{value.integer_value:,}"
    if kind == "unlimited":
        return "Unlimited"
    return value.text_value.capitalize() or "–"


def is_on(value: plan_pb2.FeatureValue) -> bool:
    """Say whether a value gives anything: not off, zero or empty."""
    return bool(value.bool_value or value.integer_value or value.unlimited or value.text_value)


def state_words(source: entitlement_pb2.Source) -> str:
    """Say why a source gives access or not, and until when."""
    until = date_words(source.end_time) if source.HasField("end_time") else ""
    if source.type == entitlement_pb2.Source.TYPE_DEFAULT_PLAN:
        return "Comes with every account"
    words = {
        _State.STATE_ACTIVE: f"Active, renews by {until}" if until else "Active",
        _State.STATE_TRIALING: f"Trial until {until}",
        _State.STATE_GRACE: f"A payment failed; yours until {until}, please update your payment method",
        _State.STATE_ENDING: f"Ends on {until}" if until else "Ending",
        _State.STATE_PENDING_PAYMENT: "Waiting for your payment to arrive",
        _State.STATE_PAYMENT_OVERDUE: "Paused: a payment is overdue",
        _State.STATE_PAUSED: "Paused",
        _State.STATE_REFUNDED: "Refunded",
        _State.STATE_DISPUTED: "Withheld: the payment is disputed",
        _State.STATE_SCHEDULED: "Begins later",
        _State.STATE_ENDED: f"Ended on {until}" if until else "Ended",
    }
    return words.get(source.state, "Being looked at by our team")


def date_words(moment: Timestamp) -> str:
    """Put a moment into a date, in UTC: 3 March 2026, held together by no-break spaces."""
    when = datetime.fromtimestamp(moment.seconds, UTC)
    return f"{when.day}\N{NO-BREAK SPACE}{when:%B}\N{NO-BREAK SPACE}{when.year}"


def _why(item: entitlement_pb2.Entitlement, plan_names: Mapping[str, str]) -> str:
    if not is_on(item.value) or not item.HasField("source"):
        return ""
    plan = plan_names.get(item.source.plan_key, item.source.plan_key)
    until = f" until {date_words(item.next_change_time)}" if item.HasField("next_change_time") else ""
    return f"from {plan}{until}"
