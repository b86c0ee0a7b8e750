"""Re-reads: what the webhooks did not say is asked of Stripe, once per object, within one budget, and never lost."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from aiohttp import web

from billing_service.domain.access import SourceState
from billing_service.domain.views import ObjectKind
from billing_service.flows.fulfill import Fulfill, Outcome
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.reads import Reads
from billing_service.flows.refresh import Refresh
from billing_service.flows.request_budget import Budget
from billing_service.storage import rereads
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from sandbox.stripe.app import StandInStripe
from tests.integration.flows.catalog import CATALOG
from tests.stripe_events import START, event, invoice, refund, subscription
from tests.stripe_proxy import Forward, StripeProxy, fail, held, proxied

KEY = "sk_test_refresh"
PLENTY = Budget(rate_per_s=1_000_000, burst=1_000, reserve=0)


class World:
    """A service with its re-reads, in front of a stand-in whose webhooks go nowhere: events come as a test says."""

    def __init__(self, url: str, database: Database, database_url: str, stripe: StripeApi, proxy: StripeProxy) -> None:
        self.url = url
        self.database = database
        self.database_url = database_url
        self.proxy = proxy
        self.stripe = stripe
        prices = self.prices = Prices(database, stripe, CATALOG)
        now = lambda: datetime.now(UTC)  # noqa: E731 - the clock, in one line
        self.fulfill = Fulfill(database, prices, "default", now)
        self.read = ReadEntitlements(database, prices, now)
        self.reads = Reads(database, stripe, prices, "default", now)
        self.refresh = Refresh(database, stripe, self.reads, PLENTY)

    async def call(self, method: str, path: str, **data: Any) -> dict[str, Any]:
        """Call the stand-in directly; controls take JSON, the API a form."""
        kind = {"json": data} if path.startswith("/_control") else {"data": data} if data else {}
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session,
            session.request(method, self.url + path, **kind) as answer,  # type: ignore[arg-type] # one of the two
        ):
            assert answer.status == 200, await answer.text()
            body: dict[str, Any] = await answer.json()
            return body

    async def buy(
        self,
        customer: str,
        lookup_key: str = "pro_monthly",
        mode: str = "subscription",
        outcome: str = "paid",
        cus: str | None = None,
    ) -> str:
        """Have a customer buy at Stripe, as the service would have sent him; gives the session's id. `cus`: as whom, where he is known there."""
        price = (await self.call("GET", f"/v1/prices?lookup_keys[]={lookup_key}"))["data"][0]["id"]
        cus = cus or (await self.call("POST", "/v1/customers", **{"metadata[billing_customer_id]": customer}))["id"]
        ours = {
            "billing_deployment": "default", "billing_customer_id": customer,
            "billing_plan_key": "pro" if mode == "subscription" else "export_pass", "billing_quantity": "1",
        }  # fmt: skip
        made = await self.call(
            "POST", "/v1/checkout/sessions",
            **{"mode": mode, "customer": cus, "line_items[0][price]": price, "line_items[0][quantity]": "1",
               "success_url": "https://shop.example/"},
            **{f"metadata[{key}]": value for key, value in ours.items()},
            **({f"subscription_data[metadata][{key}]": value for key, value in ours.items()}
               if mode == "subscription" else {}),
        )  # fmt: skip
        await self.call("POST", f"/_control/checkout/sessions/{made['id']}/complete", outcome=outcome)
        return str(made["id"])

    async def events(self, *types: str) -> list[bytes]:
        """Give the bodies of Stripe's events of these types, the oldest first; of all where none is named."""
        found = (await self.call("GET", "/v1/events?limit=100"))["data"]
        return [json.dumps(event).encode() for event in found[::-1] if not types or event["type"] in types]

    async def hear_all(self) -> None:
        """Have every event come that Stripe has sent so far."""
        await self.fulfill(await self.events())

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement and give its rows."""
        with psycopg.connect(self.database_url) as connection:
            cursor = connection.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []

    async def serve_all(self) -> None:
        """Make everything due, and serve until the queue is empty."""
        for _ in range(100):
            self.sql("UPDATE rereads SET due_time = now() - interval '1 second'")
            if not await self.refresh.drain():
                return


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        stand_in = StandInStripe(KEY)
        url = await stand_in.start()
        stack.push_async_callback(stand_in.stop)
        stand_in.seed(tomllib.loads((Path(__file__).parents[3] / "catalog.toml").read_text()))
        proxy = await stack.enter_async_context(proxied(url))
        database = Database(database_url)
        stack.push_async_callback(database.close)
        stripe = await stack.enter_async_context(StripeApi(KEY, proxy.url))
        one = World(url, database, database_url, stripe, proxy)
        writer = asyncio.create_task(one.fulfill.run())
        stack.push_async_callback(lambda: writer)
        stack.push_async_callback(one.fulfill.close)
        yield one


async def test_a_subscription_whose_events_were_all_lost_is_read(world: World) -> None:
    await world.buy("ann")
    await world.fulfill(await world.events("checkout.session.completed"))
    assert (await world.read("ann")).plan_keys == ("free",)
    await world.serve_all()
    assert (await world.read("ann")).plan_keys == ("pro",)
    assert world.sql("SELECT object_id FROM rereads") == []


async def test_a_change_that_a_read_made_is_kept_as_such_with_the_state_before_and_after(world: World) -> None:
    """The pause was told by no event: the re-read makes the change, and the history puts it down to the object that was read."""
    session_id = await world.buy("ann")
    await world.fulfill(await world.events())
    subscription_id = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["subscription"]
    await world.call("POST", "/_control/clock", advance_s=60)
    await world.call("POST", f"/_control/subscriptions/{subscription_id}/pause")
    await world.reads.object(ObjectKind.SUBSCRIPTION, subscription_id)
    kept = world.sql("""
        SELECT revision, cause, cause_id,
               jsonb_path_query_first(before, '$.lines[*] ? (@.feature_key == "projects").value'),
               jsonb_path_query_first(after, '$.lines[*] ? (@.feature_key == "projects").value')
        FROM entitlement_changes ORDER BY position
    """)
    assert kept[-1] == (2, "read", subscription_id, 50, 3)
    assert [row[1] for row in kept] == ["event", "read"]


async def test_two_payloads_of_one_second_ask_for_a_read_at_once(world: World) -> None:
    await world.buy("ann")
    await world.fulfill(await world.events())
    due = world.sql("SELECT kind FROM rereads WHERE due_time <= now() AND kind = 'subscription'")
    assert due == [("subscription",)]


async def of_many_items(world: World, count: int) -> str:
    """Have ann buy, and somebody in the dashboard add so many items to what she has; give its id."""
    await world.buy("ann")
    await world.fulfill(await world.events())
    await world.serve_all()
    await world.call("POST", "/_control/clock", advance_s=60)
    (bought,) = (await world.call("GET", "/v1/subscriptions"))["data"]
    product = bought["items"]["data"][0]["price"]["product"]
    price = {"product": product, "currency": "eur", "unit_amount": 100, "recurring[interval]": "month"}
    added = [(await world.call("POST", "/v1/prices", **price))["id"] for _ in range(count)]
    items = {f"items[{number}][price]": price_id for number, price_id in enumerate(added)}
    await world.call("POST", f"/v1/subscriptions/{bought['id']}", **items)
    return str(bought["id"])


def items_of_ann(world: World) -> int:
    ((count,),) = world.sql("SELECT jsonb_array_length(facts #> '{subscriptions,0,items}') FROM customers")
    return int(count)


async def test_a_subscription_of_more_items_than_an_event_shows_is_read_at_once_with_all_of_them(world: World) -> None:
    """Stripe shows ten; twenty may be in one. The event counts, and is no reason for anybody to be called."""
    await of_many_items(world, 13)
    body = (await world.events("customer.subscription.updated"))[-1]
    assert json.loads(body)["data"]["object"]["items"]["has_more"]
    (result,) = await world.fulfill([body])
    assert (result.outcome, items_of_ann(world)) == (Outcome.APPLIED, 1)
    assert world.sql("SELECT kind FROM rereads WHERE due_time <= now()") == [("subscription",)]
    assert await world.refresh.drain()
    assert items_of_ann(world) == 14


async def test_a_change_of_a_subscription_of_many_items_is_folded_with_all_of_them(world: World) -> None:
    """What Stripe answers to it has ten."""
    subscription_id = await of_many_items(world, 13)
    change = lambda: world.stripe.update_subscription(subscription_id, {"cancel_at_period_end": "true"}, "key-1")  # noqa: E731 - one line says it
    answer = await world.reads.changed_subscription(subscription_id, change)
    assert (len(answer["items"]["data"]), items_of_ann(world)) == (14, 14)


async def test_a_body_with_one_period_for_several_items_is_followed_by_a_read_at_once(world: World) -> None:
    """One of a month and one of a year; the old version has a single period. Torture found it, seed 163."""
    await world.buy("ann")
    await world.fulfill(await world.events())
    await world.serve_all()
    await world.call("POST", "/_control/clock", advance_s=60)
    (bought,) = (await world.call("GET", "/v1/subscriptions"))["data"]
    yearly = (await world.call("GET", "/v1/prices?lookup_keys[]=pro_yearly"))["data"][0]["id"]
    changed = await world.call("POST", f"/v1/subscriptions/{bought['id']}", **{"items[0][price]": yearly})
    ends = {item["id"]: item["current_period_end"] for item in changed["items"]["data"]}
    assert len(set(ends.values())) == 2
    body = json.loads((await world.events("customer.subscription.updated"))[-1])
    old = body["data"]["object"]
    old["current_period_start"], old["current_period_end"] = (
        old["items"]["data"][0][name] for name in ("current_period_start", "current_period_end")
    )
    for item in old["items"]["data"]:
        del item["current_period_start"], item["current_period_end"]
    await world.fulfill([json.dumps(body).encode()])
    assert await world.refresh.drain()
    ((facts,),) = world.sql("SELECT facts FROM customers WHERE customer_id = 'ann'")
    assert {item["item_id"]: item["period_end"] for item in facts["subscriptions"][0]["items"]} == ends


async def sent_monthly(world: World) -> dict[str, Any]:
    """Have somebody in the dashboard subscribe ann, who is sent invoices and has 45 days to pay each; gives it a month later."""
    price = (await world.call("GET", "/v1/prices?lookup_keys[]=pro_monthly"))["data"][0]["id"]
    ours = {"metadata[billing_deployment]": "default", "metadata[billing_customer_id]": "ann"}
    cus = (await world.call("POST", "/v1/customers", **ours))["id"]
    terms = {"collection_method": "send_invoice", "days_until_due": "45", "items[0][price]": price, **ours}
    return await world.call("POST", "/v1/subscriptions", customer=cus, **terms)


async def known_of_ann(world: World) -> dict[str, Any]:
    """Give the facts of ann's subscription, once everything is read that was asked for."""
    await world.serve_all()
    ((facts,),) = world.sql("SELECT facts FROM customers WHERE customer_id = 'ann'")
    (found,) = facts["subscriptions"]
    return dict(found)


