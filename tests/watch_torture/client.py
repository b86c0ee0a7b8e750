"""One client process: follows a few watches, and writes each message down as a line once it has it.

What is on a line is what the client knows; it is killed at any moment, and the next one goes on from the last cursor that was
written. Its orders come by standard input: first what to follow, then `hold` and `release`, between which it does not read.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from billing.v1.billing_service_pb2_grpc import BillingServiceStub
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse
from billing_client import BillingClient, Options
from billing_client.errors import error_of

from tests.watch_torture.told import told_of

_KIND = WatchEntitlementsResponse.Kind
_LONGEST_PAUSE_S = 0.3


def _write(*values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _note(name: str, message: WatchEntitlementsResponse) -> None:
    told = message.entitlements if message.HasField("entitlements") else None
    about = (told.customer_id, told.revision, told_of(told)) if told else None
    _write(name, _KIND.Name(message.kind), message.cursor, about)


async def _by_hand(name: str, addresses: list[str], request: WatchEntitlementsRequest) -> AsyncIterator[Any]:
    """Follow with bare stubs, each time at any of the servers."""
    while True:
        async with grpc.aio.insecure_channel(random.choice(addresses)) as channel:
            try:
                async for message in BillingServiceStub(channel).WatchEntitlements(request):
                    if message.kind == _KIND.KIND_SNAPSHOT_BEGIN:
                        request.cursor = ""
                    request.cursor = message.cursor or request.cursor
                    yield message
            except grpc.aio.AioRpcError as raised:
                _write(name, "BROKE", type(error_of(raised)).__name__, None)
        await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_S))


async def _follow(order: dict[str, Any], addresses: list[str], awake: asyncio.Event) -> None:
    name = order["name"]
    request = WatchEntitlementsRequest(customer_ids=order["customer_ids"], cursor=order["cursor"])
    if order["by_hand"]:
        async for message in _by_hand(name, addresses, request):
            _note(name, message)
            await awake.wait()
    else:
        async with BillingClient(Options(addresses)) as client:
            async for message in client.watch_entitlements(request):
                _note(name, message)
                await awake.wait()


async def _obey(awake: asyncio.Event) -> None:
    """Take orders until there are no more: whoever started us is gone."""
    loop = asyncio.get_running_loop()
    while order := await loop.run_in_executor(None, sys.stdin.readline):
        if order.strip() == "hold":
            awake.clear()
        else:
            awake.set()


async def main() -> None:
    """Follow what the first line says."""
    orders = json.loads(sys.stdin.readline())
    awake = asyncio.Event()
    awake.set()
    following = [asyncio.create_task(_follow(one, orders["addresses"], awake)) for one in orders["follow"]]
    obeying = asyncio.create_task(_obey(awake))
    await asyncio.wait({obeying, *following}, return_when=asyncio.FIRST_COMPLETED)
    for task in following:
        if task.done():
            task.result()


if __name__ == "__main__":
    asyncio.run(main())
