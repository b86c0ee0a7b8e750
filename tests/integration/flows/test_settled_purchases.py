"""What an event costs does not grow with the one-time purchases of its customer; and leaving those alone changes no answer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from billing_service.domain.facts import gather
from billing_service.domain.observation import observe
from billing_service.domain.views import ObjectKind
from billing_service.flows.link_stripe_customer import LinkStripeCustomer, LinkWish
from billing_service.flows.prices import Prices
from billing_service.flows.reads import Reads
from billing_service.storage import objects
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import Service, running
from tests.integration.flows.test_past_invoices import everything, kept, loaded
from tests.stripe_events import DEPLOYMENT, START, charge, dispute, event, export_pass, purchase, refund, subscription

PASSES = 6
EVENTS = 50


def bought(number: int, **more: Any) -> dict[str, Any]:
    """Give one of several passes that ann bought, each with a payment of its own."""
    return export_pass("ann") | {"id": f"cs_ann_{number}", "payment_intent": f"pi_ann_{number}"} | more


def of_pass(number: int, thing: dict[str, Any]) -> dict[str, Any]:
    """Give a refund, charge or dispute as one of the payment of a pass."""
    ids = {"id": f"{thing['id']}_{number}", "payment_intent": f"pi_ann_{number}"}
    return thing | ids | ({"charge": f"ch_ann_{number}"} if "charge" in thing else {})


async def test_no_more_is_loaded_for_a_customer_of_many_purchases(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    before = len(await loaded(service, "ann"))
    for number in range(30):
        at = START + number
        assert await service.outcomes(event("checkout.session.completed", bought(number), created=at)) == ["applied"]
    assert len(await loaded(service, "ann")) == before
    assert len((await kept(service, "ann")).purchases) == 30


async def test_a_purchase_whose_payment_is_on_its_way_is_loaded_until_it_has_come(service: Service) -> None:
    unpaid = bought(1, payment_status="unpaid")
    await service.outcomes(event("checkout.session.completed", unpaid))
    assert [state.object_id for state in await loaded(service, "ann")] == ["cs_ann_1"]
    await service.outcomes(event("checkout.session.async_payment_succeeded", bought(1), created=START + 5))
    assert await loaded(service, "ann") == []
    assert (await kept(service, "ann")).purchases[0].paid_time == START + 5


@pytest.mark.parametrize(
    ("kind", "thing"),
    [
        ("refund.created", refund("ann", 2500)),
        ("charge.refunded", charge("ann", 2500)),
        ("charge.dispute.created", dispute("ann")),
    ],
)
async def test_what_becomes_of_its_payment_reaches_a_settled_purchase_alone(
    service: Service, kind: str, thing: dict[str, Any]
) -> None:
    await service.outcomes(*(event("checkout.session.completed", bought(n), created=START + n) for n in range(3)))
    assert await service.outcomes(event(kind, of_pass(1, thing), created=START + 10)) == ["applied"]
    found = (await kept(service, "ann")).purchases
    assert [one.fully_refunded or one.dispute is not None for one in found] == [False, True, False]


async def test_the_end_of_its_stripe_customer_ends_a_settled_purchase(service: Service) -> None:
    await service.outcomes(event("checkout.session.completed", bought(1)))
    gone = {"id": "cus_ann", "object": "customer", "deleted": True}
    await service.outcomes(event("customer.deleted", gone, created=START + 5))
    assert (await kept(service, "ann")).purchases[0].customer_deleted


async def test_purchases_that_were_settled_before_anybody_was_known_count_once_somebody_is(service: Service) -> None:
    parked = [bought(n, metadata={"billing_plan_key": "export_pass"}) for n in range(2)]
    outcomes = await service.outcomes(*(event("checkout.session.completed", one) for one in parked))
    assert outcomes == ["parked", "parked"]
    await service.outcomes(event("customer.subscription.created", subscription("ann"), created=START + 5))
    assert len((await kept(service, "ann")).purchases) == 2


async def test_a_purchase_that_the_release_before_wrote_is_loaded_as_it_always_was(
    database_url: str, service: Service
) -> None:
    """It knows nothing of settled ones; what it writes over one leaves the mark, and the customer's row has what it made of it."""
    await service.outcomes(event("checkout.session.completed", bought(1)))
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE stripe_objects SET settled = DEFAULT")
    assert len(await loaded(service, "ann")) == 1
    async with running(database_url) as next_one:
        await next_one.outcomes(*purchase("ann"))
    assert [one.checkout_session_id for one in (await kept(service, "ann")).purchases] == ["cs_ann_1"]


