"""Controls of payments: what payers, banks and people in the dashboard do about money."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from sandbox.stripe import (
    balances,
    cards,
    checkout_sessions,
    credit_notes,
    customers,
    discounts,
    disputes,
    dunning,
    invoices,
    purchase,
    refunds,
)
from sandbox.stripe.account import Account
from sandbox.stripe.control_route import Body, Control, Nothing, Surroundings
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.schedule import subscription_of


class Collected(StrEnum):
    """What comes of a try to collect."""

    PAID = "paid"
    FAILED = "failed"


class Collection(Body):
    """How a try to collect is to end."""

    outcome: Collected

    @property
    def card(self) -> cards.CardOutcome:
        """The outcome in the words of a card."""
        return cards.CardOutcome.PAID if self.outcome is Collected.PAID else cards.CardOutcome.DECLINED


class _Completion(Body):
    outcome: purchase.Outcome


class _Code(Body):
    coupon: str


class _Settlement(Body):
    outcome: purchase.Settlement


class _Card(Body):
    outcome: cards.CardOutcome


class _Part(Body):
    amount: int = Field(ge=1)


class _Credit(_Part):
    back: credit_notes.Back = credit_notes.Back.REFUND


class _Balance(Body):
    amount: int


class _Refund(Body):
    payment_intent: str
    amount: int | None = Field(default=None, ge=1)
    pending: bool = False


class _RefundEnd(Body):
    outcome: refunds.RefundEnd


class _Dispute(Body):
    payment_intent: str
    amount: int | None = Field(default=None, ge=1)
    warning: bool = False


class _DisputeStep(Body):
    status: disputes.DisputeStatus


def _complete(around: Surroundings, session_id: str, body: _Completion) -> Object:
    session = checkout_sessions.find(around.account, session_id)
    purchase.complete(around.account, session, body.outcome)
    return session


def _redeem(around: Surroundings, session_id: str, body: _Code) -> Object:
    session = checkout_sessions.find(around.account, session_id)
    discounts.redeem(around.account, session, around.account.find(Kind.COUPON, body.coupon, param="coupon"))
    return session


def _settle(around: Surroundings, session_id: str, body: _Settlement) -> Object:
    session = checkout_sessions.find(around.account, session_id)
    purchase.settle(around.account, session, body.outcome)
    return session


def _expire(around: Surroundings, session_id: str, _: Nothing) -> Object:
    session = checkout_sessions.find(around.account, session_id)
    checkout_sessions.expire(around.account, session)
    return session


def _set_card(around: Surroundings, customer_id: str, body: _Card) -> Object:
    customer = customers.find_live(around.account, customer_id)
    cards.set_outcome(around.account, customer, body.outcome)
    return customer


def _billed(account: Account, invoice_id: str) -> tuple[Object, Object]:
    invoice = account.find(Kind.INVOICE, invoice_id)
    return invoice, subscription_of(account, invoice)


def _collect(around: Surroundings, invoice_id: str, body: Collection) -> Object:
    invoice, subscription = _billed(around.account, invoice_id)
    dunning.collect(around.account, invoice, subscription, body.card)
    return invoice


def _settle_debit(around: Surroundings, invoice_id: str, body: _Settlement) -> Object:
    invoice, subscription = _billed(around.account, invoice_id)
    succeeded = body.outcome is purchase.Settlement.SUCCEEDED
    dunning.settle(around.account, invoice, subscription, succeeded=succeeded)
    return invoice


def _void(around: Surroundings, invoice_id: str, _: Nothing) -> Object:
    invoice, subscription = _billed(around.account, invoice_id)
    dunning.void(around.account, invoice, subscription)
    return invoice


def _write_off(around: Surroundings, invoice_id: str, _: Nothing) -> Object:
    invoice, subscription = _billed(around.account, invoice_id)
    dunning.write_off(around.account, invoice, subscription)
    return invoice


def _pay_part(around: Surroundings, invoice_id: str, body: _Part) -> Object:
    invoice, _ = _billed(around.account, invoice_id)
    invoices.pay_part(around.account, invoice, body.amount)
    return invoice


def _pay_elsewhere(around: Surroundings, invoice_id: str, _: Nothing) -> Object:
    invoice, subscription = _billed(around.account, invoice_id)
    dunning.take_payment_elsewhere(around.account, invoice, subscription)
    return invoice


def _credit(around: Surroundings, invoice_id: str, body: _Credit) -> Object:
    invoice, subscription = _billed(around.account, invoice_id)
    credit_notes.credit(around.account, invoice, subscription, body.amount, body.back)
    return invoice


def _add_to_balance(around: Surroundings, customer_id: str, body: _Balance) -> Object:
    customer = customers.find_live(around.account, customer_id)
    balances.add(around.account, customer, body.amount)
    return customer


def _refund(around: Surroundings, _: str, body: _Refund) -> Object:
    params = body.model_dump(exclude_none=True, exclude={"pending"})
    return refunds.create(around.account, params, pending=body.pending)


def _end_refund(around: Surroundings, refund_id: str, body: _RefundEnd) -> Object:
    refund = around.account.find(Kind.REFUND, refund_id)
    refunds.end(around.account, refund, body.outcome)
    return refund


def _dispute(around: Surroundings, _: str, body: _Dispute) -> Object:
    return disputes.create(around.account, body.payment_intent, warning=body.warning, amount=body.amount)


def _move_dispute(around: Surroundings, dispute_id: str, body: _DisputeStep) -> Object:
    dispute = around.account.find(Kind.DISPUTE, dispute_id)
    disputes.move(around.account, dispute, body.status)
    return dispute


_SESSION = "/_control/checkout/sessions/{id}"
_INVOICE = "/_control/invoices/{id}"

CONTROLS = (
    Control("POST", f"{_SESSION}/complete", "pay an open session", _Completion, _complete),
    Control("POST", f"{_SESSION}/redeem", "type a code of a coupon on an open page", _Code, _redeem),
    Control("POST", f"{_SESSION}/settle", "end a payment that is processing", _Settlement, _settle),
    Control("POST", f"{_SESSION}/expire", "expire an open session", Nothing, _expire),
    Control("POST", "/_control/customers/{id}/card", "what charging a customer comes to from now on", _Card, _set_card),
    Control(
        "POST",
        "/_control/customers/{id}/balance",
        "change a balance (minor units); below zero it is the customer's",
        _Balance,
        _add_to_balance,
    ),
    Control("POST", f"{_INVOICE}/pay_part", "pay a part of an open invoice (minor units)", _Part, _pay_part),
    Control("POST", f"{_INVOICE}/pay_elsewhere", "pay an invoice outside Stripe", Nothing, _pay_elsewhere),
    Control(
        "POST", f"{_INVOICE}/credit", "take an amount (minor units) off an invoice, or give it back", _Credit, _credit
    ),
    Control("POST", f"{_INVOICE}/collect", "try again to collect an open invoice", Collection, _collect),
    Control("POST", f"{_INVOICE}/settle", "end a bank debit that is on its way", _Settlement, _settle_debit),
    Control("POST", f"{_INVOICE}/void", "take an open invoice back", Nothing, _void),
    Control("POST", f"{_INVOICE}/mark_uncollectible", "write an open invoice off", Nothing, _write_off),
    Control("POST", "/_control/refunds", "refund a payment, wholly or by amount (minor units)", _Refund, _refund),
    Control(
        "POST", "/_control/refunds/{id}/end", "have a refund succeed, fail or be canceled", _RefundEnd, _end_refund
    ),
    Control("POST", "/_control/disputes", "have the payer dispute a payment; warning: an inquiry", _Dispute, _dispute),
    Control("POST", "/_control/disputes/{id}", "bring a dispute to its next state", _DisputeStep, _move_dispute),
)