async def test_an_invoice_that_was_seen_as_a_draft_is_read_again_once_it_is_the_latest_no_more(world: World) -> None:
    """That it was sent nobody tells, nor when it is due, and by then it is owed."""
    made = await sent_monthly(world)
    await world.fulfill(await world.events())
    assert (await known_of_ann(world))["invoice_status"] == "draft"
    await world.call("POST", "/_control/clock", advance_s=32 * 86_400)
    await world.fulfill((await world.events("customer.subscription.updated"))[-1:])
    first = await world.call("GET", f"/v1/invoices/{made['latest_invoice']}")
    facts = await known_of_ann(world)
    assert (facts["first_payment"], facts["due_time"]) == (True, first["due_date"])


async def test_the_first_invoice_is_asked_for_though_the_subscription_is_told_of_with_its_second(world: World) -> None:
    """The event of the beginning comes last. Who never paid the first has paid nothing."""
    await sent_monthly(world)
    (created,) = await world.events("customer.subscription.created")
    await world.call("POST", "/_control/clock", advance_s=32 * 86_400)
    for body in (*await world.events("customer.subscription.updated"), created):
        await world.fulfill([body])
    assert (await known_of_ann(world))["first_payment"] is True


async def test_a_read_never_moves_an_answer_that_was_right(world: World) -> None:
    await world.buy("ann")
    await world.fulfill(await world.events())
    before = await world.read("ann")
    await world.serve_all()
    after = await world.read("ann")
    assert (after.plan_keys, after.revision) == (before.plan_keys, before.revision)


