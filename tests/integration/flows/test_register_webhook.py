"""Making the webhook endpoint, with what may have been before and what breaks on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from billing_service.flows.register_webhook import RegisterWebhook
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeCallError, StripeDefinite, StripeNoAnswer
from sandbox.stripe.app import StandInStripe
from tests.stripe_proxy import StripeProxy, fail, lose_answer, proxied, refuse

KEY = "sk_test_registering"
URL = "https://billing.example.com/webhooks/stripe"
ENDPOINTS = ("POST", "/v1/webhook_endpoints")


@dataclass
class World:
    """An account, a proxy before it, and the flow."""

    flow: RegisterWebhook
    stripe: StripeApi
    proxy: StripeProxy

    async def count(self) -> int:
        """Count the endpoints."""
        return len(await self.stripe.webhook_endpoints.all("default"))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    stand_in = StandInStripe(KEY)
    url = await stand_in.start()
    async with proxied(url) as proxy, StripeApi(KEY, proxy.url) as stripe:
        yield World(RegisterWebhook(stripe, URL, "default"), stripe, proxy)
    await stand_in.stop()


async def test_what_is_made_is_right(world: World) -> None:
    made = await world.flow.create()
    state = await world.flow.look()
    assert (state.endpoint, state.problems) == (made.endpoint, ())
    assert "whsec_" in made.secret
    assert made.secret not in repr(made)


async def test_two_at_once_make_one_and_both_learn_its_secret(world: World) -> None:
    one, other = await asyncio.gather(world.flow.create(), world.flow.create(), return_exceptions=True)
    secrets = {made.secret for made in (one, other) if not isinstance(made, BaseException)}
    assert (len(secrets), await world.count()) == (1, 1)


async def test_one_that_was_deleted_is_made_anew_on_the_same_day(world: World) -> None:
    """Stripe answers with the deleted one first, which is of no use."""
    await RegisterWebhook(world.stripe, f"{URL}/other", "default").create()
    first = await world.flow.create()
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {KEY}"}) as session:
        await session.delete(f"{world.proxy.url}/v1/webhook_endpoints/{first.endpoint.endpoint_id}")
    second = await world.flow.create()
    assert second.secret != first.secret
    assert (await world.flow.look()).endpoint == second.endpoint


@pytest.mark.parametrize("fault", [fail, refuse])
async def test_a_failure_that_stripe_may_only_be_repeating_is_tried_once_more(world: World, fault: Any) -> None:
    world.proxy.next(*ENDPOINTS, fault)
    await world.flow.create()
    world.proxy.next(*ENDPOINTS, fault, fault)
    with pytest.raises(StripeDefinite):
        await RegisterWebhook(world.stripe, f"{URL}/2", "default").create()
    assert await world.count() == 1


async def test_after_a_lost_answer_the_same_request_gets_the_secret(world: World) -> None:
    """While the list does not show the endpoint the key is the same; once it does, there is no second one."""
    world.proxy.next(*ENDPOINTS, lose_answer)
    with pytest.raises(StripeNoAnswer):
        await world.flow.create()
    assert (await world.flow.look()).problems == ()
    assert await world.count() == 1


async def test_a_failure_after_it_was_made_makes_no_second_one(world: World) -> None:
    async def fail_afterwards(request: Any, forward: Any) -> Any:
        await forward()
        return await fail(request, forward)

    world.proxy.next(*ENDPOINTS, fail_afterwards)
    with pytest.raises(StripeCallError):
        await world.flow.create()
    assert await world.count() == 1
