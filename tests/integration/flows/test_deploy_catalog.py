"""Making at Stripe what a catalog sells, by the real SDK against the stand-in, with whatever breaks on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_actions import Action
from billing_service.domain.catalog_comparison import Comparison
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.portal import PortalFlow, PortalRequest
from billing_service.flows.create_portal_session import CreatePortalSession
from billing_service.flows.deploy_catalog import DeployCatalog, StripeMovedError
from billing_service.flows.prices import Prices
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError, StripeDefinite, StripeDenied
from sandbox.stripe.app import StandInStripe
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.subscriber import Clock, subscriber
from tests.stripe_proxy import StripeProxy, fail, lose_answer, lose_request, proxied, refuse
from tests.unit.domain.offered import TEXT

KEY = "sk_test_deploying"
PRODUCTS, PRICES = ("POST", "/v1/products"), ("POST", "/v1/prices")
DEARER = parse_catalog(TEXT.replace("amount_minor = 1200 ", "amount_minor = 1500 ").replace('"Team"', '"Crew"'))
REQUESTS = 3 * 4 + 9  # to make all of the example: four looks of three lists each, and nine things


@dataclass
class World:
    """A Stripe account, a proxy before it, and one deployment's tool."""

    stripe: StripeApi
    proxy: StripeProxy
    done: list[str]

    def tool(self, catalog: Catalog = CATALOG, deployment: str = "default") -> DeployCatalog:
        """Give the flow over a catalog."""
        return DeployCatalog(self.stripe, catalog, deployment, livemode=False, pause_s=0)

    async def applied(self, catalog: Catalog = CATALOG, deployment: str = "default") -> Comparison:
        """Confirm whatever is to be done, and do it."""
        tool = self.tool(catalog, deployment)
        return await tool.apply(await tool.compare(), self._told)

    def _told(self, action: Action, _: str) -> None:
        self.done.append(action.place)

    async def everything(self, path: str) -> list[dict[str, Any]]:
        """List all objects of an account under a path."""
        return [body async for page in self.stripe.listing.pages("list", path, {}) for body in page.data]

    async def counts(self) -> dict[str, int]:
        """Count what there is."""
        paths = {"products": "/v1/products", "prices": "/v1/prices", "portals": "/v1/billing_portal/configurations"}
        return {name: len(await self.everything(path)) for name, path in paths.items()}


@asynccontextmanager
async def deploying() -> AsyncIterator[World]:
    """Run an empty account."""
    stand_in = StandInStripe(KEY)
    url = await stand_in.start()
    try:
        async with proxied(url) as proxy, StripeApi(KEY, proxy.url) as stripe:
            yield World(stripe, proxy, [])
    finally:
        await stand_in.stop()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with deploying() as one:
        yield one


COMPLETE = {"products": 3, "prices": 4, "portals": 2}


async def test_an_empty_account_sells_the_catalog_afterwards_and_a_second_time_does_nothing(world: World) -> None:
    left = await world.applied()
    assert (left.actions, left.mismatches, await world.counts()) == ((), (), COMPLETE)
    assert len(world.done) == 9
    world.proxy.calls.clear()
    await world.applied()
    assert {method for method, _ in world.proxy.calls} == {"GET"}


async def test_a_comparison_changes_nothing(world: World) -> None:
    comparison = await world.tool().compare()
    assert len(comparison.actions) == 9
    assert {method for method, _ in world.proxy.calls} == {"GET"}


async def test_the_service_sells_at_what_was_made(world: World, database_url: str) -> None:
    """The prices resolve in the service, and its portal uses the configuration that was made, instead of making one."""
    await world.applied()
    database = Database(database_url)
    prices = Prices(database, world.stripe, CATALOG)
    await prices.refresh()
    await database.close()
    assert prices.warnings() == ()
    assert len(prices.available()) == 4


async def test_a_dearer_price_is_a_new_one_and_the_old_one_is_left_as_it_is(world: World) -> None:
    """But for its lookup key, which Stripe moves."""
    await world.applied()
    (old,) = [one for one in await world.everything("/v1/prices") if one["lookup_key"] == "pro_monthly"]
    left = await world.applied(DEARER)
    assert left.actions == ()
    (new,) = [one for one in await world.everything("/v1/prices") if one["lookup_key"] == "pro_monthly"]
    assert (new["unit_amount"], new["product"]) == (1500, old["product"])
    (kept,) = [one for one in await world.everything("/v1/prices") if one["id"] == old["id"]]
    assert kept == {**old, "lookup_key": None}
    assert {one["name"] for one in await world.everything("/v1/products")} == {"Pro", "Crew", "Export pass"}


