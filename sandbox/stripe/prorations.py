"""What a change in the middle of a period costs: a credit for what is left of what was paid, a charge for the rest of the new.

By the second, each line rounded by itself: https://docs.stripe.com/billing/subscriptions/prorations. There are neither taxes
nor discounts here. A credit beyond the charge goes to the customer's balance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from sandbox.stripe import invoices, payment_intents
from sandbox.stripe.account import Account
from sandbox.stripe.cards import DECLINED, CardOutcome, outcome_of
from sandbox.stripe.errors import ApiError
from sandbox.stripe.invoice_shape import Line
from sandbox.stripe.objects import Kind, Object


@dataclass(frozen=True)
class _Part(Line):
    """A line for a part of its period, charged or credited."""

    share: Fraction = Fraction(1)  # of the price; negative for a credit

    @property
    def amount(self) -> int:
        """The line's sum in minor units."""
        return round(int(self.price["unit_amount"]) * self.quantity * self.share)


def charge(account: Account, subscription: Object, items: Sequence[Object]) -> Object:
    """Invoice and collect the change to these items at once; tell what that changes in the subscription.

    Raises ApiError, having changed nothing, when the card is declined: as `payment_behavior=error_if_incomplete` has it.
    """
    balance = account.find(Kind.CUSTOMER, subscription["customer"])["balance"]
    asked = sum(line.amount for line in changed_lines(account, subscription, items)) + balance
    is_charged = subscription["collection_method"] != invoices.SENT
    if asked > 0 and is_charged and outcome_of(account, subscription) is CardOutcome.DECLINED:
        raise ApiError(DECLINED[1], status=402, kind="card_error", code=DECLINED[0])
    invoice = invoice_change(account, subscription, items)
    return {"latest_invoice": invoice["id"]} if invoice else {}


def invoice_change(account: Account, subscription: Object, items: Sequence[Object]) -> Object | None:
    """Invoice the change to these items and try to collect it once; None where it costs nothing and credits nothing.

    The invoice is paid, or open: its payment is on its way or was declined, of which the subscription hears nothing here.
    """
    lines = changed_lines(account, subscription, items)
    if not lines:
        return None
    outcome = outcome_of(account, subscription)
    invoice = invoices.draft(account, subscription, "subscription_update", lines)
    invoices.issue(account, invoice, method=payment_intents.CARD)
    if not invoice["amount_due"] or outcome is CardOutcome.PAID:
        invoices.pay(account, invoice)
    elif invoices.is_sent(invoice):
        pass  # it waits for whoever it was sent to
    elif outcome is CardOutcome.PROCESSING:
        invoices.process(account, invoice)
    else:
        invoices.fail(account, invoice, code=DECLINED[0], message=DECLINED[1])
    return invoice


def changed_lines(account: Account, subscription: Object, items: Sequence[Object]) -> list[Line]:
    """Give the proration lines of a change to these items; none in a trial, which costs nothing."""
    if subscription["status"] == "trialing":
        return []
    before = {item["id"]: item for item in subscription["items"]["data"]}
    after = {item["id"]: item for item in items}
    lines: list[Line] = []
    for item_id in {**before, **after}:
        old, new = before.get(item_id), after.get(item_id)
        if old and new and (old["price"]["id"], old["quantity"]) == (new["price"]["id"], new["quantity"]):
            continue
        lines += [_part(account.time(), old, -1)] if old else []
        lines += [_part(account.time(), new, 1)] if new else []
    return lines


def _part(now: int, item: Object, sign: int) -> _Part:
    start, end = item["current_period_start"], item["current_period_end"]
    left = max(0, end - max(now, start))
    return _Part(
        item["price"],
        item["quantity"],
        max(now, start),
        end,
        item["id"],
        proration=True,
        share=sign * Fraction(left, max(1, end - start)),
    )
