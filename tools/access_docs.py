"""docs/access.md from billing_service/domain/access.py: `python -m tools.access_docs` writes it, `--check` compares.

The table is what the code looks up, row by row; the effects of the policies are worked out by the code for an example each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path

from billing_service.domain.access import Access, Invoice, SourceState, Verdict, accesses, verdict
from billing_service.domain.catalog import Plan, PlanMode, Policy
from billing_service.domain.facts import CustomerFacts, PurchaseFacts, SubscriptionFacts
from billing_service.domain.frozen import replace
from billing_service.domain.payments import DisputeStanding
from billing_service.domain.views import InvoiceStatus, ItemView, SubscriptionStatus

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "access.md"

DAY = 86_400
PERIOD_END = 30 * DAY
NOW = 10 * DAY  # ten days into a period of thirty
PAID = SubscriptionFacts(
    subscription_id="sub_1",
    status=SubscriptionStatus.ACTIVE,
    start=0,
    items=(ItemView("si_1", "price_1", "pro_monthly", 1, 0, PERIOD_END),),
    cancel_at=None,
    cancel_at_period_end=False,
    ended_at=None,
    trial_end=None,
    invoice_status=InvoiceStatus.PAID,
    invoice_known=True,
    first_payment=False,
    first_payment_settled=True,
    failed_time=None,
    due_time=None,
)
UNSETTLED = replace(PAID, invoice_status=InvoiceStatus.OPEN, first_payment=True, first_payment_settled=False)
PAST_DUE = replace(PAID, status=SubscriptionStatus.PAST_DUE, invoice_status=InvoiceStatus.OPEN, failed_time=NOW)
BOUGHT = PurchaseFacts("cs_1", "pro", 1, 0, 0)


@dataclass(frozen=True)
class Example:
    """What a policy decides, and somebody whom it concerns."""

    key: str  # in the catalog's file
    about: str
    facts: CustomerFacts
    changed: Policy
    value: str  # of the changed policy, as the file has it


def _holding(subscription: SubscriptionFacts) -> CustomerFacts:
    return CustomerFacts(subscriptions=(subscription,))


EXAMPLES = (
    Example("past_due_grace_days", "a renewal that failed ten days into the period", _holding(PAST_DUE),
            Policy(past_due_grace=timedelta(0)), "0"),
    Example("period_end_leeway_hours", "a paid period of thirty days", _holding(PAID),
            Policy(period_end_leeway=timedelta(hours=48)), "48"),
    Example("access_before_settled", "active, the first payment (a bank debit) is on its way", _holding(UNSETTLED),
            Policy(access_before_settled=True), "true"),
    Example("access_while_paused", "status paused", _holding(replace(PAID, status=SubscriptionStatus.PAUSED)),
            Policy(access_while_paused=True), "true"),
    Example("access_while_collection_paused", "active, with `pause_collection`",
            _holding(replace(PAID, collection_paused=True)), Policy(access_while_collection_paused=False), "false"),
    Example("partial_refund_revokes", "a purchase of which a part was refunded",
            CustomerFacts(purchases=(replace(BOUGHT, refunded=1),)), Policy(partial_refund_revokes=True), "true"),
    Example("open_dispute_suspends", "a payment that is disputed", _holding(replace(PAID, dispute=DisputeStanding.OPEN)),
            Policy(open_dispute_suspends=False), "false"),
    Example("lost_dispute_revokes", "a dispute that was lost", _holding(replace(PAID, dispute=DisputeStanding.LOST)),
            Policy(lost_dispute_revokes=False), "false"),
)  # fmt: skip


def render() -> str:
    """Give the page."""
    return "\n".join([*_head(), *_table(), *_words(), *_policies(), ""])


def _head() -> Iterator[str]:
    yield "# Access"
    yield ""
    yield "<!-- Written by `python -m tools.access_docs` from billing_service/domain/access.py; do not edit. -->"
    yield ""
    yield "What a subscription gives is looked up in one table, and ends by itself: each row gives a window of time, not a switch."
    yield "`incomplete_expired` and `canceled` are final for a subscription. Windows are per item, from the item's own period."
    yield ""
    yield "## Subscription status × latest invoice × first payment or renewal → access"
    yield ""


def _table() -> Iterator[str]:
    yield "| status | latest invoice | payment | access |"
    yield "|---|---|---|---|"
    for status in SubscriptionStatus:
        for payment, first in (("first", True), ("renewal", False)):
            yield from _rows(status, payment, first=first)


def _rows(status: SubscriptionStatus, payment: str, *, first: bool) -> Iterator[str]:
    """Give the rows of a status, one for all invoices where these do not matter."""
    rulings = {invoice: verdict(status, invoice, first=first) for invoice in Invoice}
    same_for_both = rulings == {invoice: verdict(status, invoice, first=not first) for invoice in Invoice}
    if same_for_both and not first:
        return
    payment = "either" if same_for_both else payment
    for ruling, group in groupby(sorted(Invoice, key=lambda one: (rulings[one], one.name)), key=rulings.__getitem__):
        invoices = list(group)
        named = "any" if len(invoices) == len(Invoice) else "; ".join(invoice.value for invoice in invoices)
        yield f"| `{status.value}` | {named} | {payment} | {ruling.value} |"


def _words() -> Iterator[str]:
    yield ""
    yield f"“{Verdict.PERIOD.value}”: with the plan's leeway for a late renewal, unless it was cancelled. “{Verdict.TRIAL.value}”: likewise."
    yield f"“{Verdict.GRACE.value}” counts once per invoice: retries do not restart it. One that is sent to be paid fails at no time,"
    yield "whatever who pays has tried on it, and has its grace from when it was due."
    yield "“First” is a subscription of which nothing was ever paid: in its first period, or later where its first invoice was given up, or"
    yield "was sent and is not paid, or its Checkout page still waits for the payment. While that is owed, an invoice of a change that asked"
    yield "for nothing pays for nothing: Stripe credits what was not paid, too. Nor does it pay for a period whose own invoice was given up. What the"
    yield "customer's balance pays for is paid, unless the credit for what was never paid is what is in it. Where only one of a change is known, as of a subscription that was"
    yield "there before this service, another came before it and counts as paid. An extra, which is asked for or credited beside the periods, by hand or"
    yield "as what changes left over, is like a change, but began no period: one that was given up says nothing. An invoice that is “not known yet” is one that Stripe names"
    yield "and that nobody told us of. One of a change that went void (a pending update that expired) says nothing: the one before it counts,"
    yield "unless a period that runs began with the change, which then was made. What is past due and paid gives its period before the subscription says so,"
    yield "if it asked for anything;"
    yield "what is past due by an invoice that nobody told us of has its grace from when the subscription first said it."
    yield "Items of several intervals are renewed by invoices of their own: while one is overdue, an item whose period began before that renewal"
    yield "and is paid keeps its period, so that a month that failed takes no year away."
    yield ""


def _policies() -> Iterator[str]:
    yield "## What a plan's policy decides"
    yield ""
    yield "Worked out for one example each; the period is of thirty days, and ten of them are over."
    yield ""
    yield "| policy | example | by default | otherwise |"
    yield "|---|---|---|---|"
    for one in EXAMPLES:
        default, changed = (_told(_access(one.facts, policy)) for policy in (Policy(), one.changed))
        yield f"| `{one.key}` | {one.about} | {default} | `{one.value}`: {changed} |"
    yield ""
    yield "A dispute that is open counts for a subscription whichever of its invoices it is of; one that was lost until later periods, the latest"
    yield "of them paid, began of everything that its invoice may have been for. That is, as the service knows no lines of invoices: of a renewal's"
    yield "the items whose period began with it, of any other all items that ran. So a year that was charged back is not made up for by another item's month."
    yield "A subscription with access while it is `paused` has it until it is resumed or ends, as a period that no longer runs says nothing;"
    yield "not one of which nothing was ever paid, nor one that Stripe paused because a payment failed, as an account may have it."
    yield "What is given back of a subscription, by a refund or a credit note, takes nothing: whoever is to have it no more is cancelled."
    yield "A full refund of a one-time purchase always revokes it, a refund that fails later gives it back, and a Stripe customer who"
    yield "was deleted has nothing any more. `trial_days` and `one_trial_per_customer` decide how a subscription begins. All of them"
    yield "stand in [the catalog](catalog.md)."


def _access(facts: CustomerFacts, policy: Policy) -> Access:
    plan = Plan("pro", "Pro", "", PlanMode.SUBSCRIPTION, "main", 1, (), {}, frozenset(), False, None, policy)
    resolve: Callable[[str, str | None], Plan | None] = lambda _price, _key: plan  # noqa: E731 - one plan for all
    (access,) = accesses(facts, resolve, lambda _key: plan)
    return access


def _told(access: Access) -> str:
    """Say what a source gives now, and when that ends."""
    source = access.at(datetime.fromtimestamp(NOW, UTC))
    state = f"`{source.state.value}`"
    if not source.gives:
        return f"{state}, gives nothing"
    if source.end_time is None:
        return f"{state}, gives its plan"
    days = (source.end_time - datetime.fromtimestamp(0, UTC)) / timedelta(days=1)
    after = "" if access.after is SourceState.ENDED else f", then `{access.after.value}`"
    return f"{state} until day {days:g}{after}"


def main() -> int:
    """Write the page, or compare it; 1 where it differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether the page is what the code gives")
    page = render()
    if not parser.parse_args().check:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    sys.stderr.write(
        "docs/access.md is not what billing_service/domain/access.py gives: run `python -m tools.access_docs`.\n"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
