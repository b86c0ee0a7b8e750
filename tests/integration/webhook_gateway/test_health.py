"""The gateway is alive on its own, and ready when the service behind it says that it serves."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # comes without types

from tests.integration.webhook_gateway.conftest import Running
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
