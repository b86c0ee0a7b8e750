from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from sandbox.stripe.app import StandInStripe
from sandbox.stripe.deliveries import Backoff
from tests.integration.sandbox_stripe.conftest import (
    API_KEY,
    CATALOG,
    SECRET,
    MakeStandIn,
    Receiver,
    World,
    open_client,
)


async def test_a_delivery_is_tried_again_until_it_is_taken(world: World) -> None:
    world.receiver.refuse_next = 3
    await world.customer()
    await world.delivered()
    assert world.receiver.types() == ["customer.created"]
    async with world.http.get(f"{world.url}/_control/webhooks") as response:
        state = await response.json()
    first = state["deliveries"][0]
    assert (state["pending"], first["status"], first["attempts"], first["last_status"]) == (0, "succeeded", 4, 200)


async def test_a_delivery_is_given_up_shown_as_failed_and_can_be_sent_again(
    make_stand_in: MakeStandIn, receiver: Receiver
) -> None:
    stand_in = await make_stand_in(backoff=Backoff(first_s=0.001, longest_s=0.001, attempts=2))
    client, transport = open_client(await stand_in.start())
    stand_in.set_webhook(receiver.url, SECRET)
    receiver.refuse_next = 2
    await client.v1.customers.create_async({"name": "a"})
    await stand_in.deliveries.settled()
    missed = await client.v1.events.list_async({"delivery_success": False})
    assert [event.type for event in missed.data] == ["customer.created"]
    stand_in.deliveries.resend(missed.data[0].id)
    await stand_in.deliveries.settled()
    assert receiver.types() == ["customer.created"]
    assert (await client.v1.events.list_async({"delivery_success": False})).data == []
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped


async def test_resending_delivers_the_same_event_again(world: World) -> None:
    await world.customer()
    await world.delivered()
    event = world.receiver.events[0]
    await world.control(f"/events/{event['id']}/resend")
    await world.delivered()
    assert world.receiver.events == [event, event]


async def test_paused_deliveries_wait_and_go_out_when_resumed(world: World) -> None:
    paused = await world.control("/webhooks", paused=True)
    assert paused["paused"] is True
    await world.customer()
    async with world.http.get(f"{world.url}/_control/webhooks") as response:
        assert (await response.json())["pending"] == 1
    assert world.receiver.events == []
    await world.control("/webhooks", paused=False)
    await world.delivered()
    assert world.receiver.types() == ["customer.created"]


async def test_everything_is_found_again_after_a_restart_and_what_was_pending_is_delivered(
    make_stand_in: MakeStandIn, receiver: Receiver, tmp_path: Path
) -> None:
    state = tmp_path / "stripe.json"
    first = await make_stand_in(state)
    client, transport = open_client(await first.start())
    first.seed(CATALOG)
    first.set_webhook(receiver.url, SECRET)
    first.deliveries.pause(paused=True)
    customer = await client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "k"})
    session = await client.v1.checkout.sessions.create_async(await _params(client, customer.id))
    await first.stop()
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped

    second = await make_stand_in(state, webhook_url=receiver.url, webhook_secret=SECRET)
    url = await second.start()
    second.seed(CATALOG)
    client, transport = open_client(url)
    await second.deliveries.settled()
    assert receiver.types() == ["customer.created"]
    again = await client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "k"})
    assert again.id == customer.id
    found = await client.v1.checkout.sessions.retrieve_async(session.id)
    assert (found.status, found.url) == ("open", f"{url}/pay/{session.id}")  # where the page is served now
    assert len((await client.v1.prices.list_async()).data) == 3
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped


async def test_what_was_answered_survives_a_kill_and_a_torn_last_line_loses_only_itself(
    make_stand_in: MakeStandIn, tmp_path: Path
) -> None:
    state = tmp_path / "stripe.json"
    killed = await make_stand_in(state)
    client, transport = open_client(await killed.start())
    customer = await client.v1.customers.create_async({"name": "a"})
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
    torn = tmp_path / "torn.json"
    torn.write_bytes(state.read_bytes() + b'[["customer","cus_torn",{"id"')  # as kill -9 leaves it, before any stop

    risen = await make_stand_in(torn)
    client, transport = open_client(await risen.start())
    assert [c.id for c in (await client.v1.customers.list_async()).data] == [customer.id]
    second = await client.v1.customers.create_async({"name": "b"})
    await risen.stop()
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped

    again = await make_stand_in(torn)
    client, transport = open_client(await again.start())
    assert [c.id for c in (await client.v1.customers.list_async()).data] == [second.id, customer.id]
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped


async def test_seeded_products_are_listed_as_events_and_sent_to_nobody(
    make_stand_in: MakeStandIn, receiver: Receiver
) -> None:
    stand_in = await make_stand_in(webhook_url=receiver.url, webhook_secret=SECRET)
    client, transport = open_client(await stand_in.start())
    stand_in.seed(CATALOG)
    await stand_in.deliveries.settled()
    listed = await client.v1.events.list_async({"types": ["product.created"]})
    assert (len(listed.data), receiver.events) == (2, [])
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped


async def test_events_are_forgotten_after_thirty_days(world: World) -> None:
    await world.customer()
    await world.delivered()
    world.clock.now += 30 * 86_400 + 1
    world.stand_in.advance()
    assert (await world.client.v1.events.list_async()).data == []


async def test_controls_are_listed_and_refuse_what_they_do_not_know(world: World) -> None:
    async with world.http.get(f"{world.url}/_control") as response:
        listed = {(e["method"], e["path"]): e["body"] for e in (await response.json())["endpoints"]}
    assert listed["POST", "/_control/checkout/sessions/{id}/complete"] == {
        "outcome": "paid | processing | declined | incomplete"
    }
    session = await world.session()
    path = f"/checkout/sessions/{session.id}/complete"
    assert "outcome" in (await world.control(path, expect=400, outcome="stolen"))["error"]["message"]
    assert "colour" in (await world.control(path, expect=400, outcome="paid", colour="red"))["error"]["message"]
    assert "GET /_control" in (await world.control("/nonsense", expect=404))["error"]["message"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])  # noqa: S104  # refused, which is the test
async def test_it_listens_on_loopback_only(make_stand_in: MakeStandIn, host: str) -> None:
    stand_in = await make_stand_in()
    with pytest.raises(ValueError, match="loopback only"):
        await stand_in.start(host)


def test_a_live_key_is_refused() -> None:
    with pytest.raises(ValueError, match="test keys only"):
        StandInStripe("sk_live_1")


async def _params(client: Any, customer: str) -> Any:
    price = (await client.v1.prices.list_async({"lookup_keys": ["pro_monthly"]})).data[0].id
    return {
        "mode": "subscription",
        "customer": customer,
        "line_items": [{"price": price, "quantity": 1}],
        "success_url": "https://shop.example/paid",
    }


async def test_the_program_runs_alone_and_stops_on_sigterm() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sandbox.stripe", "--port", "0", "--api-key", API_KEY, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    line = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
    assert "no money moves" in line
    process.terminate()
    await process.communicate()
    assert process.returncode == 0