async def test_a_read_hides_no_payload_of_its_second_where_our_clock_runs_ahead(world: World) -> None:
    """The pause was made in the second of the read's answer, after it, and its webhook comes after the read."""
    session_id = await world.buy("ann")
    await world.fulfill(await world.events())
    subscription_id = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["subscription"]
    await world.call("POST", "/_control/clock", advance_s=10)
    ahead = Reads(
        world.database, world.stripe, world.prices, "default", lambda: datetime.now(UTC) + timedelta(seconds=15)
    )
    await ahead.object(ObjectKind.SUBSCRIPTION, subscription_id)
    ((answered,),) = world.sql("SELECT read_time FROM stripe_objects WHERE kind = 'subscription'")
    await world.call("POST", f"/_control/subscriptions/{subscription_id}/pause")
    paused = [json.loads(body) | {"created": answered} for body in await world.events("customer.subscription.paused")]
    await world.fulfill([json.dumps(event).encode() for event in paused])
    assert [source.state for source in (await world.read("ann")).sources if source.stripe_id] == [SourceState.PAUSED]


async def test_a_request_that_comes_while_the_object_is_being_read_is_not_lost(world: World) -> None:
    await world.buy("ann")
    await world.fulfill(await world.events("checkout.session.completed"))
    ((subscription_id,),) = world.sql("SELECT object_id FROM rereads WHERE kind = 'subscription'")
    world.sql("DELETE FROM rereads WHERE kind <> 'subscription'")
    world.sql("UPDATE rereads SET due_time = now()")
    arrived, go = asyncio.Event(), asyncio.Event()
    world.proxy.next("GET", f"/v1/subscriptions/{subscription_id}", held(arrived, go))
    reading = asyncio.create_task(world.refresh.drain())
    await arrived.wait()
    await world.fulfill(await world.events("customer.subscription.updated"))
    go.set()
    await reading
    left = world.sql("SELECT object_id, lease_time FROM rereads WHERE kind = 'subscription'")
    assert left == [(subscription_id, None)]


