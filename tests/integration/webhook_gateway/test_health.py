"""The gateway is alive on its own, and ready when the service behind it says that it serves."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # comes without types

from tests.integration.webhook_gateway.conftest import Running, StartGateway
from tests.integration.webhook_gateway.fulfillment import FulfillmentServer
from tests.integration.webhook_gateway.sender import Answer, Sender


async def ready_when(sender: Sender, *, status: int) -> Answer:
    """Ask until the answer has this status, 30 s at most: an answer is kept for a second."""
    async with asyncio.timeout(30):
        # ruff: noqa: ASYNC110 - asks another program, which has no event for us
        while (answer := await sender.request("GET", "/readyz")).status != status:
            await asyncio.sleep(0.05)
    return answer


async def test_is_ready_while_the_service_serves(sender: Sender) -> None:
    answer = await sender.request("GET", "/readyz")
    assert (answer.status, answer.content) == (200, {"ready": True})


async def test_is_not_ready_while_the_service_says_that_it_does_not_serve(
    sender: Sender, fulfillment: FulfillmentServer
) -> None:
    await fulfillment.say(health_pb2.HealthCheckResponse.NOT_SERVING)
    answer = await ready_when(sender, status=503)
    # The first when it is asked, the second once it has told us so by itself: then it is not asked any more.
    assert answer.content["reason"] in {"fulfillment: not_serving", "fulfillment: unavailable"}
    await fulfillment.say(health_pb2.HealthCheckResponse.SERVING)
    await ready_when(sender, status=200)


async def test_is_alive_but_not_ready_while_the_service_is_away(
    gateway: Running, fulfillment: FulfillmentServer
) -> None:
    await fulfillment.stop()
    answer = await ready_when(gateway.sender, status=503)
    assert answer.content["reason"] == "fulfillment: unavailable"
    assert (await gateway.sender.request("GET", "/livez")).status == 200
    await fulfillment.start()
    await ready_when(gateway.sender, status=200)


async def test_its_readiness_is_a_number_that_nobody_has_to_ask_for_beside(
    start_gateway: StartGateway, fulfillment: FulfillmentServer
) -> None:
    """Where no probe asks /readyz, and where no webhook comes to such a one, the alert has it all the same."""
    gateway = await start_gateway()
    assert await ready_number(gateway, wanted=1) == 1
    await fulfillment.stop()
    assert await ready_number(gateway, wanted=0) == 0
    await fulfillment.start()
    assert await ready_number(gateway, wanted=1) == 1
    refused = await start_gateway(token="another")
    assert await ready_number(refused, wanted=0) == 0


async def ready_number(gateway: Running, *, wanted: int) -> float:
    """Read the page of numbers until it has this one, 30 s at most: an answer is kept for a second."""
    url = f"http://{gateway.server.ops_address}/metrics"
    async with asyncio.timeout(30):
        while True:
            async with gateway.sender.session.get(url) as response:
                lines = (await response.text()).splitlines()
            found = next(float(line.split()[1]) for line in lines if line.startswith("gateway_ready "))
            if found == wanted:
                return found
            await asyncio.sleep(0.05)
