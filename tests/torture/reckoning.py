"""The end of an epoch: everything is delivered, what was dropped is sent again, and nothing may be lost or differ."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import grpc
from billing.v1 import entitlement_pb2

from billing_service.domain.catalog import Catalog
from billing_service.domain.observation import HANDLED_TYPES
from billing_service.domain.plan_index import PlanIndex
from billing_service.rpc.responses import get_entitlements_response
from tests.torture.plan import Repair
from tests.torture.stage import Stage
from tests.torture.truth import entitlements_of

_LOOK_EVERY_S = 0.25  # asking processes across sockets again: nothing tells us when they are done
_FLUSH_LIMIT_S = 120.0
_REST_LIMIT_S = 900.0  # the service reads some ten objects a second, and a long epoch leaves it thousands
_COMPARE_LIMIT_S = 10.0  # once it has read them all
_CALL_S = 10.0
_CALLS_AT_ONCE = 8


@dataclass
class Reckoning:
    """What came of an epoch, or of all of them."""

    deliveries: int = 0
    events: int = 0
    lost: list[str] = field(default_factory=list)  # answered 2xx, or dropped and repaired, and in no table
    twice: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    compared: int = 0
    differing: dict[str, str] = field(default_factory=dict)  # customer id -> what is and what must be

    @property
    def is_clean(self) -> bool:
        """Whether nothing is lost, applied twice or different from the truth."""
        return not (self.lost or self.twice or self.differing)


async def flush(stage: Stage, repair: Repair) -> None:
    """End the faults, have everything that is on its way arrive, and repair what was dropped.

    Raises:
        TimeoutError: the gateway does not take it, or the service does not find it.
    """
    await stage.control("faults")
    async with asyncio.timeout(_FLUSH_LIMIT_S):
        await _until_sent(stage)
        if repair is Repair.RECONCILE:
            stage.restart_service()
            await _until_found(stage)
            return
        while True:
            await _until_sent(stage)
            if not (await stage.control("webhooks/resend"))["resent"]:
                break


async def gather_anew(stage: Stage) -> None:
    """Have everybody's facts gathered from all objects, as after an upgrade: they must be what the events made them.

    Raises:
        TimeoutError: the service does not come to an end with it.
    """
    stage.upgrade()
    async with asyncio.timeout(_FLUSH_LIMIT_S):
        while not stage.is_upgraded():  # noqa: ASYNC110  # across a socket nothing can be waited for
            await asyncio.sleep(_LOOK_EVERY_S)


async def _until_sent(stage: Stage) -> None:
    while (await stage.ask("webhooks"))["pending"]:  # noqa: ASYNC110  # across a socket nothing can be waited for
        await asyncio.sleep(_LOOK_EVERY_S)


async def _until_found(stage: Stage) -> None:
    """Wait until the service has found every event that nobody sent it."""
    missing = _used((await stage.ask("webhooks/taken"))["failed_events"])
    while missing:
        recorded = stage.events().recorded
        missing = [event_id for event_id in missing if event_id not in recorded]
        await asyncio.sleep(_LOOK_EVERY_S if missing else 0)


def _used(failed: Mapping[str, str | None]) -> list[str]:
    """Give the events of which the service makes use, of those that nobody took: it asks Stripe for no others."""
    return [event_id for event_id, event_type in failed.items() if event_type in HANDLED_TYPES]


async def reckon(stage: Stage, catalog: Catalog, customer_ids: Sequence[str]) -> Reckoning:
    """Count the events and compare these customers, once everything has come to rest."""
    taken = await stage.ask("webhooks/taken")
    rows = stage.events()
    found = Reckoning(deliveries=taken["attempts"], events=len(taken["event_ids"]))
    sent = [*taken["event_ids"], *_used(taken["failed_events"])]
    found.lost = [i for i in sent if i not in rows.recorded and i not in rows.quarantined]
    found.twice = [i for i in rows.recorded if rows.recorded[i] > 1 or i in rows.quarantined]
    found.quarantined = sorted(rows.quarantined)
    await _compare(stage, catalog, customer_ids, found)
    return found


async def _compare(stage: Stage, catalog: Catalog, customer_ids: Sequence[str], found: Reckoning) -> None:
    """Compare until nobody differs, or the service has nothing more to read from Stripe that could change it."""
    end = time.monotonic() + _REST_LIMIT_S
    deadline = min(end, time.monotonic() + _COMPARE_LIMIT_S)
    left = list(customer_ids)
    while left:
        plans = await _plans(stage, catalog)
        slots = asyncio.Semaphore(_CALLS_AT_ONCE)
        told = await asyncio.gather(*(_difference(stage, plans, customer_id, slots) for customer_id in left))
        found.differing = {i: text for i, text in zip(left, told, strict=True) if text is not None}
        left = list(found.differing)
        if left and stage.rereads_due():
            deadline = min(end, time.monotonic() + _COMPARE_LIMIT_S)
        if left and time.monotonic() > deadline:
            break
        await asyncio.sleep(_LOOK_EVERY_S if left else 0)
    found.compared = len(customer_ids)


async def _plans(stage: Stage, catalog: Catalog) -> PlanIndex:
    """Say which plan each price stands for: the stand-in's seeded products carry the plan's key."""
    remembered: dict[str, str] = {}
    after: dict[str, str] = {}
    while True:  # as many pages as there are hundreds of prices
        page = await stage.stripe("GET", "prices", limit="100", **after)
        remembered |= {price["id"]: str(price["product"]).removeprefix("prod_") for price in page["data"]}
        if not page["has_more"]:
            return PlanIndex(catalog, remembered)
        after = {"starting_after": page["data"][-1]["id"]}


async def _difference(stage: Stage, plans: PlanIndex, customer_id: str, slots: asyncio.Semaphore) -> str | None:
    async with slots:
        request = entitlement_pb2.GetEntitlementsRequest(customer_id=customer_id)
        try:
            answer = await stage.billing.GetEntitlements(request, timeout=_CALL_S)
        except grpc.aio.AioRpcError as error:
            return f"not answered: {error.code().name}"
        truth: Mapping[str, Any] = (await stage.ask(f"truth/{customer_id}"))["customers"].get(customer_id, {})
    wanted = get_entitlements_response(
        entitlements_of(customer_id, truth, plans, answer.read_time.ToDatetime(tzinfo=UTC))
    )
    wanted.revision = answer.revision  # the stand-in knows nothing of our revisions
    if wanted == answer:
        return None
    return f"is:\n{answer}\nmust be:\n{wanted}"