async def test_a_worker_that_comes_back_late_takes_no_later_request_away(world: World) -> None:
    """Its lease ran out, another served the request, and then somebody asked again: a number is never given twice."""
    ask = [rereads.Ask("sub_1", ObjectKind.SUBSCRIPTION, 0)]
    await world.database.run(lambda c: rereads.ask(c, ask))
    (late,) = await world.database.run(lambda c: rereads.claim(c, 1))
    world.sql("UPDATE rereads SET lease_time = now() - interval '1 second'")
    (other,) = await world.database.run(lambda c: rereads.claim(c, 1))
    await world.database.run(lambda c: rereads.done(c, other))
    await world.database.run(lambda c: rereads.ask(c, ask))
    await world.database.run(lambda c: rereads.done(c, late))
    assert world.sql("SELECT object_id FROM rereads") == [("sub_1",)]


async def test_one_who_waits_and_comes_back_late_takes_no_later_request_away(world: World) -> None:
    """The same where the request was made by somebody who waits for the answer."""
    now = int(datetime.now(UTC).timestamp())
    late = await world.database.run(lambda c: rereads.claim_now(c, "sub_1", ObjectKind.SUBSCRIPTION, now))
    assert late is not None
    await world.database.run(lambda c: rereads.done(c, late))
    await world.database.run(lambda c: rereads.ask(c, [rereads.Ask("sub_1", ObjectKind.SUBSCRIPTION, 0)]))
    await world.database.run(lambda c: rereads.done(c, late))
    assert world.sql("SELECT object_id FROM rereads") == [("sub_1",)]