async def test_purchases_go_along_with_a_stripe_customer_that_is_bound_to_somebody_else(service: Service) -> None:
    """By hand: whose it was is left with none of them, and whoever has it since has all."""
    ours = [event("checkout.session.completed", bought(n), created=START + n) for n in range(2)]
    await service.outcomes(*ours, *purchase("ben"))
    seen = observe({"id": "cus_ann", "object": "customer"}, ObjectKind.CUSTOMER)
    prices = Prices(service.database, service.stripe, CATALOG)
    reads = Reads(service.database, service.stripe, prices, DEPLOYMENT, lambda: service.now)
    link = LinkStripeCustomer(service.database, reads, prices, lambda: service.now)
    plans, wish = await prices.plans(), LinkWish("ben", "cus_ann", replace=True)
    await service.database.run(lambda connection: link._link(connection, wish, seen, plans))
    await service.outcomes(event("customer.subscription.updated", subscription("ben"), created=START + 5))
    assert [one.checkout_session_id for one in (await kept(service, "ben")).purchases] == ["cs_ann_0", "cs_ann_1"]
    assert (await kept(service, "ann")).purchases == ()


MANY = """
    INSERT INTO stripe_objects (object_id, kind, stripe_customer_id, payload_terminal, payload_created, payload_rank, payload_event_id,
                                payload_receipt, payload_view, settled)
    SELECT 'cs_' || n, 'checkout.session', 'cus_ann', false, 1, 1, 'evt_1', 1, '{}', true FROM generate_series(1, 900) AS n
"""


@pytest.mark.parametrize("analysed", [False, True])
async def test_what_an_event_loads_is_found_by_an_index_in_which_no_settled_purchase_stands(
    service: Service, database_url: str, *, analysed: bool
) -> None:
    """Whatever is known of the table: nearly all of it may be of one customer."""
    await service.outcomes(event("checkout.session.completed", bought(1)))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(MANY)
        if analysed:
            connection.execute("ANALYZE")
    explain = sa.text(f"EXPLAIN {objects._LOAD.text}")
    values = {"ids": ["cs_ann_2"], "kinds": ["checkout.session"], "customers": ["ann"]}
    found = await service.database.run(lambda connection: connection.execute(explain, values))
    plan = "\n".join(row[0] for row in found)
    assert "stripe_objects_loaded_idx" in plan
    assert "Seq Scan" not in plan


def happenings(draw: random.Random) -> Iterator[bytes]:
    """Give events of purchases as they could come from a Stripe that knows no rules."""
    for _ in range(EVENTS):
        number, at = draw.randrange(PASSES), START + draw.randrange(40)
        match draw.randrange(7):
            case 0:
                waiting = bought(number, payment_status="unpaid")
                yield event("checkout.session.completed", waiting, created=at)
            case 1:
                come = draw.random() < 0.7
                told = bought(number, payment_status="paid" if come else "unpaid")
                yield event(f"checkout.session.async_payment_{'succeeded' if come else 'failed'}", told, created=at)
            case 2:
                nobody = bought(number, metadata={"billing_plan_key": "export_pass"})
                yield event("checkout.session.completed", nobody, created=at)
            case 3:
                status = draw.choice(("succeeded", "failed", "pending"))
                given = refund("ann", draw.choice((1000, 2500)), status, number=draw.randrange(2))
                yield event("refund.updated", of_pass(number, given), created=at)
            case 4:
                status = draw.choice(("needs_response", "lost", "won"))
                yield event("charge.dispute.updated", of_pass(number, dispute("ann", status)), created=at)
            case 5 if draw.random() < 0.3:
                yield event("charge.refunded", of_pass(number, charge("ann", draw.choice((0, 1000, 2500)))), created=at)
            case 6 if draw.random() < 0.1:
                yield event("customer.deleted", {"id": "cus_ann", "object": "customer"}, created=at)
            case _:
                yield event("checkout.session.completed", bought(number), created=at)


@pytest.mark.parametrize("seed", range(12))
async def test_the_facts_are_those_of_all_objects_whatever_came(service: Service, database_url: str, seed: int) -> None:
    """Until somebody is known everything is parked: the subscription names whose it is somewhere on the way."""
    draw = random.Random(f"settled/{seed}")
    events = list(happenings(draw))
    events.insert(draw.randrange(15), event("customer.subscription.created", subscription("ann"), created=START))
    while events:
        size = draw.randint(1, 8)
        now, events = events[:size], events[size:]
        outcomes = await service.outcomes(*now)
        assert set(outcomes) <= {"applied", "parked"}
        if "applied" in outcomes:
            assert await kept(service, "ann") == gather(await everything(service, database_url))
