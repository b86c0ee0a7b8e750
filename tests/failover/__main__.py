"""`make failover`: a primary with a synchronous standby dies under webhook load, and the standby is promoted.

No event that was acknowledged may be lost, and every purchase must be complete in the end. It tells how long no event could be
written. Much of that is how long whoever promotes takes to notice, which is his to set: `--notice-s`.

`--cut-off`: the standby is cut off a while before. Then nothing may be acknowledged that it does not have, so that nothing is.
`--asynchronous` shows what that is like without synchronous replication: what was acknowledged meanwhile is lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import grpc
from billing.v1 import entitlement_pb2
from billing.v1.billing_service_pb2_grpc import BillingServiceStub

from sandbox.channel import credentials
from sandbox.ports import Ports
from sandbox.stack import Plan
from tests.acceptance.world import ROOT, recorded_event_ids
from tests.failover.load import Load
from tests.failover.replicated import Replicated
from tests.standby import REPLICATION

EVENTS_BEFORE = 300
EVENTS_AFTER = 100
EVENTS_CUT_OFF = 20
RUN_LIMIT_S = 120.0


@dataclass(frozen=True)
class Course:
    """How it is to happen."""

    synchronous: bool
    cut_off: bool
    notice_s: float  # from the death until somebody promotes


@dataclass(frozen=True)
class Outcome:
    """What came of it; times in seconds after the death of the primary."""

    acknowledged: int  # events that were answered with 200, before and after
    refused: int  # answers of 503, all of which were sent again
    lost: int  # acknowledged, and not in the database
    twice: int
    incomplete: int  # customers without what they bought
    noticed_s: float
    promoted_s: float
    writes_again_s: float

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, doubled or left half."""
        return not (self.lost or self.twice or self.incomplete)


async def failover(stack: Replicated, course: Course) -> Outcome:
    """Start everything, kill the primary under load, promote, and look."""
    stack.start()
    stack.replicate(synchronous=course.synchronous)
    addresses = stack.addresses()
    known = credentials(stack.secrets.grpc_token)
    async with aiohttp.ClientSession() as http, grpc.aio.secure_channel(addresses["grpc"], known) as channel:
        billing = BillingServiceStub(channel)
        load = Load(http, addresses["gateway"], addresses["webhook_secret"])
        sending = asyncio.create_task(load.run())
        try:
            await load.until(EVENTS_BEFORE)
            if course.cut_off:
                stack.cut_off()
                await (
                    load.until_refused() if course.synchronous else load.until(EVENTS_CUT_OFF, after=time.monotonic())
                )
                if not await _has_plan(billing, "load-0"):  # reads go on while nothing can be committed
                    raise AssertionError("a plan is gone while the standby is cut off")
            died = time.monotonic()
            stack.kill_primary()
            await asyncio.sleep(course.notice_s)
            await asyncio.to_thread(stack.promote)
            promoted_s = time.monotonic() - died
            # What was on its way when it died may be acknowledged a moment later: it was committed before.
            await load.until(EVENTS_AFTER, after=died + promoted_s)
            load.stop()
            await sending
        finally:
            sending.cancel()
        recorded = Counter(recorded_event_ids(stack.standby.url("billing")))
        missing = [number for number in range(load.purchases) if not await _has_plan(billing, f"load-{number}")]
    return Outcome(
        acknowledged=len(load.acknowledged),
        refused=load.refused,
        lost=len(load.acknowledged.keys() - recorded.keys()),
        twice=sum(count > 1 for count in recorded.values()),
        incomplete=len(missing),
        noticed_s=course.notice_s,
        promoted_s=round(promoted_s, 2),
        writes_again_s=round(min(at for at in load.acknowledged.values() if at > died + promoted_s) - died, 2),
    )


async def _has_plan(billing: BillingServiceStub, customer_id: str) -> bool:
    request = entitlement_pb2.GetEntitlementsRequest(customer_id=customer_id)
    answer = await billing.GetEntitlements(request, timeout=10)  # type: ignore[misc]  # the stub is typed for both kinds of channel
    return list(answer.plan_keys) == ["pro"]


async def _run(folder: Path, course: Course) -> Outcome:
    settings = {"BILLING_DEPLOYMENT": "default", "BILLING_RECONCILE_INTERVAL_S": "86400"}
    plan = Plan(
        folder,
        Ports.choose(0),
        ROOT / "catalog.toml",
        storefront=False,
        postgres_settings=REPLICATION,
        service_settings=settings,
    )
    stack = Replicated(plan)
    try:
        async with asyncio.timeout(RUN_LIMIT_S):
            return await failover(stack, course)
    finally:
        stack.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Give 0 when nothing was lost, 1 when something was."""
    parser = argparse.ArgumentParser(prog="python -m tests.failover", description=__doc__.partition("\n")[0])
    parser.add_argument("--asynchronous", action="store_true", help="without synchronous replication: loses")
    parser.add_argument("--notice-s", type=float, default=3.0, help="until somebody promotes (default: %(default)s)")
    parser.add_argument("--cut-off", action="store_true", help="cut the standby off before the primary dies")
    options = parser.parse_args(argv)
    asynchronous = options.asynchronous
    course = Course(synchronous=not asynchronous, cut_off=options.cut_off or asynchronous, notice_s=options.notice_s)
    folder = Path(tempfile.mkdtemp(prefix="failover-"))
    folder.chmod(0o711)  # PostgreSQL, which does not run as root, must get through
    log = folder / "programs.log"
    try:
        with log.open("w", buffering=1) as lines, redirect_stderr(lines):
            outcome = asyncio.run(_run(folder, course))
    except BaseException:
        sys.stderr.write("".join(log.read_text().splitlines(keepends=True)[-40:]))
        raise
    finally:
        for path in {(folder / name).resolve() for name in ("postgres", "standby")} | {folder}:
            shutil.rmtree(path, ignore_errors=True)
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
