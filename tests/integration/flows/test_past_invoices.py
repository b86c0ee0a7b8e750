"""What an event costs does not grow with the invoices that its customer has paid; and leaving those alone changes no answer."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest

from billing_service.domain.facts import CustomerFacts, gather
from billing_service.domain.merge import ObjectState
from billing_service.domain.views import ObjectKind
from billing_service.storage import customers, objects
from billing_service.storage.database import Connection
from tests.integration.flows.conftest import Service
from tests.stripe_events import MONTH, START, dispute, event, invoice, invoice_payment, purchase, session, subscription

STATUSES = ("open", "uncollectible", "draft")
ENDS = ("paid", "paid", "void", "void")  # of which nothing leads out
REASONS = ("subscription_cycle", "subscription_update", "subscription_update", "subscription_create", "manual")
AMOUNTS = (  # asked for, free, credited, from the customer's balance
    {"amount_due": 900},
    {"amount_due": 0},
    {"amount_due": 0, "starting_balance": 0, "ending_balance": -900},
    {"amount_due": 0, "starting_balance": -900, "ending_balance": 0},
    {"amount_due": 0, "starting_balance": -1500, "ending_balance": 0},
)
TYPES = {
    "paid": "invoice.paid",
    "void": "invoice.voided",
    "uncollectible": "invoice.marked_uncollectible",
    "open": "invoice.payment_failed",
    "draft": "invoice.finalization_failed",
}
INVOICES = 12
EVENTS = 60


async def loaded(service: Service, customer_id: str) -> list[ObjectState]:
    """Give what an event of a customer loads."""

    async def load(connection: Connection) -> list[ObjectState]:
        return await objects.load(connection, {}, {customer_id}, settled_too=False)

    return await service.database.run(load)


async def kept(service: Service, customer_id: str) -> CustomerFacts:
    """Give the facts in the customer's row."""

    async def load(connection: Connection) -> CustomerFacts:
        return (await customers.load(connection, {customer_id}))[customer_id].facts

    return await service.database.run(load)


