"""The account's clock moves forward on request, shared through a file, and what falls due happens in its order."""

from __future__ import annotations

from pathlib import Path

import aiohttp

from billing_service.clock import SandboxClock, utc_now
from tests.integration.sandbox_stripe.conftest import MakeStandIn, World, open_client

DAY_S = 86_400


async def test_what_falls_due_happens_at_its_own_time_and_in_order(world: World) -> None:
    """One leap of 40 days: a session expires after a day, then a month ends; each event is dated when it was due."""
    bought, left = await world.bought(), await world.session()
    moved = await world.control("/clock", advance_s=40 * DAY_S)
    assert moved["now"] == 1_800_000_000 + 40 * DAY_S
    await world.delivered()
    dated = {e["type"]: e["created"] for e in world.receiver.events}
    assert dated["checkout.session.expired"] == left.expires_at
    period_end = 1_802_678_400
    renewed = await world.client.v1.subscriptions.retrieve_async(bought.subscription, {"expand": ["latest_invoice"]})
    assert renewed["items"].data[0].current_period_start == period_end
    assert renewed.latest_invoice.status_transitions.paid_at == period_end + 3600
    times = [event["created"] for event in world.receiver.events]
    assert max(times) == dated["invoice.paid"]


async def test_time_does_not_move_back(world: World) -> None:
    for advance_s in (0, -1):
        refused = await world.control("/clock", expect=400, advance_s=advance_s)
        assert "advance_s" in refused["error"]["message"]


async def test_the_service_and_a_restarted_stand_in_see_the_same_time(
    make_stand_in: MakeStandIn, tmp_path: Path
) -> None:
    """The offset stands in a file that the service's clock reads, and a restart finds it again."""
    file = tmp_path / "clock"
    clock = SandboxClock(file)
    for days in (10, 20):
        stand_in = await make_stand_in(clock_file=file)
        url = await stand_in.start()
        client, transport = open_client(url)
        async with aiohttp.ClientSession() as http:
            await http.post(f"{url}/_control/clock", json={"advance_s": 10 * DAY_S})
        customer = await client.v1.customers.create_async({"name": "a"})
        ahead_s = customer.created - utc_now().timestamp()
        assert round(ahead_s / DAY_S) == days
        assert abs(customer.created - clock().timestamp()) < 60
        await stand_in.stop()
        await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