async def test_a_later_request_puts_off_nothing_that_is_due(world: World) -> None:
    """What is to be verified in a quarter of an hour may be what is missing now."""
    for delay_s in (0, 900):
        ask = [rereads.Ask("sub_1", ObjectKind.SUBSCRIPTION, delay_s)]
        await world.database.run(lambda c, ask=ask: rereads.ask(c, ask))  # type: ignore[misc] # bound now
    (claimed,) = await world.database.run(lambda c: rereads.claim(c, 1))
    assert claimed.object_id == "sub_1"


async def test_two_workers_share_the_queue_and_a_dead_ones_lease_runs_out(world: World) -> None:
    await world.database.run(lambda c: rereads.ask(c, [rereads.Ask("sub_1", ObjectKind.SUBSCRIPTION, 0)]))
    first = await world.database.run(lambda c: rereads.claim(c, 8))
    second = await world.database.run(lambda c: rereads.claim(c, 8))
    assert ([one.object_id for one in first], second) == (["sub_1"], [])
    world.sql("UPDATE rereads SET lease_time = now() - interval '1 second'")
    assert await world.database.run(lambda c: rereads.claim(c, 8)) == first


async def test_what_stripe_does_not_know_becomes_a_finding_and_what_is_known_stays(world: World) -> None:
    await world.buy("ann")
    await world.fulfill(await world.events())
    world.sql("DELETE FROM rereads")
    world.sql("INSERT INTO rereads (object_id, kind) VALUES ('sub_gone', 'subscription')")
    await world.serve_all()
    assert world.sql("SELECT kind, subject FROM findings") == [("denied_by_stripe", "sub_gone")]
    assert (await world.read("ann")).plan_keys == ("pro",)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_answer_of_401_403_or_404_is_never_an_observation(world: World, status: int) -> None:
    """A key without a permission, or a wrong account, must not take away what somebody paid for."""
    await world.buy("ann")
    await world.fulfill(await world.events())
    ((sub,),) = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription'")
    before = await world.read("ann")
    world.sql("DELETE FROM rereads WHERE kind <> 'subscription'")
    world.sql("UPDATE rereads SET due_time = now()")

    async def deny(_request: web.Request, _forward: Forward) -> web.StreamResponse:
        return web.json_response({"error": {"type": "invalid_request_error", "message": "no"}}, status=status)

    world.proxy.next("GET", f"/v1/subscriptions/{sub}", deny)
    assert await world.refresh.drain() == 1
    assert world.sql("SELECT kind, subject FROM findings") == [("denied_by_stripe", sub)]
    assert world.sql("SELECT read_view FROM stripe_objects WHERE kind = 'subscription'") == [(None,)]
    after = await world.read("ann")
    assert (after.plan_keys, after.revision) == (before.plan_keys, before.revision) == (("pro",), before.revision)
    left = [] if status == 404 else [(sub,)]  # a key is mended one day
    assert world.sql("SELECT object_id FROM rereads") == left


