"""A local copy of what customers may use, fed by one watch: a check is a look-up in a dictionary.

While the watch is alive, the copy shows a change some milliseconds after its commit. When nothing is heard for a while, each
feature answers by the policy that the caller gave it; every answer says how old it is and whether it fell back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from math import isfinite
from types import TracebackType
from typing import Self

from billing.v1.billing_service_pb2 import ListPlansResponse
from billing.v1.entitlement_pb2 import GetEntitlementsResponse
from billing.v1.plan_pb2 import FeatureValue, PlanFeature
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse

from billing_client.aio import BillingClient
from billing_client.errors import BillingError

Value = bool | int | str | None  # None: an integer without a limit
AGAIN_S = 5.0  # between two tries of a cache whose watch ended for a reason that is final for a watch
MOST_ASKED = 8  # processes, one after the other, for the plans of the catalog that a snapshot has
_Kind = WatchEntitlementsResponse
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Closed:
    """While nothing is heard: no."""


@dataclass(frozen=True)
class Open:
    """While nothing is heard: yes, with this value."""

    value: Value = True


@dataclass(frozen=True)
class LastKnown:
    """While nothing is heard: what was known last, up to an age; then another policy.

    What was to end by time alone in between has ended.
    """

    max_age: timedelta
    then: Closed | Open = field(default_factory=Closed)


Policy = Closed | Open | LastKnown


class Check:
    """The answer to one check."""

    __slots__ = ("_heard", "allowed", "ends", "fell_back", "revision", "value")

    def __init__(
        self,
        *,
        allowed: bool,
        value: Value,
        revision: int,
        ends: float | None,
        heard: Callable[[], float],
        fell_back: bool = False,
    ) -> None:
        """`ends` is when time alone may change it (unix seconds), `heard` when the service was heard last (monotonic)."""
        self.allowed = allowed
        self.value = value
        self.revision = revision
        self.ends = ends
        self.fell_back = fell_back
        self._heard = heard

    @property
    def age(self) -> timedelta:
        """How long ago the answer was known to be right: when the service was heard last, of one that was kept before it changed."""
        age_s = self.age_s
        return timedelta(0, 0, int(age_s * 1e6)) if isfinite(age_s) else timedelta.max  # integers: twice as fast

    @property
    def age_s(self) -> float:
        """The same in seconds, for paths that look at it at each check; infinite where it was never heard."""
        return time.monotonic() - self._heard()

    def __repr__(self) -> str:
        return f"Check(allowed={self.allowed}, value={self.value!r}, age={self.age}, fell_back={self.fell_back})"


class _Heard:
    """When the service was heard last, for as long as what it told holds."""

    __slots__ = ("_live", "_until")

    def __init__(self, live: Callable[[], float]) -> None:
        self._live = live
        self._until: float | None = None

    def __call__(self) -> float:
        return self._live() if self._until is None else self._until

    def end(self) -> None:
        """Something else is told from now on."""
        self._until = self._live()


class UnknownFeatureError(LookupError):
    """The catalog has no feature of this key: a mistake of the caller's, not an answer."""


class NotWatchedError(LookupError):
    """The cache was made for other customers."""


