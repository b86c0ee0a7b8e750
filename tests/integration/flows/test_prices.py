"""Prices: what ever resolved to a plan is remembered, whichever way lookup keys move."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from billing_service.flows.prices import Prices
from billing_service.storage import prices
from billing_service.storage.database import Database
from billing_service.storage.prices import PriceRow
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import Service, running
from tests.integration.flows.test_refresh import World, world  # noqa: F401 - the fixture
from tests.stripe_events import START, event, purchase, subscription, thin_event
from tests.stripe_proxy import held

MONTHLY, YEARLY = ("pro", "monthly"), ("pro", "yearly")


def row(price_id: str, pair: tuple[str, str]) -> PriceRow:
    return PriceRow(price_id, *pair, lookup_key="_".join(pair), active=True, current=True)


@pytest.mark.parametrize("swapped", [("price_a", "price_b"), ("price_b", "price_a"), ("price_b", "price_c")])
async def test_lookup_keys_may_move_between_prices_in_any_way(database_url: str, swapped: tuple[str, str]) -> None:
    database = Database(database_url)
    checked = [MONTHLY, YEARLY]
    for monthly, yearly in (("price_a", "price_b"), swapped):
        rows = [row(monthly, MONTHLY), row(yearly, YEARLY)]
        await database.run(lambda c, rows=rows: prices.remember(c, checked, rows))  # type: ignore[misc] # bound now
    known = {one.price_id: one for one in await database.run(prices.load_all)}
    await database.close()
    assert (known[swapped[0]].price_key, known[swapped[1]].price_key) == ("monthly", "yearly")
    assert {one.price_id for one in known.values() if one.current} == set(swapped)
    assert known.keys() >= {"price_a", "price_b"}


def moved(customer_id: str, **values: Any) -> dict[str, Any]:
    """Give the subscription after a price rise: Stripe took the lookup key off the price that it is on."""
    body = subscription(customer_id, **values)
    body["items"]["data"][0]["price"]["lookup_key"] = None
    return body


async def test_a_price_rise_that_moves_the_lookup_key_before_stripe_was_asked_revokes_nobody(service: Service) -> None:
    """Stripe is out of reach from the start: only payloads ever said which plan the price stands for."""
    await service.outcomes(*purchase("ann"))
    later = event("customer.subscription.updated", moved("ann"), created=START + 9)
    assert await service.outcomes(later) == ["applied"]
    assert (await service.read("ann")).plan_keys == ("pro",)


async def test_what_one_process_learnt_of_a_price_holds_in_every_other_at_once(
    service: Service, other_service: Service
) -> None:
    """Ben's subscription never named the key. Both processes have loaded what was remembered before it was learnt."""
    await other_service.read("ben")
    ben = [json.dumps(moved_event(json.loads(body))).encode() for body in purchase("ben")]
    await other_service.outcomes(*ben)
    assert (await other_service.read("ben")).plan_keys == ("free",)
    await service.outcomes(*purchase("ann"))
    assert (await other_service.read("ben")).plan_keys == ("pro",)


def moved_event(envelope: dict[str, Any]) -> dict[str, Any]:
    for item in envelope["data"]["object"].get("items", {}).get("data", ()):
        item["price"]["lookup_key"] = None
    return envelope


async def test_what_was_learnt_from_a_payload_outlives_the_process(database_url: str) -> None:
    async with running(database_url) as first:
        await first.outcomes(*purchase("ann"))
    async with running(database_url) as second:
        await second.outcomes(event("customer.subscription.updated", moved("ann"), created=START + 9))
        assert (await second.read("ann")).plan_keys == ("pro",)


async def test_prices_learnt_by_many_at_once_do_not_lock_each_other_out(
    service: Service, other_service: Service
) -> None:
    """Every batch brings several new prices, in another order."""
    names = [f"guest{number}" for number in range(20)]
    one = [body for name in names for body in purchase(name)]
    results = await asyncio.gather(
        *(s.outcomes(body) for s, bodies in ((service, one), (other_service, one[::-1])) for body in bodies)
    )
    assert {outcome for (outcome,) in results} <= {"applied", "duplicate", "parked"}
    assert {(await service.read(name)).plan_keys for name in names} == {("pro",)}


async def test_what_stripes_own_list_said_is_not_overruled_by_an_old_payload(database_url: str) -> None:
    """The lookup key belonged to another plan when the price was resolved; the catalog gave it away since."""
    database = Database(database_url)
    await database.run(
        lambda c: prices.remember(c, [("team", "monthly")], [row("price_pro_monthly", ("team", "monthly"))])
    )
    await database.run(lambda c: prices.learn(c, [row("price_pro_monthly", MONTHLY)]))
    known = await database.run(lambda c: prices.find(c, ["price_pro_monthly"]))
    await database.close()
    assert known == {"price_pro_monthly": "team"}


async def test_a_price_of_no_plan_at_which_somebody_subscribes_is_told_until_it_resolves(
    service: Service, other_service: Service
) -> None:
    """What they pay for gives them nothing, which is no error of theirs: an operator has to hear of it."""
    ben = [json.dumps(moved_event(json.loads(body))).encode() for body in purchase("ben")]
    await service.outcomes(*ben)
    await service.read("ben")
    assert service.prices.held() == ("price_pro_monthly",)
    assert "customers subscribe at price_pro_monthly, which is of no plan in the catalog" in service.prices.warnings()
    await other_service.outcomes(*purchase("ann"))
    assert (await service.read("ben")).plan_keys == ("pro",)
    assert service.prices.held() == ()


async def test_a_price_of_no_plan_of_a_subscription_that_is_over_is_told_to_nobody(service: Service) -> None:
    gone = subscription("ben", "canceled", lookup_key="bespoke")
    await service.outcomes(event("customer.subscription.deleted", gone))
    assert [s.state.value for s in (await service.read("ben")).sources if s.stripe_id] == ["unresolved"]
    assert service.prices.held() == ()


async def sold_at(known: Prices) -> str:
    """Give the price at which Pro is sold by the month, as far as is known; nobody asks Stripe for it."""
    pro = CATALOG.plans["pro"]
    return await known.price_id(pro, pro.prices[0])


@pytest.mark.parametrize("asked", ["before", "meanwhile"])
@pytest.mark.parametrize("told", ["price.updated", "product.updated", "thin"])
async def test_a_price_that_moved_is_known_with_its_event(world: World, asked: str, told: str) -> None:  # noqa: F811
    """Within a minute it would be anyway. Stripe's answer may be under way when the event comes, and older than it."""
    await world.prices.refresh()
    old = (await world.call("GET", "/v1/prices?lookup_keys[]=pro_monthly"))["data"][0]
    assert await sold_at(world.prices) == old["id"]
    arrived, go = asyncio.Event(), asyncio.Event()
    world.proxy.next("GET", "/v1/prices", held(arrived, go))
    looking = asyncio.create_task(world.prices.run())
    await arrived.wait()
    new = await world.call(
        "POST", "/v1/prices",
        **{"product": old["product"], "currency": "eur", "unit_amount": "2000", "recurring[interval]": "month",
           "lookup_key": "pro_monthly", "transfer_lookup_key": "true"},
    )  # fmt: skip
    if asked == "before":
        go.set()
        await world.prices.plans()
    body = thin_event("price.updated", old["id"]) if told == "thin" else event(told, {"id": old["id"], "object": "x"})
    assert [result.outcome.value for result in await world.fulfill([body])] == ["ignored"]
    go.set()
    try:
        async with asyncio.timeout(20):
            while await sold_at(world.prices) != new["id"]:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
    finally:
        looking.cancel()
        await asyncio.wait({looking})