async def test_a_change_back_within_a_day_is_made_too(world: World) -> None:
    """Stripe repeats for a day what it answered to a key: the price of this morning is not this evening's."""
    for catalog in (CATALOG, DEARER, CATALOG, DEARER):
        left = await world.applied(catalog)
        assert (left.actions, left.mismatches) == ((), ())
    assert (await world.counts())["prices"] == 4 + 3


@pytest.mark.parametrize("fault", [lose_answer, lose_request, fail])
@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
async def test_one_broken_request_anywhere_changes_nothing_of_the_end(world: World, fault: Any, number: int) -> None:
    """Whatever breaks, in one run or by the next: everything is there, and once."""
    world.proxy.nth(number, fault)
    with suppress(StripeCallError):
        await world.applied()
    assert ((await world.applied()).actions, await world.counts()) == ((), COMPLETE)
    assert world.proxy.met


@pytest.mark.parametrize("number", range(4, REQUESTS + 1, 2))
async def test_a_run_that_is_killed_is_finished_by_the_next(world: World, number: int) -> None:
    """Killed while Stripe carries out a request, of which it hears no answer."""
    arrived, never = asyncio.Event(), asyncio.Event()

    async def hang(_request: Any, forward: Any) -> Any:
        await forward()
        arrived.set()
        await never.wait()

    world.proxy.nth(number, hang)
    run = asyncio.create_task(world.applied())
    async with asyncio.timeout(30):
        await arrived.wait()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    left = await world.applied()
    never.set()
    assert (left.actions, await world.counts()) == ((), COMPLETE)


async def test_two_at_once_make_everything_once(world: World) -> None:
    """The first request for a thing has the same key in each."""
    await asyncio.gather(world.applied(), world.applied(), return_exceptions=True)
    await world.applied()
    assert await world.counts() == COMPLETE


async def test_a_refusal_is_tried_once_more_and_then_told(world: World) -> None:
    """Stripe may be repeating an answer of yesterday; one that it gives anew is for a person. What was done stays."""
    world.proxy.next(*PRICES, refuse)
    assert (await world.applied()).actions == ()
    world.proxy.next(*PRICES, refuse, refuse)
    with pytest.raises(StripeDefinite):
        await world.applied(DEARER)
    assert (await world.applied(DEARER)).actions == ()


async def test_stripe_being_away_ends_the_run(world: World) -> None:
    world.proxy.next(*PRODUCTS, *[lose_request] * 4)
    with pytest.raises(StripeCallError):
        await world.applied()
    assert world.proxy.calls[PRODUCTS] == 4


async def test_what_two_deployments_share_is_changed_by_the_one_that_made_it(world: World) -> None:
    """Lookup keys are an account's: the other one uses the price, says that it differs, and leaves it alone."""
    await world.applied()
    before = await world.everything("/v1/prices")
    left = await world.applied(DEARER, "staging")
    assert await world.everything("/v1/prices") == before
    (mismatch,) = left.unmended
    assert (mismatch.place, "leaves it alone" in mismatch.message) == ("plans.pro.prices.monthly", True)
    assert {place.split(".")[0] for place in world.done[9:]} == {"portal"}
    assert {one["name"] for one in await world.everything("/v1/products")} == {"Pro", "Team", "Export pass"}


async def test_only_what_was_confirmed_is_done(world: World) -> None:
    """The account is changed between the question and the answer: it is asked again rather than done unseen."""
    await world.applied()
    tool = world.tool(DEARER)
    nothing = await tool.compare()
    with pytest.raises(StripeMovedError, match=r"plans\.team"):
        await tool.apply(Comparison((), nothing.actions[1:]), lambda _action, _made: None)
    assert len(world.done) == 9


async def test_a_key_that_may_not_write_is_told_at_once(world: World) -> None:
    async with StripeApi("sk_test_another", world.proxy.url) as stranger:
        with pytest.raises(StripeDenied):
            await DeployCatalog(stranger, CATALOG, "default", livemode=False).compare()


async def test_the_portal_uses_the_configuration_that_was_made(database_url: str) -> None:
    """Its content is the same to the letter: the service finds it and makes none of its own."""
    clock = Clock()
    stand_in = StandInStripe("sk_test_changes", now=lambda: clock().timestamp())
    url = await stand_in.start()
    try:
        async with StripeApi("sk_test_changes", url) as stripe, subscriber(database_url, url, clock) as ann:
            tool = DeployCatalog(stripe, CATALOG, "default", livemode=False, pause_s=0)
            await tool.apply(await tool.compare(), lambda _action, _made: None)
            await ann.subscribed()
            assert isinstance(ann.portal, CreatePortalSession)
            await ann.portal(PortalRequest("ann", "https://shop.example/account", PortalFlow.MANAGE, None))
            calls: Counter[tuple[str, str]] = ann.proxy.calls
            assert calls["POST", "/v1/billing_portal/configurations"] == 0
            assert calls["POST", "/v1/billing_portal/sessions"] == 1
    finally:
        await stand_in.stop()
