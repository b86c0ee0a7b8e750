"""The example of docs/subscriptions.md, run as it is printed but for the customer and the address; and what comes of it by webhook."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest
from billing.v1 import entitlement_pb2
from billing.v1 import subscription_pb2 as pb

from tests.acceptance.world import World, eventually

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "subscriptions.md").read_text(encoding="utf-8")
_State = entitlement_pb2.Source.State


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


def example(language: str, world: World, customer_id: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (block,) = found
    token = world.addresses["grpc_token"]
    block = block.replace('Path(".sandbox/grpc_token").read_text()', repr(token))
    block = block.replace("$(cat .sandbox/grpc_token)", token)
    return str(block.replace("demo-ada", customer_id).replace("127.0.0.1:50051", world.addresses["grpc"]))


async def test_the_examples_of_the_page_upgrade_and_open_the_portal(world: World, customer_id: str) -> None:
    await world.pay(await world.checkout(customer_id))
    await world.until_plan(customer_id, "pro")
    printed = await run(sys.executable, "-c", example("python", world, customer_id))
    assert "due now: 2400 EUR in minor units" in printed
    assert printed.splitlines()[-1] == "team 4"
    assert await world.plans_of(customer_id) == ["team"]
    buf = Path(sys.executable).with_name("buf")
    shell = example("sh", world, customer_id).replace(".venv/bin/buf", str(buf))
    url = json.loads(await run("sh", "-c", shell))["url"]
    async with world.http.get(url) as page:
        assert "Team" in await page.text()


@pytest.mark.parametrize("timing", [pb.CANCEL_TIMING_AT_PERIOD_END, pb.CANCEL_TIMING_NOW])
async def test_a_cancellation_stays_what_it_is_when_its_webhooks_arrive(
    world: World, customer_id: str, timing: pb.CancelTiming.ValueType
) -> None:
    """Our own read and the events that follow it come to the same."""
    await world.pay(await world.checkout(customer_id))
    answer = await world.until_plan(customer_id, "pro")
    subscription_id = answer.sources[0].stripe_subscription_id
    ended = timing == pb.CANCEL_TIMING_NOW
    await world.billing.CancelSubscription(
        pb.CancelSubscriptionRequest(
            request_id=f"cancel-{customer_id}",
            customer_id=customer_id,
            stripe_subscription_id=subscription_id,
            timing=timing,
        )
    )
    await world.until_delivered()
    await eventually(lambda: world.plans_of(customer_id), lambda plans: plans == (["free"] if ended else ["pro"]))
    states = {one.state for one in (await world.entitlements(customer_id)).sources if one.stripe_subscription_id}
    assert states <= ({_State.STATE_ENDED} if ended else {_State.STATE_ENDING})
