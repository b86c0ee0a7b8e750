"""The composition root: which object gets which, in which order they start, and in which they stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import structlog

from billing_service.address import Addresses, ListenError
from billing_service.clock import clock_of
from billing_service.domain.catalog import Catalog
from billing_service.flows.admit_catalog import AdmitCatalog
from billing_service.flows.asked_reads import AskedReads
from billing_service.flows.await_checkout import AwaitCheckout
from billing_service.flows.change_feed import ChangeFeed
from billing_service.flows.change_grants import ChangeGrants
from billing_service.flows.change_subscription import ChangeSubscription
from billing_service.flows.check_entitlement import CheckEntitlement
from billing_service.flows.close_finding import CloseFinding
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from billing_service.flows.create_portal_session import CreatePortalSession
from billing_service.flows.describe_customer import DescribeCustomer
from billing_service.flows.discard_quarantined_event import DiscardQuarantinedEvent
from billing_service.flows.erase_customer import EraseCustomer
from billing_service.flows.follow_replica import FollowReplica
from billing_service.flows.fulfill import Fulfill
from billing_service.flows.get_checkout_session import GetCheckoutSession
from billing_service.flows.get_entitlements import GetEntitlements
from billing_service.flows.lanes import Lane
from billing_service.flows.link_stripe_customer import LinkStripeCustomer
from billing_service.flows.list_plans import ListPlans
from billing_service.flows.look_again import LookAgain
from billing_service.flows.look_up import LookUp
from billing_service.flows.preview_subscription_update import PreviewSubscriptionUpdate
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.read_past import ReadPast
from billing_service.flows.reads import Reads
from billing_service.flows.reconcile import Reconcile
from billing_service.flows.reconcile_objects import ReconcileObjects
from billing_service.flows.reconcile_on_request import ReconcileOnRequest
from billing_service.flows.refresh import Refresh
from billing_service.flows.replay import Replay
from billing_service.flows.replay_on_request import ReplayOnRequest
from billing_service.flows.request_budget import Budget, RequestBudget
from billing_service.flows.retell import Retell
from billing_service.flows.retention import Kept, Retention
from billing_service.flows.tallies import Tallies
from billing_service.flows.time_changes import TimeChanges
from billing_service.flows.watch_entitlements import WatchEntitlements
from billing_service.handshakes import Reason
from billing_service.live_access import LiveAccess
from billing_service.metrics import Metrics
from billing_service.ops import Health, Ops, OpsListener, Sources
from billing_service.readiness import ReadinessWatch
from billing_service.rpc.admin_servicer import AdminFlows, AdminServicer
from billing_service.rpc.health import TELL_LIMIT_S
from billing_service.rpc.server import LISTENER_STOP_S, Listener, internal_listener, public_listener
from billing_service.rpc.servicers import BillingFlows, BillingServicer, FulfillmentServicer
from billing_service.settings import Settings
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi

# The parts of a stop, one after the other, each with its bound; what they come to is less than whoever ends us gives, as a test
# compares. No part that hangs is waited for any longer: what was not acknowledged comes again.
DRAIN_S: Final = 10.0  # for calls in flight at the stop: the longest that a call without a deadline may take
WRITER_DRAIN_S: Final = 5.0  # for events that wait for the writer then, beside the time that their calls had
TASKS_END_S: Final = 1.0  # for tasks that were told to end: twice, the looks at readiness and all others
CLOSE_S: Final = 2.0  # for connections
# Beside the delay of the settings.
STOP_LIMIT_S: Final = TELL_LIMIT_S + LISTENER_STOP_S + DRAIN_S + WRITER_DRAIN_S + 2 * TASKS_END_S + CLOSE_S
BACKGROUND_PAUSE_S: Final = 5.0  # before the next try after a defect

_log = structlog.stdlib.get_logger(__name__)


class Program:
    """The service, put together. Nothing listens and nothing is connected before `serve`."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        now: Callable[[], datetime] | None = None,
        *,
        ops: Callable[[Sources], Ops] = OpsListener,
        shared: bool = False,
    ) -> None:
        """Take the checked settings and catalog, and a clock where it is not the settings'. Needs a running event loop.

        `ops` makes what shows the health page; `shared`: other workers listen on the same addresses.
        """
        self._settings = settings
        now = now or clock_of(settings.sandbox_clock)
        database_url = settings.database_url.get_secret_value()
        self._database = Database(database_url)
        self._metrics = Metrics()
        budget = Budget(settings.stripe_background_rate)
        self._budget = RequestBudget(self._database, budget, self._metrics.spent)
        self._stripe = StripeApi(
            settings.stripe_api_key.get_secret_value(),
            settings.stripe_api_base,
            before=self._budget.spend,
            after=self._metrics.request,
        )
        admit = AdmitCatalog(self._database, catalog, now)
        self._prices = Prices(self._database, self._stripe, catalog, admit)
        self._fulfill = Fulfill(self._database, self._prices, settings.deployment, now, self._metrics.event)
        self._reads = Reads(self._database, self._stripe, self._prices, settings.deployment, now)
        self._change = ChangeSubscription(self._database, self._stripe, self._prices, self._reads, now)
        self._refresh = Refresh(self._database, self._stripe, self._reads, budget, self._change.finish_left)
        self._reconcile = Reconcile(
            self._database,
            self._stripe.listing,
            self._fulfill.backlog,
            self._budget,
            now,
            settings.reconcile_interval_s,
        )
        self._retention = Retention(self._database, _kept(settings), now)
        self._tallies = Tallies(self._database, budget, now, self._metrics.tallied)
        self._replay = Replay(self._database, self._fulfill.backlog)
        self._feed = ChangeFeed(
            self._database,
            database_url,
            Retell(self._database, self._prices, now),
            lambda made: self._metrics.visible((now() - made).total_seconds()),
        )
        self._time_changes = TimeChanges(self._database, self._prices, now)
        self._look_again = LookAgain(self._database, self._prices, now)
        self._replica_database = _replica_database(settings)
        self._replica = self._followed(self._replica_database)
        self._read = ReadEntitlements(self._database, self._prices, now, self._replica)
        self._watch_entitlements = WatchEntitlements(self._database, self._prices, self._feed, now)
        asked = AskedReads(self._database, self._reads, now, self._change.finish_left)
        self._await_checkout = AwaitCheckout(self._database, self._read, asked, now)
        self._erase = EraseCustomer(self._database, now)
        self._access = LiveAccess(settings)
        self._public, self._internal = self._made_listeners(now, shared=shared)
        for listener in self._listeners:
            self._access.when_changed(listener.look_again)
        # Of its own, so that a pool that is full of waiting calls does not look like a database that is away.
        self._probe = Database(database_url, pool_size=1)
        self._watch = ReadinessWatch(self._probe, self._announce, self._prices.plans)
        self._ops = ops(Sources(self._health, self._numbers))
        self._show_numbers(budget)

    def _followed(self, replica: Database | None) -> FollowReplica | None:
        if replica is None:
            return None
        staleness_s = self._settings.read_max_staleness_ms / 1000
        return FollowReplica(self._database, replica, staleness_s, self._metrics.replica_read)

    def _made_listeners(self, now: Callable[[], datetime], *, shared: bool) -> tuple[Listener, Listener]:
        """Make the public one and the internal one; what they serve is there already."""
        public = public_listener(
            BillingServicer(self._billing_flows(now), self._settings.redirect_hosts),
            gate=self._access.public_gate(),
            credentials=self._access.credentials(),
            observe=self._metrics.call,
            shared=shared,
        )
        internal = internal_listener(
            FulfillmentServicer(self._fulfill),
            AdminServicer(self._admin_flows(now), now),
            gate=self._access.internal_gate(),
            credentials=self._access.credentials(),
            observe=self._metrics.call,
            shared=shared,
        )
        return public, internal

    def _show_numbers(self, budget: Budget) -> None:
        """Have the metrics show what is known here at any moment."""
        self._metrics.show(
            ready=lambda: float(self._watch.current.ready),
            connections={"in_use": lambda: self._database.in_use, "most": lambda: self._database.size},
            waiting={lane.name.lower(): partial(self._fulfill.waiting, lane) for lane in Lane},
            watches=lambda: self._watch_entitlements.watches,
            budget=budget,
        )
        prices = self._prices
        self._metrics.show_prices(
            {"catalog": lambda: float(len(prices.unresolved())), "customers": lambda: float(len(prices.held()))}
        )
        self._metrics.show_files(lambda: float(len(self._access.watch.warnings())), self._access.ends())
        if (replica := self._replica) is not None:
            self._metrics.show_replica(lambda: replica.age_s)

    def _billing_flows(self, now: Callable[[], datetime]) -> BillingFlows:
        deployment = self._settings.deployment
        return BillingFlows(
            create_checkout_session=CreateCheckoutSession(
                self._database, self._stripe, self._prices, self._reads, deployment, now
            ),
            get_checkout_session=GetCheckoutSession(self._database, now),
            get_entitlements=GetEntitlements(
                self._prices, self._read, ReadPast(self._database, self._prices, now), self._await_checkout
            ),
            check_entitlement=CheckEntitlement(self._prices, self._read),
            list_plans=ListPlans(self._prices),
            watch_entitlements=self._watch_entitlements,
            change_subscription=self._change,
            preview_subscription_update=PreviewSubscriptionUpdate(
                self._database, self._stripe, self._prices, self._reads, now
            ),
            create_portal_session=CreatePortalSession(self._database, self._stripe, self._prices, self._reads, now),
        )

    def _admin_flows(self, now: Callable[[], datetime]) -> AdminFlows:
        objects = ReconcileObjects(
            self._database, self._stripe.listing, self._reads, self._budget, self._settings.deployment, now
        )
        return AdminFlows(
            describe_customer=DescribeCustomer(self._database, self._prices, now),
            look_up=LookUp(self._database, self._prices, now),
            change_grants=ChangeGrants(self._database, self._prices, now),
            link_stripe_customer=LinkStripeCustomer(self._database, self._reads, self._prices, now),
            replay=ReplayOnRequest(self._database, self._replay),
            discard_quarantined_event=DiscardQuarantinedEvent(self._database),
            reconcile=ReconcileOnRequest(self._database, self._reconcile, objects, now),
            close_finding=CloseFinding(self._database),
            erase_customer=self._erase,
        )

    async def serve(self, stop: asyncio.Event, listening: Callable[[Addresses], None]) -> None:
        """Serve until `stop` is set, then drain. `listening` is told where, once all three listeners are up.

        The database and Stripe may be away: health says so until the database is there.

        Raises:
            ListenError: an address is in use.
            Exception: what a background task died of; nothing goes on without one of them.
        """
        try:
            listening(await self._listen())
        except ListenError:
            await asyncio.gather(*(listener.stop(0) for listener in self._listeners))
            await self._close()
            raise
        writer = asyncio.create_task(self._fulfill.run(), name="writer")
        kept = {
            "prices": self._prices.run,
            "refresh": self._refresh.run,
            "reconcile": self._reconcile.run,
            "budget": self._budget.run,
            "replay": self._replay.run,
            "change feed": self._feed.run,
            "time changes": self._time_changes.run,
            "looks": self._look_again.run,
            "retention": self._retention.run,
            "erasing": self._erase.run,
            "tallies": self._tallies.run,
        }
        if self._replica is not None:
            kept["replica"] = self._replica.run
        background = [asyncio.create_task(self._keep(name, work), name=name) for name, work in kept.items()]
        background.append(asyncio.create_task(self._access.watch.run(), name="access"))  # also without a database
        watch = asyncio.create_task(self._watch.run(), name="readiness")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({writer, *background, watch, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _ended(watch, stopping)
            await self._drain(writer)
            await _ended(writer, *background)
            await self._close()
        for task in (writer, *background, watch):
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _listen(self) -> Addresses:
        settings = self._settings
        return Addresses(
            grpc=await self._public.start(settings.grpc_address, "BILLING_GRPC_ADDRESS"),
            internal=await self._internal.start(settings.internal_address, "BILLING_INTERNAL_ADDRESS"),
            ops=await self._ops.start(settings.ops_address, "BILLING_OPS_ADDRESS"),
        )

    async def _health(self) -> Health:
        replica = [] if self._replica is None else self._replica.warnings()
        return Health(self._watch.current, [*self._prices.warnings(), *self._access.watch.warnings(), *replica])

    def handshake_failed(self, reason: Reason) -> None:
        """Count a connection that TLS refused; from any thread."""
        self._metrics.handshake_failed(reason)

    async def _numbers(self) -> bytes:
        return self._metrics.page()

    async def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keep background work going from the first moment at which there is a database to do it in.

        What goes wrong with it is no reason to stop: calls are answered from what is known.
        """
        await self._watch.was_ready.wait()
        while True:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - see above; the log has it each time
                _log.error("background_work_failed", work=name, exc_info=error)
                await asyncio.sleep(BACKGROUND_PAUSE_S)

    async def _announce(self, ready: bool) -> None:
        await asyncio.gather(*(listener.set_serving(serving=ready) for listener in self._listeners))

    @property
    def _listeners(self) -> tuple[Listener, Listener]:
        return (self._public, self._internal)

    async def _drain(self, writer: asyncio.Task[None]) -> None:
        """Say that we are going, answer what is in flight, and write what was taken.

        In between is time for whoever follows our health to call others: what reaches gRPC while it stops taking calls is
        cancelled unseen (grpcio 1.85), also what it was sent before it said so.
        """
        await self._watch.stop()
        if self._watch.was_ready.is_set():
            await asyncio.sleep(self._settings.drain_delay_s)
        await asyncio.gather(*(listener.stop(DRAIN_S) for listener in self._listeners))
        await self._fulfill.close()
        _, unfinished = await asyncio.wait({writer}, timeout=WRITER_DRAIN_S)
        if unfinished:
            _log.warning("drain_incomplete", waited_s=WRITER_DRAIN_S)

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._close_all()
        except TimeoutError:
            _log.warning("close_incomplete", waited_s=CLOSE_S)

    async def _close_all(self) -> None:
        await self._await_checkout.close()
        await self._ops.stop()
        await self._stripe.close()
        await self._probe.close()
        if self._replica_database is not None:
            await self._replica_database.close()
        await self._database.close()


async def _ended(*tasks: asyncio.Task[object]) -> None:
    """Cancel tasks and wait until they are gone, for a bounded time; what they died of before stays with them."""
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        _, late = await asyncio.wait(tasks, timeout=TASKS_END_S)
        if late:
            _log.warning("tasks_do_not_end", waited_s=TASKS_END_S, work=sorted(task.get_name() for task in late))


def _kept(settings: Settings) -> Kept:
    return Kept(
        payloads=timedelta(days=settings.payload_retention_days),
        events=timedelta(days=settings.event_retention_days),
        history=timedelta(days=settings.history_retention_days),
    )


def _replica_database(settings: Settings) -> Database | None:
    url = settings.read_database_url
    return None if url is None else Database(url.get_secret_value(), pool_size=1)