async def test_a_read_that_fails_is_put_off_and_never_given_up(world: World) -> None:
    session_id = await world.buy("ann")
    await world.fulfill(await world.events("checkout.session.completed"))
    world.sql("DELETE FROM rereads WHERE kind <> 'checkout.session'")
    world.sql("UPDATE rereads SET due_time = now()")
    world.proxy.next("GET", f"/v1/checkout/sessions/{session_id}", fail)
    await world.refresh.drain()
    assert world.sql("SELECT attempts, due_time > now(), lease_time FROM rereads") == [(1, True, None)]


async def test_an_object_that_the_database_refuses_is_put_off_and_holds_up_nobody(world: World) -> None:
    """Twice as long each time; without that it would be asked for anew with each lease that ends."""
    session_id = await world.buy("ann")
    await world.fulfill(await world.events("checkout.session.completed"))
    world.sql(f"DELETE FROM rereads; INSERT INTO rereads (object_id, kind) VALUES ('{session_id}', 'checkout.session')")  # noqa: S608 - of the test's own

    async def refused(_request: web.Request, forward: Forward) -> web.StreamResponse:
        body = json.loads((await forward()).body)  # type: ignore[arg-type] # the proxy's are bytes
        body["metadata"]["billing_plan_key"] = "pro\u0000"
        return web.json_response(body)

    world.proxy.next("GET", f"/v1/checkout/sessions/{session_id}", refused)
    assert await world.refresh.drain() == 1
    assert world.sql("SELECT attempts, lease_time, due_time > now() FROM rereads") == [(1, None, True)]


async def test_what_a_newer_release_asked_for_is_left_to_it_and_holds_up_nothing(world: World) -> None:
    """As it is after going back to the release before."""
    await world.buy("ann")
    await world.fulfill(await world.events("checkout.session.completed"))
    world.sql("INSERT INTO rereads (object_id, kind, due_time) VALUES ('qt_1', 'quote', now() - interval '1 day')")
    await world.serve_all()
    assert (await world.read("ann")).plan_keys == ("pro",)
    assert world.sql("SELECT object_id, attempts FROM rereads") == [("qt_1", 0)]


async def test_the_budget_is_shared_and_keeps_its_reserve(world: World, database_url: str) -> None:
    world.sql("UPDATE stripe_budget SET tokens = 7, update_time = now()")
    other = Database(database_url)
    taken = 0
    for database in (world.database, other) * 5:
        taken += await database.run(lambda c: rereads.take_budget(c, rate_per_s=0.0, burst=20, reserve=4))
    await other.close()
    assert taken == 3


async def test_an_empty_budget_puts_nothing_off_as_if_it_had_failed(world: World) -> None:
    """What could not be tried stays due, keeps its place and counts no attempt; the worker rests."""
    asks = [rereads.Ask(f"sub_{n}", ObjectKind.SUBSCRIPTION, 0) for n in range(3)]
    await world.database.run(lambda c: rereads.ask(c, asks))
    world.sql("UPDATE stripe_budget SET tokens = 0, update_time = now()")
    poor = Refresh(world.database, world.stripe, world.reads, Budget(rate_per_s=0.0, burst=20, reserve=0))
    before = world.sql("SELECT object_id, due_time, attempts, lease_time FROM rereads ORDER BY 1")
    assert await poor.drain() == 0
    assert world.sql("SELECT object_id, due_time, attempts, lease_time FROM rereads ORDER BY 1") == before


