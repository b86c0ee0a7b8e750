"""What Prometheus scrapes from a service and a gateway that run: the truth, and nothing personal."""

from __future__ import annotations

import asyncio
import re

import aiohttp

from tests.acceptance.world import World

_PERSONAL = re.compile(rb"[\w.+-]+@[\w-]+\.\w+|sk_test_|whsec_|Bearer|\b\d{13,19}\b(?!\.\d)")


async def scraped(address: str) -> bytes:
    async with aiohttp.ClientSession() as http, http.get(f"{address}/metrics") as response:
        assert response.status == 200
        assert response.content_type == "text/plain"
        return await response.read()


async def number(address: str, series: str) -> float:
    """Give a series' value; 0 where it is not there yet."""
    lines = (await scraped(address)).decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series)), 0.0)


async def test_a_purchase_is_counted_on_its_way_through_both_programs(world: World, customer_id: str) -> None:
    ops, gateway = world.addresses["ops"], world.addresses["gateway_ops"]
    committed = 'billing_events_total{outcome="applied",type="checkout.session.completed"}'
    taken = 'gateway_webhooks_total{outcome="applied",status="200",type="checkout.session.completed"}'
    before = await number(ops, committed), await number(gateway, taken)
    session = await world.checkout(customer_id)
    await world.pay(session)
    await world.until_plan(customer_id, "pro")
    async with asyncio.timeout(30):
        while await number(gateway, taken) <= before[1]:  # noqa: ASYNC110 - the gateway's answer follows the commit
            await asyncio.sleep(0.05)
    assert await number(ops, committed) > before[0]
    assert (
        await number(ops, 'billing_stripe_requests_total{operation="checkout.sessions.create",outcome="answered"}') > 0
    )
    assert (
        await number(ops, 'billing_rpc_calls_total{code="OK",method="/billing.v1.BillingService/GetEntitlements"}') > 0
    )
    assert await number(ops, "billing_event_latency_seconds_count") > 0
    assert await number(ops, "billing_ready") == 1
    assert await number(ops, 'billing_connections{state="most"}') == 10
    assert await number(gateway, "gateway_signatures_total{") > 0


async def test_no_page_of_numbers_holds_anything_personal(world: World, customer_id: str) -> None:
    await world.pay(await world.checkout(customer_id))
    await world.until_plan(customer_id, "pro")
    for address in (world.addresses["ops"], world.addresses["gateway_ops"]):
        lines = (await scraped(address)).splitlines()
        # Not the numbers.
        page = b"\n".join(line if line.startswith(b"#") else line.rpartition(b" ")[0] for line in lines)
        assert not _PERSONAL.search(page)
        assert customer_id.encode() not in page


async def test_the_numbers_are_not_where_stripe_posts_to(world: World) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{world.addresses['gateway']}/metrics") as response:
        assert response.status == 404
