"""One event, row or caller that is in trouble takes no neighbour with it, and no answer is given before it can be right."""

from __future__ import annotations

import asyncio
import itertools
import string
from dataclasses import replace
from random import Random

import psycopg
import pytest

from billing_service.domain.errors import BillingError, OverloadedError
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import NOWHERE, Service, running
from tests.stripe_events import START, event, purchase, session, subscription

NEWER_ROWS = {
    "kind": "UPDATE stripe_objects SET kind = 'quote' WHERE object_id = 'sub_eve'",
    "status": """UPDATE stripe_objects SET payload_view = jsonb_set(payload_view, '{status}', '"of_next_year"')
                 WHERE object_id = 'sub_eve'""",
    "fact": """UPDATE stripe_objects SET facts = '{"of_next_year": 1}' WHERE object_id = 'sub_eve'""",
    "customer": """UPDATE customers SET facts = '{"subscriptions": [{"of": "next year"}]}' WHERE customer_id = 'eve'""",
}


@pytest.mark.parametrize("statement", NEWER_ROWS.values(), ids=NEWER_ROWS)
async def test_a_row_that_a_newer_release_wrote_holds_up_only_its_own_customer(
    service: Service, database_url: str, statement: str
) -> None:
    """It is not quarantined, which would end it with a 200: it comes again, and the newer release takes it."""
    await service.outcomes(*purchase("eve"))
    with psycopg.connect(database_url) as connection:
        connection.execute(statement)
    late = event("customer.subscription.updated", subscription("eve"), created=START + 5, event_id="evt_late")
    neighbours = [asyncio.create_task(service.outcomes(body)) for body in purchase("ann")]
    stuck = asyncio.create_task(service.outcomes(late))
    assert await asyncio.gather(*neighbours) == [["applied"]] * 4
    with pytest.raises(Exception) as raised:  # noqa: PT011 - whatever the row's reader says of it
        await stuck
    assert not isinstance(raised.value, BillingError)
    assert (await service.read("ann")).plan_keys == ("pro",)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM stripe_events WHERE event_id = 'evt_late'").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM quarantined_events").fetchone() == (0,)


async def test_an_id_beyond_what_an_index_holds_is_quarantined_alone(service: Service) -> None:
    noise = "".join(Random(1).choices(string.ascii_letters + string.digits, k=9_000))  # does not compress
    body = subscription("eve", id=f"sub_{noise}")
    too_long = event("customer.subscription.created", body)
    assert await service.outcomes(too_long, *purchase("ann")) == ["quarantined", *["applied"] * 4]


async def test_a_customer_on_a_past_price_keeps_the_plan_from_the_first_answer_after_a_start(
    database_url: str,
) -> None:
    """The lookup key has moved on; only what is remembered says what the price was."""
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO prices VALUES ('price_past', 'pro', 'monthly', 'pro_monthly', true, false)")
    async with running(database_url) as first:
        old = subscription("ann")
        old["items"]["data"][0]["price"] = {"id": "price_past", "object": "price", "lookup_key": None}
        paid = [body for body in purchase("ann") if b"invoice.paid" in body]
        await first.outcomes(event("customer.subscription.updated", old), *paid)
        assert (await first.read("ann")).plan_keys == ("pro",)
    async with running(database_url) as restarted:
        assert (await restarted.read("ann")).plan_keys == ("pro",)


async def test_while_past_prices_could_not_be_loaded_there_is_no_answer_rather_than_a_wrong_one() -> None:
    database = Database("postgresql://nobody@127.0.0.1:9/none")
    async with StripeApi("sk_test_x", NOWHERE) as stripe:
        read = ReadEntitlements(database, Prices(database, stripe, CATALOG), lambda: pytest.fail("it was answered"))
        with pytest.raises(BillingError):
            await read("ann")
    await database.close()


async def test_events_that_name_the_customer_and_events_that_do_not_meet_in_one_lock(database_url: str) -> None:
    """Neither the customer nor a fact of one is lost by the other."""
    async with running(database_url) as one, running(database_url) as two:
        for number in range(60):
            name = f"guest{number}"
            unpaid = session(name, mode="payment", plan="export_pass", payment_status="unpaid")
            nameless = unpaid | {"customer": None}
            await asyncio.gather(
                one.outcomes(event("checkout.session.completed", unpaid)),
                two.outcomes(event("checkout.session.async_payment_failed", nameless, created=START + 9)),
            )
        with psycopg.connect(database_url) as connection:
            kept = connection.execute("""
                SELECT count(*) FILTER (WHERE stripe_customer_id IS NOT NULL),
                       count(*) FILTER (WHERE facts ? 'payment_failed')
                FROM stripe_objects
            """).fetchone()
    assert kept == (60, 60)


async def test_what_waits_is_bounded_in_bytes_too(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = list(itertools.chain(*(purchase(f"c{number}") for number in range(5))))
    for queue in service.fulfill._queues.values():
        monkeypatch.setattr(queue, "limits", replace(queue.limits, waiting_bytes=sum(map(len, bodies)) // 2))
    calls = [asyncio.create_task(service.outcomes(body)) for body in bodies]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(one, OverloadedError) for one in ended)
    assert any(one == ["applied"] for one in ended)
    monkeypatch.undo()
    assert (await service.outcomes(bodies[-1]))[0] in {"applied", "duplicate"}


async def test_what_comes_late_does_not_hold_up_what_happens_now(service: Service, database_url: str) -> None:
    """The writer of the backlog waits for a lock, and somebody who buys meanwhile has it at once."""
    await service.outcomes(*purchase("eve"))
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT 1 FROM customers WHERE customer_id = 'eve' FOR UPDATE")
        body = event("customer.subscription.updated", subscription("eve"), created=START - 3_600, event_id="evt_late")
        late = asyncio.create_task(service.outcomes(body))
        async with asyncio.timeout(5):  # less than a lock is waited for
            assert await service.outcomes(*purchase("ann")) == ["applied"] * 4
        assert not late.done()
        holder.rollback()
    assert await late == ["applied"]