async def test_a_refund_whose_purchase_was_never_heard_of_is_followed_back_to_it(world: World) -> None:
    session_id = await world.buy("ann", "export_pass", "payment")
    payment = (await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["payment_intent"]
    await world.fulfill(await world.events("customer.created"))
    await world.call("POST", "/_control/refunds", payment_intent=payment)
    outcomes = await world.fulfill(await world.events("refund.created"))
    assert [result.outcome.value for result in outcomes] == ["parked"]
    await world.serve_all()
    states = [source.state.value for source in (await world.read("ann")).sources if source.stripe_id]
    assert states == ["refunded"]


async def test_a_subscription_of_which_nothing_but_an_invoice_was_heard_is_read(world: World) -> None:
    """The invoice says whose it is, so that it is nobody's riddle; what it is for was told by events that were lost."""
    await world.buy("ann")
    await world.fulfill(await world.events("invoice.paid"))
    assert (await world.read("ann")).plan_keys == ("free",)
    await world.serve_all()
    assert (await world.read("ann")).plan_keys == ("pro",)


async def test_a_subscription_of_somebody_who_is_not_known_is_not_read_with_each_of_its_invoices(world: World) -> None:
    """Another product of the same account: its invoice is read once, to see whose it is."""
    theirs: dict[str, Any] = {
        "parent": {"type": "subscription_details", "subscription_details": {"subscription": "sub_them"}}
    }
    await world.fulfill([event("customer.subscription.created", subscription("them", metadata={}))])
    world.sql("DELETE FROM rereads")
    await world.fulfill([event("invoice.paid", invoice("them", **theirs))])
    assert world.sql("SELECT object_id FROM rereads") == [("in_them",)]


async def told_without_its_link(world: World) -> str:
    """Have Ann subscribe, and all be heard but what ties the payment to the invoice; gives the payment."""
    await world.buy("ann")
    await world.fulfill([body for body in await world.events() if type_of(body) != "invoice_payment.paid"])
    await world.serve_all()
    payment = (await world.call("GET", "/v1/invoice_payments"))["data"][0]["payment"]["payment_intent"]
    return str(payment)


def type_of(body: bytes) -> str:
    return str(json.loads(body)["type"])


@pytest.mark.parametrize("before", [[], ["refund"], ["charge"], ["refund", "charge"], ["charge", "refund"]])
async def test_a_dispute_of_a_subscription_is_followed_back_to_its_invoice(world: World, before: list[str]) -> None:
    """Whatever named the customer of that payment before: that says whose it is, and not what was paid by it."""
    payment = await told_without_its_link(world)
    told = len(await world.events())
    await world.call("POST", "/_control/refunds", payment_intent=payment, amount=100)
    refunded = (await world.events())[told:]
    for kind in before:
        await world.fulfill([body for body in refunded if type_of(body).startswith(kind)])
        await world.serve_all()
    await world.call("POST", "/_control/disputes", payment_intent=payment)
    await world.fulfill(await world.events("charge.dispute.created"))
    await world.serve_all()
    states = [source.state for source in (await world.read("ann")).sources if source.stripe_id]
    assert states == [SourceState.DISPUTED]


async def test_a_dispute_is_followed_to_an_invoice_of_which_only_the_link_was_heard(world: World) -> None:
    """The link says which invoice it is, and that one alone whose: a later invoice is the latest by then."""
    session_id = await world.buy("ann")
    first = await world.events()
    (link,) = [json.loads(body)["data"]["object"] for body in first if type_of(body) == "invoice_payment.paid"]
    await world.call("POST", "/_control/clock", advance_s=31 * 86_400 + 2 * 3600)
    later = [body for body in await world.events() if link["invoice"].encode() not in body]
    await world.fulfill([*(body for body in first if type_of(body) == "invoice_payment.paid"), *later])
    await world.reads.subscription((await world.call("GET", f"/v1/checkout/sessions/{session_id}"))["subscription"])
    await world.serve_all()
    assert (link["invoice"],) not in world.sql("SELECT object_id FROM stripe_objects")
    known = len(await world.events())
    await world.call("POST", "/_control/disputes", payment_intent=link["payment"]["payment_intent"])
    await world.fulfill((await world.events())[known:])
    await world.serve_all()
    assert [source.state for source in (await world.read("ann")).sources if source.stripe_id] == [SourceState.DISPUTED]


async def test_the_way_back_is_asked_for_once_even_where_it_leads_nowhere(world: World) -> None:
    """A charge that was made by hand is of no session and no invoice; what is told of it later is no reason to look again."""
    await world.fulfill([event("refund.created", refund("hand", 100))])
    assert world.sql("SELECT object_id FROM rereads") == [("re_hand_1",)]
    world.sql("DELETE FROM rereads")
    await world.fulfill([event("refund.updated", refund("hand", 100), created=START + 60)])
    assert world.sql("SELECT object_id FROM rereads") == [("re_hand_1",)], "it was not read yet"
    world.sql("""
        DELETE FROM rereads;
        UPDATE stripe_objects SET read_terminal = false, read_fence = 1, read_request_time = 1, read_time = 1, read_view = payload_view
    """)
    await world.fulfill([event("refund.updated", refund("hand", 100), created=START + 120)])
    assert world.sql("SELECT object_id FROM rereads") == []


@pytest.mark.parametrize("mode", ["payment", "subscription"])
async def test_what_is_tied_to_its_payment_is_not_followed(world: World, mode: str) -> None:
    """Neither asked for where nothing else speaks for it, nor looked for when it is read."""
    session_id = await world.buy("ann", "export_pass" if mode == "payment" else "pro_monthly", mode)
    session = await world.call("GET", f"/v1/checkout/sessions/{session_id}")
    payments = (await world.call("GET", "/v1/invoice_payments"))["data"]
    payment = session["payment_intent"] or payments[0]["payment"]["payment_intent"]
    await world.fulfill(await world.events())
    world.sql("DELETE FROM rereads")
    disputed = await world.call("POST", "/_control/disputes", payment_intent=payment)
    await world.fulfill(await world.events("charge.dispute.created"))
    assert world.sql("SELECT object_id FROM rereads") == []
    await world.database.run(lambda c: rereads.ask(c, [rereads.Ask(disputed["id"], ObjectKind.DISPUTE, 0)]))
    world.proxy.calls.clear()
    await world.serve_all()
    assert [*world.proxy.calls.elements()] == [("GET", f"/v1/disputes/{disputed['id']}")]


async def test_every_request_of_the_way_back_is_taken_from_the_budget_of_the_background(world: World) -> None:
    payment = await told_without_its_link(world)
    await world.call("POST", "/_control/disputes", payment_intent=payment)
    await world.fulfill(await world.events("charge.dispute.created"))
    world.sql("UPDATE rereads SET due_time = now()")
    world.sql("UPDATE stripe_budget SET tokens = 20, update_time = now()")
    still = Refresh(world.database, world.stripe, world.reads, Budget(rate_per_s=0.0, burst=20, reserve=5))
    world.proxy.calls.clear()
    while await still.drain():
        pass
    made = world.proxy.calls.total()
    assert world.sql("SELECT tokens FROM stripe_budget") == [(20 - made,)]
    assert made == 4, "the dispute, two lists, and what ties its payment to an invoice that is known"


async def test_an_object_that_a_newer_release_wrote_is_put_off_and_holds_up_no_other(world: World) -> None:
    """It was taken back, and what it wrote is not understood; it is read when there is a release that does."""
    for name in ("ann", "bob"):
        await world.buy(name)
    await world.fulfill(await world.events())
    ((whose,),) = world.sql("""
        UPDATE stripe_objects SET payload_view = jsonb_set(payload_view, '{status}', '"of_next_year"')
        WHERE object_id = (SELECT min(object_id) FROM stripe_objects WHERE kind = 'subscription') RETURNING stripe_customer_id
    """)
    world.sql("UPDATE rereads SET due_time = now() - interval '1 second'")
    while await world.refresh.drain():
        pass
    left = world.sql("""
        SELECT DISTINCT stripe_customer_id, lease_time, due_time > now() FROM rereads JOIN stripe_objects USING (object_id)
    """)
    assert left == [(whose, None, True)]
