"""Reconciles for an operator who watches: each step is told when it is recorded, and whoever goes away stops the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from billing_service.domain.errors import (
    OverloadedError,
    RequestInProgressError,
    StripeRefusedError,
    StripeUnavailableError,
)
from billing_service.domain.operator import Operation, Order
from billing_service.flows.operator_request import Asked, answered, keep
from billing_service.flows.reconcile import KEPT_S, Reconcile
from billing_service.flows.reconcile_objects import ReconcileObjects
from billing_service.flows.reconcile_run import Progress
from billing_service.storage import reconcile_runs
from billing_service.storage.database import Database
from billing_service.storage.reconcile_runs import Run
from billing_service.stripe_api.errors import StripeBusy, StripeCallError, StripeDefinite, StripeNoAnswer

AT_ONCE: Final = 2  # of a process: all of them share one budget of requests to Stripe
UNREAD: Final = 100  # steps that a slow reader may leave; then the oldest is left out, since each tells all that those before it did


class Wanted(StrEnum):
    """What is to be gone through."""

    EVENTS = "events"
    SUBSCRIPTIONS = "subscriptions"
    PURCHASES = "purchases"
    CUSTOMER = "customer"
    EVERYTHING = "everything"


@dataclass(frozen=True)
class ReconcileWish:
    """What is to be gone through, of whom (CUSTOMER), and since when (EVENTS, Unix seconds; None: what no run covers)."""

    wanted: Wanted
    customer_id: str | None = None
    since: int | None = None


@dataclass(frozen=True)
class Step:
    """How far a run has come; `ended` where this is the last that is told of it."""

    run: Run
    ended: bool


@dataclass(frozen=True)
class _Ended:
    """What a repetition is answered with: the runs."""

    run_ids: tuple[int, ...]


class ReconcileOnRequest:
    """Runs what is asked for, and tells."""

    def __init__(
        self, database: Database, events: Reconcile, objects: ReconcileObjects, now: Callable[[], datetime]
    ) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._events = events
        self._objects = objects
        self._now = now
        self._under_way: list[ReconcileWish] = []

    async def __call__(self, order: Order, wish: ReconcileWish) -> AsyncGenerator[Step]:
        """Run, and tell each step. Closed by whoever listens, the run is recorded as stopped, and the next call goes on with it.

        Raises:
            StripeUnavailableError: Stripe does not answer; the run is recorded as failed.
            StripeRefusedError: Stripe refuses; likewise.
            RequestInProgressError: somebody goes through the same in this process; two would write into one run.
            OverloadedError: as many as may be are under way.
            RequestIdReusedError: the request id was used for something else.
        """
        asked = Asked(order, Operation.RECONCILE, wish, wish.customer_id)
        before = await self._database.run(lambda connection: answered(connection, asked, _Ended))
        if before is not None:
            for run_id in before.run_ids:
                yield Step(await self._recorded(run_id), ended=True)
            return
        if any(_overlap(one, wish) for one in self._under_way):
            raise RequestInProgressError
        if len(self._under_way) >= AT_ONCE:
            raise OverloadedError
        self._under_way.append(wish)
        try:
            run_ids: list[int] = []
            for one in self._chosen(wish):
                async with aclosing(_told(one)) as steps:
                    async for step in steps:
                        yield step
                        run_ids += [step.run.run_id] if step.ended else []
            await self._database.run(lambda connection: keep(connection, asked, _Ended(tuple(run_ids))))
        finally:
            self._under_way.remove(wish)

    def _chosen(self, wish: ReconcileWish) -> Sequence[Callable[[Progress], Awaitable[Run]]]:
        match wish.wanted:
            case Wanted.EVENTS:
                return [lambda tell: self._events.events(wish.since, tell)]
            case Wanted.SUBSCRIPTIONS:
                return [self._objects.subscriptions]
            case Wanted.PURCHASES:
                return [self._objects.purchases]
            case Wanted.CUSTOMER:
                return [lambda tell: self._objects.customer(wish.customer_id or "", tell)]
            case Wanted.EVERYTHING:
                month = int(self._now().timestamp()) - KEPT_S
                events = lambda tell: self._events.events(month, tell)  # noqa: E731 - one of three alike
                return [events, self._objects.subscriptions, self._objects.purchases]

    async def _recorded(self, run_id: int) -> Run:
        found = await self._database.run(lambda connection: reconcile_runs.find(connection, run_id))
        if found is None:
            raise LookupError("a run that ended is not there")
        return found.run


def _overlap(one: ReconcileWish, other: ReconcileWish) -> bool:
    """Whether two would go on with the same run. Those of one customer each begin one of their own."""
    walks = [wish.wanted for wish in (one, other) if wish.wanted is not Wanted.CUSTOMER]
    return len(walks) == 2 and (walks[0] is walks[1] or Wanted.EVERYTHING in walks)


async def _told(work: Callable[[Progress], Awaitable[Run]]) -> AsyncGenerator[Step]:
    """Tell the steps of a run while it goes on in a task, and its end; whoever stops listening stops it."""
    steps: asyncio.Queue[Run | None] = asyncio.Queue(UNREAD)

    def tell(run: Run | None) -> None:
        if steps.full():
            steps.get_nowait()
        steps.put_nowait(run)

    task = asyncio.ensure_future(work(tell))
    task.add_done_callback(lambda _: tell(None))
    try:
        while (run := await steps.get()) is not None:
            yield Step(run, ended=False)
        yield Step(_ended(task), ended=True)
    finally:
        task.cancel()
        with suppress(
            asyncio.CancelledError, Exception
        ):  # what it ended with was raised above, or nobody is there to hear it
            await task


def _ended(task: asyncio.Future[Run]) -> Run:
    try:
        return task.result()
    except (StripeNoAnswer, StripeBusy) as error:
        raise StripeUnavailableError from error
    except StripeDefinite as error:
        if error.is_server_error:
            raise StripeUnavailableError from error
        raise StripeRefusedError(metadata={"stripe_code": error.code} if error.code else None) from error
    except StripeCallError as error:
        raise StripeRefusedError from error
