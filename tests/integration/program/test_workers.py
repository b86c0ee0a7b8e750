"""`billing-service serve --workers 2`: two processes on one set of addresses, under a parent that keeps them."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from billing.v1.entitlement_pb2 import GetEntitlementsRequest
from billing.v1.watch_pb2 import WatchEntitlementsRequest
from billing_client import BillingClient, Options

from tests.integration.program.conftest import BOUND_S, ROOT, START_BOUND_S, Process, serving

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"
ASK = GetEntitlementsRequest(customer_id="nobody")


@asynccontextmanager
async def workers(database_url: str, **more: str) -> AsyncIterator[Process]:
    """Two of them."""
    async with serving(database_url, NOWHERE, more={"BILLING_WORKERS": "2", **more}) as process:
        await until_ready(process)
        yield process


async def asked(process: Process, path: str) -> tuple[int, str]:
    """Give what the health page says."""
    async with aiohttp.ClientSession() as http, http.get(f"http://{process.ops}/{path}") as answer:
        return answer.status, await answer.text()


async def until_ready(process: Process, pids: Callable[[set[int]], bool] = bool) -> set[int]:
    """Wait until both say that they are ready; give their process ids."""
    async with asyncio.timeout(START_BOUND_S):
        while True:
            status, _ = await asked(process, "readyz")
            found = children(process.pid)
            if status == 200 and pids(found):
                return found
            await asyncio.sleep(0.05)


def children(pid: int) -> set[int]:
    """Give the processes that a process has started, by whichever of its threads; a thread may end while we look."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def lives(pids: set[int]) -> bool:
    """Say whether one of these processes is there."""
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


async def read(process: Process, count: int) -> None:
    """Make calls, each on a connection of its own: the kernel deals them out."""
    for _ in range(count):
        async with BillingClient(Options([process.grpc_address])) as client:
            await client.get_entitlements(ASK, timeout=timedelta(seconds=BOUND_S))


def counted(page: str) -> dict[str, int]:
    """Give the reads by worker, as the page for Prometheus has them."""
    pattern = r'^billing_rpc_calls_total\{worker="(\w+)",code="OK",method="[^"]*GetEntitlements"\} (\S+)$'
    return {worker: int(float(number)) for worker, number in re.findall(pattern, page, re.MULTILINE)}


async def test_both_workers_answer_and_one_page_has_the_numbers_of_both(database_url: str) -> None:
    async with workers(database_url) as process:
        async with asyncio.timeout(BOUND_S):
            calls = 0
            while len(found := counted((await asked(process, "metrics"))[1])) < 2:
                await read(process, 4)
                calls += 4
        assert sum(found.values()) == calls
        page = (await asked(process, "metrics"))[1]
        assert page.count("# TYPE billing_rpc_calls_total counter") == 1
        assert 'billing_ready{worker="parent"} 1.0' in page
        assert 'billing_connections{worker="1",state="most"} 10.0' in page


async def test_a_worker_that_is_killed_is_replaced_and_no_call_fails(database_url: str) -> None:
    """The other answers meanwhile; readiness says that one is missing until it is there again."""
    async with workers(database_url) as process, BillingClient(Options([process.grpc_address])) as client:
        before = children(process.pid)
        calls = 0
        killed = min(before)
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(BOUND_S):
            while (await asked(process, "readyz"))[0] != 503:
                await client.get_entitlements(ASK, timeout=timedelta(seconds=BOUND_S))
                calls += 1
        replaced = asyncio.create_task(until_ready(process, lambda pids: len(pids) == 2 and killed not in pids))
        while not replaced.done():
            await client.get_entitlements(ASK, timeout=timedelta(seconds=BOUND_S))
            await read(process, 1)
            calls += 2
        assert replaced.result() & before == before - {killed}
        assert calls > 0
        assert 'billing_worker_deaths_total{worker="parent"} 1.0' in (await asked(process, "metrics"))[1]


async def test_the_end_of_the_parent_drains_all_workers_and_moves_their_streams(database_url: str) -> None:
    """SIGTERM: what is in flight is answered, watches are told to go elsewhere, and nobody is left."""
    async with workers(database_url) as process:
        channels = [
            grpc.aio.insecure_channel(process.grpc_address, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(6)
        ]
        watches = [process.stub_of(channel).WatchEntitlements(WatchEntitlementsRequest()) for channel in channels]
        for watch in watches:
            await watch.read()
        left = children(process.pid)
        process.terminate()

        async def code_of(watch: Any) -> grpc.StatusCode:
            with suppress(grpc.aio.AioRpcError):
                while await watch.read() is not grpc.aio.EOF:
                    pass
            code = await watch.code()
            assert isinstance(code, grpc.StatusCode)
            return code

        async with asyncio.timeout(BOUND_S):
            assert {await code_of(watch) for watch in watches} == {grpc.StatusCode.UNAVAILABLE}
            assert await process.ended() == 0
        assert not lives(left)
        for channel in channels:
            await channel.close()


async def test_workers_end_with_a_parent_that_is_killed(database_url: str) -> None:
    """Nobody is left on the ports who answers without being looked after."""
    async with workers(database_url) as process:
        left = children(process.pid)
        await process.kill()
        async with asyncio.timeout(BOUND_S):
            while lives(left):  # noqa: ASYNC110 - nobody tells us: they are not our children
                await asyncio.sleep(0.05)


async def test_workers_that_die_again_and_again_end_the_program(database_url: str) -> None:
    """Whoever runs it is told by the exit code, and the workers that live are drained."""
    async with workers(database_url) as process:
        stays, dies = sorted(children(process.pid))
        async with asyncio.timeout(3 * START_BOUND_S):
            while dies:
                os.kill(dies, signal.SIGKILL)
                dies = await successor(process, {stays, dies})
            assert await process.ended() == 1
        assert not lives({stays})


async def successor(process: Process, known: set[int]) -> int:
    """Wait for another worker, and give its process id; 0 where the program ends instead."""
    while process.runs:
        if found := children(process.pid) - known:
            return found.pop()
        if await refused_or_stopping(process):
            return 0
        await asyncio.sleep(0.02)
    return 0


async def refused_or_stopping(process: Process) -> bool:
    """Say whether the program is on its way out."""
    try:
        _, page = await asked(process, "readyz")
    except aiohttp.ClientError:
        return True
    return "shutting down" in page


async def test_a_worker_that_can_start_no_more_ends_the_program_with_its_code(
    database_url: str, tmp_path: Path
) -> None:
    """The catalog is a file of mistakes meanwhile: starting again cannot help."""
    catalog = tmp_path / "catalog.toml"
    catalog.write_text((ROOT / "catalog.toml").read_text())
    async with workers(database_url, BILLING_CATALOG=str(catalog)) as process:
        catalog.write_text("nonsense")
        os.kill(min(children(process.pid)), signal.SIGKILL)
        async with asyncio.timeout(START_BOUND_S):
            assert await process.ended() == 2


async def test_a_second_program_on_the_same_addresses_is_refused(database_url: str) -> None:
    """Workers share a port among themselves, and with nobody else, whether that one has workers or not."""
    async with workers(database_url) as process:
        taken = {"BILLING_GRPC_ADDRESS": process.grpc_address, "BILLING_WORKERS": "2"}
        for settings in (taken, taken | {"BILLING_WORKERS": "1"}):
            code, said = await process.another(settings)
            assert code == 1
            assert f"BILLING_GRPC_ADDRESS: cannot listen on {process.grpc_address}: address already in use" in said
