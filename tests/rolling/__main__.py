"""`make rolling`: two services and two gateways are restarted one after the other, under load, round and round.

Callers use the documented client over both services; people buy meanwhile, and the stand-in Stripe delivers its webhooks through a
balancer that asks the gateways' /readyz. No call may fail, no event may be lost, and everybody has what they bought, in the
database and in a watch that went on all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from billing.v1.entitlement_pb2 import GetEntitlementsRequest
from billing_client import BillingClient, Options

from sandbox.ports import HOST
from tests.acceptance.world import eventually, recorded_event_ids
from tests.rolling.balancer import Balancer
from tests.rolling.callers import TIMEOUT, Callers
from tests.rolling.site import Site

CONTROL_LIMIT_S = 30.0
RUN_LIMIT_S = 120.0  # of one round, far beyond what it takes


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    restarts: int
    unclean: int  # programs that did not end with exit code 0
    calls: dict[str, int]
    failed: int  # calls, as their callers see it
    failures: list[str]  # the first of them
    slowest_s: float
    bought: int
    events: int  # that Stripe has made
    lost: int  # of these, not in the database
    twice: int
    deliveries_failed: int  # attempts that Stripe has to make again: none is lost by that, but each comes later
    without_plan: int
    watch_faults: list[str]
    watch_behind: int  # customers of whom the watch did not tell the end

    @property
    def holds(self) -> bool:
        """Whether no call failed and nothing was lost."""
        wrong = (self.failed, self.lost, self.twice, self.without_plan, self.unclean, self.watch_behind)
        return not any(wrong) and not self.watch_faults and self.bought > 0


async def roll(site: Site, rounds: int, rate: float, seed: int) -> Outcome:
    """Start everything, restart everything in turn, and look."""
    site.start()
    options = Options([f"{HOST}:{port}" for port in site.grpc_ports], timeout=timedelta(seconds=20))
    limit = aiohttp.ClientTimeout(total=CONTROL_LIMIT_S)
    async with (
        Balancer(site.balancer_port, site.gateway_ports),
        aiohttp.ClientSession(timeout=limit) as http,
        BillingClient(options) as client,
    ):
        callers = Callers(client, http, site.control, rate, seed)
        watching = asyncio.create_task(callers.watch())
        calling = asyncio.create_task(callers.run())
        codes: list[int | None] = []
        try:
            for _ in range(rounds):
                async with asyncio.timeout(RUN_LIMIT_S):
                    codes += [await site.restart(child) for child in site.programs]
            callers.stop()
            await calling
            await eventually(lambda: _pending(http, site), lambda count: count == 0)
            await eventually(lambda: _behind(callers), lambda count: count == 0)
            return await _outcome(site, callers, codes, http, client)
        finally:
            calling.cancel()
            watching.cancel()
            await asyncio.gather(calling, watching, return_exceptions=True)


async def _pending(http: aiohttp.ClientSession, site: Site) -> int:
    return int((await _told(http, f"{site.control}/webhooks"))["pending"])


async def _behind(callers: Callers) -> int:
    return sum(callers.watched.get(name) != ("pro",) for name in callers.bought)


async def _told(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url) as answer:
        told: dict[str, Any] = await answer.json()
        return told


async def _outcome(
    site: Site, callers: Callers, codes: Sequence[int | None], http: aiohttp.ClientSession, client: BillingClient
) -> Outcome:
    answered = await _told(http, f"{site.control}/webhooks/taken")
    sent = {*answered["event_ids"], *answered["failed_events"]}
    recorded = recorded_event_ids(site.database_url)
    without = 0
    for name in callers.bought:
        told = await client.get_entitlements(GetEntitlementsRequest(customer_id=name), timeout=TIMEOUT)
        without += list(told.plan_keys) != ["pro"]
    return Outcome(
        restarts=len(codes),
        unclean=sum(code != 0 for code in codes),
        calls=dict(callers.calls),
        failed=callers.failed,
        failures=callers.failures,
        slowest_s=round(callers.slowest_s, 2),
        bought=len(callers.bought),
        events=len(sent),
        lost=len(sent - set(recorded)),
        twice=len(recorded) - len(set(recorded)),
        deliveries_failed=answered["attempts"] - len(answered["event_ids"]),
        without_plan=without,
        watch_faults=callers.watch_faults,
        watch_behind=await _behind(callers),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Give 0 when no call failed and nothing was lost, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.rolling", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=2, help="how often everything is restarted (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=1, help="of each service (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=40, help="reads and checks a second (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of who is asked for (default: %(default)s)")
    options = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="rolling-"))
    folder.chmod(0o711)  # PostgreSQL, which does not run as root, must get through
    log = folder / "programs.log"
    site = Site(folder, options.workers)
    try:
        with log.open("w", buffering=1) as lines, redirect_stderr(lines):
            try:
                outcome = asyncio.run(roll(site, options.rounds, options.rate, options.seed))
            finally:
                site.stop()
    except BaseException:
        sys.stderr.write("".join(log.read_text().splitlines(keepends=True)[-40:]))
        raise
    finally:
        shutil.rmtree((folder / "postgres").resolve(), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