async def everything(service: Service, database_url: str) -> list[ObjectState]:
    """Give every object that is known."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT object_id, kind FROM stripe_objects").fetchall()

    async def load(connection: Connection) -> list[ObjectState]:
        return await objects.load(connection, {row[0]: ObjectKind(row[1]) for row in rows}, (), settled_too=True)

    return await service.database.run(load)


def renewal(customer_id: str, number: int) -> list[bytes]:
    """Give the events of a paid renewal."""
    at, named = START + number * MONTH, f"in_{customer_id}_{number}"
    paid = invoice(customer_id, id=named, created=at, billing_reason="subscription_cycle")
    tie = invoice_payment(customer_id) | {
        "id": f"inpay_{customer_id}_{number}",
        "invoice": named,
        "payment": {"type": "payment_intent", "payment_intent": f"pi_{customer_id}_{number}"},
    }
    renewed = subscription(customer_id, latest_invoice=named)
    return [
        event("invoice.paid", paid, created=at),
        event("invoice_payment.paid", tie, created=at),
        event("customer.subscription.updated", renewed, created=at),
    ]


async def test_no_more_is_loaded_for_a_customer_of_many_years(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    counts = []
    for number in range(1, 31):
        assert set(await service.outcomes(*renewal("ann", number))) == {"applied"}
        counts.append(len(await loaded(service, "ann")))
    assert counts[-1] == counts[4]
    assert counts[-1] < 8


async def test_a_dispute_of_the_latest_invoice_counts_although_the_invoice_is_past(service: Service) -> None:
    await service.outcomes(*purchase("ann"), *renewal("ann", 1), *renewal("ann", 2))
    disputed = dispute("ann", "lost") | {"payment_intent": "pi_ann_2", "charge": None}
    await service.outcomes(event("charge.dispute.closed", disputed, created=START + 3 * MONTH))
    assert (await kept(service, "ann")).subscriptions[0].dispute is not None


async def test_a_subscription_that_comes_after_its_invoices_finds_them(service: Service) -> None:
    """They were past before it was known; it says which is the latest, and one that was paid settles it."""
    created, paid, updated, completed = purchase("ann")
    first, _, renewed = renewal("ann", 1)
    await service.outcomes(paid)
    await service.outcomes(first)
    await service.outcomes(completed)
    await service.outcomes(renewed)
    facts = (await kept(service, "ann")).subscriptions[0]
    assert (facts.invoice_status, facts.invoice_known, facts.first_payment_settled) == ("paid", True, True)
    await service.outcomes(created, updated)
    assert (await kept(service, "ann")).subscriptions[0].invoice_status == "paid"


async def test_what_went_void_before_a_dropped_change_still_decides(service: Service) -> None:
    """The latest invoice is of a change that was dropped: the one before it says how the period stands, past or not."""
    given_up = invoice("ann", "void", id="in_ann_1", created=START + MONTH, billing_reason="subscription_cycle")
    dropped = invoice("ann", "void", id="in_ann_2", created=START + 2 * MONTH, billing_reason="subscription_update")
    await service.outcomes(
        *purchase("ann"),
        event("invoice.voided", given_up, created=START + MONTH),
        event("invoice.voided", dropped, created=START + 2 * MONTH),
    )
    latest = subscription("ann", latest_invoice="in_ann_2")
    await service.outcomes(event("customer.subscription.updated", latest, created=START + 2 * MONTH))
    assert (await kept(service, "ann")).subscriptions[0].invoice_status == "void"


async def test_a_change_that_began_a_period_unpaid_decides_after_another_was_dropped(service: Service) -> None:
    """Both went void and are past; nothing of what comes later names the one that counts."""
    began, latest = START + MONTH, START + 2 * MONTH
    await service.outcomes(*purchase("ann"))
    there = subscription("ann", latest_invoice="in_ann_2")
    there["items"]["data"][0] |= {"current_period_start": began, "current_period_end": began + 12 * MONTH}
    for number, created in ((1, began), (2, latest)):
        bill = invoice("ann", "open", id=f"in_ann_{number}", created=created, billing_reason="subscription_update")
        await service.outcomes(event("invoice.payment_failed", bill, created=created + 1))
        await service.outcomes(event("invoice.voided", bill | {"status": "void"}, created=created + 5))
    for later in (0, MONTH):  # the subscription is heard of with its period only after both; and once more
        await service.outcomes(event("customer.subscription.updated", there, created=latest + 9 + later))
        facts = (await kept(service, "ann")).subscriptions[0]
        assert (facts.invoice_status, facts.invoice_failed, facts.failed_time) == ("void", True, began + 1)


async def test_a_first_invoice_that_went_void_counts_until_another_is_paid(service: Service) -> None:
    """What comes after it is past as well, and names it no more."""
    created, _, updated, _ = purchase("ann")
    await service.outcomes(created, updated, event("invoice.voided", invoice("ann", "void"), created=START + 5))
    for number in (1, 2):
        bill = invoice(
            "ann", "void", id=f"in_ann_{number}", created=START + number * MONTH, billing_reason="subscription_cycle"
        )
        there = subscription("ann", latest_invoice=f"in_ann_{number}", start=START + number * MONTH)
        await service.outcomes(
            event("invoice.voided", bill, created=START + number * MONTH + 5),
            event("customer.subscription.updated", there | {"start_date": START}, created=START + number * MONTH),
        )
        assert (await kept(service, "ann")).subscriptions[0].first_payment
    again = subscription("ann", latest_invoice="in_ann_2", start=START + 2 * MONTH) | {"start_date": START}
    await service.outcomes(event("customer.subscription.updated", again, created=START + 2 * MONTH + 9))
    assert (await kept(service, "ann")).subscriptions[0].first_payment


async def test_a_renewal_that_was_given_up_decides_although_an_extra_was_since(service: Service) -> None:
    """And something that asked for nothing is the latest: that nobody pays for the period is not forgotten with the extra."""
    await service.outcomes(*purchase("ann"))
    for number, reason in ((1, "subscription_cycle"), (2, "manual")):
        at = START + MONTH + number
        bill = invoice("ann", "open", id=f"in_ann_{number}", created=at, billing_reason=reason)
        await service.outcomes(event("invoice.payment_failed", bill, created=at))
        await service.outcomes(event("invoice.voided", bill | {"status": "void"}, created=at + 5))
    at = START + MONTH + 90
    free = invoice("ann", id="in_ann_3", created=at, billing_reason="subscription_update", amount_due=0)
    await service.outcomes(event("invoice.paid", free, created=at))
    there = subscription("ann", latest_invoice="in_ann_3", start=START + MONTH) | {"start_date": START}
    for later in (0, 1):  # once more, from what was kept
        await service.outcomes(event("customer.subscription.updated", there, created=at + later))
        facts = (await kept(service, "ann")).subscriptions[0]
        assert (facts.invoice_status, facts.invoice_failed, facts.failed_time) == ("void", True, START + MONTH + 1)


async def test_a_credit_for_what_was_never_paid_is_remembered_while_it_pays(service: Service) -> None:
    """The first debit came back, and what was credited of it by a change covers month after month."""
    created, _, updated, _ = purchase("ann")
    changed = invoice("ann", id="in_ann_0", created=START + 2, billing_reason="subscription_update")
    changed |= {"amount_due": 0, "starting_balance": 0, "ending_balance": -9000}
    await service.outcomes(created, updated, event("invoice.paid", changed, created=START + 2))
    await service.outcomes(event("invoice.voided", invoice("ann", "void"), created=START + 5))
    for number in range(1, 7):
        at, moved = START + number * MONTH, {"starting_balance": -9000, "ending_balance": -7800}
        bill = invoice("ann", id=f"in_ann_{number}", created=at, billing_reason="subscription_cycle", amount_due=0)
        there = subscription("ann", latest_invoice=f"in_ann_{number}", start=at) | {"start_date": START}
        await service.outcomes(
            event("invoice.paid", bill | moved, created=at), event("customer.subscription.updated", there, created=at)
        )
        facts = (await kept(service, "ann")).subscriptions[0]
        assert (facts.first_payment, facts.first_payment_settled) == (True, False)
    bill = invoice("ann", id="in_ann_7", created=START + 7 * MONTH, billing_reason="subscription_cycle")
    await service.outcomes(event("invoice.paid", bill, created=START + 7 * MONTH))
    assert (await kept(service, "ann")).subscriptions[0].first_payment_settled


def happenings(draw: random.Random) -> Iterator[bytes]:
    """Give events of a subscription and its invoices as they could come from a Stripe that knows hardly any rules."""
    ends = [(draw.choice(ENDS), START + draw.randrange(40) * 86_400) for _ in range(INVOICES)]
    kinds = [{"billing_reason": draw.choice(REASONS)} | draw.choice(AMOUNTS) for _ in range(INVOICES)]
    for _ in range(EVENTS):
        number, at = draw.randrange(INVOICES), START + draw.randrange(40) * 86_400
        match draw.randrange(4):
            case 0:
                there = subscription("ann", draw.choice(("active", "past_due")), latest_invoice=f"in_ann_{number}")
                begin = START + draw.randrange(INVOICES // 2) * MONTH
                there["items"]["data"][0] |= {"current_period_start": begin, "current_period_end": begin + MONTH}
                yield event("customer.subscription.updated", there, created=at)
            case 1 if draw.random() < 0.3:
                tie = invoice_payment("ann") | {"id": f"inpay_{number}", "invoice": f"in_ann_{number}"}
                yield event("invoice_payment.paid", tie, created=at)
            case 2 if draw.random() < 0.3:
                status = draw.choice(("needs_response", "lost", "won"))
                yield event("charge.dispute.updated", dispute("ann", status), created=at)
            case _:
                end, ends_at = ends[number]
                status = end if at >= ends_at else draw.choice(STATUSES)
                created = START + number // 2 * MONTH
                told = invoice("ann", status, id=f"in_ann_{number}", created=created, **kinds[number])
                yield event(TYPES[status], told, created=at)


@pytest.mark.parametrize("seed", range(12))
async def test_the_facts_are_those_of_all_objects_whatever_came(service: Service, database_url: str, seed: int) -> None:
    draw = random.Random(f"past/{seed}")
    await service.outcomes(event("customer.subscription.created", subscription("ann", "incomplete"), created=START - 1))
    if seed % 2:  # a page whose payment is awaited: what asks for nothing is no payment then
        await service.outcomes(event("checkout.session.completed", session("ann", payment_status="unpaid")))
    events = list(happenings(draw))
    while events:
        size = draw.randint(1, 12)
        now, events = events[:size], events[size:]
        assert set(await service.outcomes(*now)) <= {"applied", "parked"}
        assert await kept(service, "ann") == gather(await everything(service, database_url))
