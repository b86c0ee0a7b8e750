"""The commands of a deployment as processes, with a Stripe account to work on."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from billing_service.flows.admit_catalog import AdmitCatalog
from sandbox.stripe.app import StandInStripe
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import running
from tests.integration.program.conftest import KEY, ROOT
from tests.stripe_events import purchase


@asynccontextmanager
async def account() -> AsyncIterator[str]:
    """Run an empty Stripe account."""
    stand_in = StandInStripe(KEY)
    try:
        yield await stand_in.start()
    finally:
        await stand_in.stop()


def environment(stripe_url: str, database_url: str = "") -> Mapping[str, str]:
    """Give what the commands need, and nothing of the service's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}
    return kept | {
        "BILLING_STRIPE_API_KEY": KEY,
        "BILLING_STRIPE_API_BASE": stripe_url,
        "BILLING_DATABASE_URL": database_url,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "clients/python")]),
    }


async def run(variables: Mapping[str, str], *words: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    """Run a command without a terminal; give its exit code, its report, and what it said beside."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "billing_service", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=variables,
        cwd=cwd,
    )
    out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def shop(database_url: str, *customer_ids: str) -> None:
    """Have a service use the example's catalog, and these customers buy Pro just now."""
    async with running(database_url) as service:
        await AdmitCatalog(service.database, CATALOG, lambda: datetime.now(UTC))()
        for customer_id in customer_ids:
            await service.outcomes(*purchase(customer_id, int(time.time())))