class EntitlementCache:
    """Keeps what customers may use; enter it to begin, and `ready` to wait for the first snapshot.

    `check` may be called from any thread; everything else belongs to the loop that entered it.
    """

    def __init__(
        self,
        client: BillingClient,
        *,
        customer_ids: Collection[str] | None = None,
        policies: Mapping[str, Policy] | None = None,
        default_policy: Policy = LastKnown(timedelta(minutes=5)),
        stale_after: timedelta = timedelta(seconds=40),
    ) -> None:
        """Watch these customers, or all. A feature without a policy of its own has the default one.

        `stale_after` is how long nothing may be heard before policies apply; the service speaks every 15 seconds at least.
        """
        self._client = client
        self._customer_ids = None if customer_ids is None else sorted(customer_ids)
        self._policies = dict(policies or {})
        self._default_policy = default_policy
        self._stale_after_s = stale_after.total_seconds()
        self._checks: dict[str, dict[str, Check]] = {}
        self._since: dict[str, _Heard] = {}  # of each of these, so that one who keeps a check sees it grow old
        self._strangers: dict[str, Check] = {}  # what a customer has of whom nothing is known
        self._catalog_version = self._strangers_version = ""  # of what was told, and of these
        self._fresh_until = 0.0
        self._heard = float("-inf")
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def ready(self) -> None:
        """Wait until the first snapshot is whole; the caller bounds it.

        Raises:
            BillingError: the watch was refused (a wrong token, say), and coming again cannot help.
            Exception: whatever a `token` that is a function raised.
        """
        if self._task is None:
            raise RuntimeError("enter the cache first")
        waiting = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done() and not self._ready.is_set():
            self._task.result()

    def check(self, customer_id: str, feature_key: str) -> Check:
        """Say whether a customer may use a feature, and how much.

        Raises:
            UnknownFeatureError: the catalog has no such feature.
            NotWatchedError: the cache was made for other customers.
        """
        if time.monotonic() < self._fresh_until:
            try:
                return self._checks[customer_id][feature_key]
            except KeyError:
                return self._stranger(customer_id, feature_key)
        return self._fallen_back(customer_id, feature_key)

    def _stranger(self, customer_id: str, feature_key: str) -> Check:
        if customer_id in self._checks:
            raise UnknownFeatureError(feature_key)
        if self._customer_ids is not None and customer_id not in self._customer_ids:
            raise NotWatchedError("the cache was made for other customers")
        try:
            one = self._strangers[feature_key]
        except KeyError:
            raise UnknownFeatureError(feature_key) from None
        return self._answer(one.allowed, one.value, one.revision, one.ends)

    def _fallen_back(self, customer_id: str, feature_key: str) -> Check:
        policy = self._policies.get(feature_key, self._default_policy)
        if isinstance(policy, LastKnown):
            age_s = time.monotonic() - self._heard
            if age_s <= policy.max_age.total_seconds():
                known = self._checks[customer_id].get(feature_key) if customer_id in self._checks else None
                known = known or self._stranger(customer_id, feature_key)
                if known.ends is None or time.time() < known.ends:
                    return self._answer(known.allowed, known.value, known.revision, known.ends, fell_back=True)
            policy = policy.then
        if isinstance(policy, Open):
            return self._answer(True, policy.value, 0, None, fell_back=True)
        return self._answer(False, False, 0, None, fell_back=True)

    def _answer(
        self, allowed: bool, value: Value, revision: int, ends: float | None, *, fell_back: bool = False
    ) -> Check:
        """Give an answer of this moment, which is not told again."""
        heard = self._heard
        return Check(
            allowed=allowed, value=value, revision=revision, ends=ends, heard=lambda: heard, fell_back=fell_back
        )

    async def _run(self) -> None:
        """Follow the watch for ever. Once it was heard, whatever is final for a watch (a token that was taken out before its
        successor was here, or cannot be read for a moment) is tried again: a cache that stopped would answer by its policies
        until its process ends.
        """
        while True:
            try:
                await self._follow()
            except Exception as error:
                if not self._ready.is_set():
                    raise
                # Its kind alone: what a caller's own function raises may hold anything.
                log.warning("the watch of a cache ended (%s); again in %s s", type(error).__name__, AGAIN_S)
            await asyncio.sleep(AGAIN_S)

    async def _follow(self) -> None:
        """Follow one watch; what is being sent as a snapshot takes the place of the old one once it is whole."""
        coming: dict[str, dict[str, Check]] = {}
        since: dict[str, _Heard] = {}
        request = WatchEntitlementsRequest(customer_ids=self._customer_ids or ())
        async for message in self._client.watch_entitlements(request):
            if message.kind == _Kind.KIND_SNAPSHOT_BEGIN:
                coming, since, self._catalog_version = {}, {}, ""
            elif message.kind in {_Kind.KIND_SNAPSHOT, _Kind.KIND_CHANGE}:
                told, heard = message.entitlements, _Heard(lambda: self._heard)
                is_coming = message.kind == _Kind.KIND_SNAPSHOT or not message.cursor
                checks, ages = (coming, since) if is_coming else (self._checks, self._since)
                if told.customer_id in ages:
                    ages[told.customer_id].end()
                checks[told.customer_id], ages[told.customer_id] = self._lines(told, heard), heard
                self._catalog_version = told.catalog_version
            elif message.kind == _Kind.KIND_SNAPSHOT_END:
                plans = await self._plans_for_strangers()
                for old in self._since.values():
                    old.end()
                self._checks, self._since = coming, since
                self._take_strangers(plans)
            if message.cursor:  # not while a first snapshot is under way: there is nothing to be fresh of
                self._heard = time.monotonic()
                self._fresh_until = self._heard + self._stale_after_s
                self._ready.set()
            if message.kind == _Kind.KIND_PROGRESS and self._strangers_version != self._catalog_version:
                await self._learn_strangers_again()

    async def _plans_for_strangers(self) -> ListPlansResponse:
        """Learn what a customer has of whom nothing is known, by the catalog of the snapshot: during a rolling restart with another
        one, each of the processes that are asked in turn answers by its own. After some, it is asked again later.
        """
        asked = 0
        while True:
            try:
                plans = await self._client.list_plans()
            except BillingError:
                await asyncio.sleep(1.0)
                continue
            asked += 1
            if asked == MOST_ASKED or self._catalog_version in {"", plans.catalog_version}:
                return plans

    async def _learn_strangers_again(self) -> None:
        """Ask once more; this is done with each progress until a process answers by the catalog of what is told."""
        with suppress(BillingError):
            plans = await self._client.list_plans()
            if plans.catalog_version == self._catalog_version:
                self._take_strangers(plans)

    def _take_strangers(self, plans: ListPlansResponse) -> None:
        heard = _Heard(lambda: self._heard)
        given = plans.default_features or _named_by_plans(plans)
        self._strangers = {one.feature_key: self._line(one.value, 0, None, heard) for one in given}
        self._strangers_version = plans.catalog_version
        self._catalog_version = self._catalog_version or plans.catalog_version  # of nobody who was told

    def _lines(self, told: GetEntitlementsResponse, heard: _Heard) -> dict[str, Check]:
        return {
            one.feature_key: self._line(
                one.value,
                told.revision,
                one.next_change_time.ToDatetime(UTC).timestamp() if one.HasField("next_change_time") else None,
                heard,
            )
            for one in told.entitlements
        }

    def _line(self, value: FeatureValue, revision: int, ends: float | None, heard: _Heard) -> Check:
        plain = value_of(value)
        return Check(allowed=plain is None or bool(plain), value=plain, revision=revision, ends=ends, heard=heard)


def value_of(value: FeatureValue) -> Value:
    """Give a feature's value as Python has it; None for an integer without a limit."""
    match value.WhichOneof("kind"):
        case "bool_value":
            return value.bool_value
        case "integer_value":
            return value.integer_value
        case "text_value":
            return value.text_value
        case _:
            return None


def _named_by_plans(plans: ListPlansResponse) -> list[PlanFeature]:
    """Give the default plan's features, and off what others name: a service of an older release says no more."""
    every = {one.feature_key: _off(one.value) for plan in plans.plans for one in plan.features}
    given = {one.feature_key: one.value for plan in plans.plans if plan.is_default for one in plan.features}
    return [PlanFeature(feature_key=key, value=value) for key, value in {**every, **given}.items()]


def _off(like: FeatureValue) -> FeatureValue:
    match like.WhichOneof("kind"):
        case "bool_value":
            return FeatureValue(bool_value=False)
        case "text_value":
            return FeatureValue(text_value="")
        case _:
            return FeatureValue(integer_value=0)
