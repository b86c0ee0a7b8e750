"""Has everybody looked at once more, or all who hold a price, where something may have changed them that no event tells of.

A changed catalog ends things at other times, and so do other rules of ours; a process with another catalog or other rules wrote by
these until it had gone; a price stands for a plan since. To look at customers is to make them due: the drain (`flows/time_changes.py`) works out what there is.
Where the rules are others by which facts are gathered from Stripe's objects (`flows/rules.py`), they are gathered anew first, in the same transaction.

Each process looks for causes, and one look is made for each: its place is kept with every page, whoever does that. So the
processes take turns, one that dies holds nobody up, and a million customers are gone through once.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from functools import partial

import msgspec
import structlog

from billing_service.domain.errors import BillingError
from billing_service.domain.frozen import replace
from billing_service.flows import rules
from billing_service.flows.apply import Context, refold
from billing_service.flows.prices import Prices
from billing_service.logs import named
from billing_service.storage import customers, derivations, looks
from billing_service.storage.database import TRANSACTION_BOUND_S, Connection, Database
from billing_service.storage.history import Cause, CauseKind
from billing_service.storage.looks import Look
from billing_service.storage.unwritable import UnwritableError

MOST = 100  # customers in one transaction
MOST_GATHERED = 20  # the same, where all of their objects are loaded: whatever happens to them waits for so long
MOST_LEFT = 1_000  # who are locked by others: several times what all connections of a deployment lock at once
TOLD_EACH = 10_000  # customers: it may take an hour
TURN_S = 10.0  # of one look
PAUSE_S = 1.0  # between looks for causes
BEAT_S = 10.0
# After that a process has gone: it says so each `BEAT_S`, and what it wrote last was committed within `TRANSACTION_BOUND_S`.
SILENT_S = 3 * BEAT_S + TRANSACTION_BOUND_S

log = structlog.get_logger(__name__)


class _Page(Enum):
    """What became of a page."""

    NEXT = auto()  # there may be another one
    WAIT = auto()  # another process is at it, or the customers who are left are locked
    DONE = auto()  # everybody was looked at, by us or by others


@dataclass(frozen=True)
class _Reason:
    """Why everybody is looked at."""

    name: str
    # The cause as it is now, empty where it is done; what is kept of a look counts while it equals the cause that it began with.
    cause: Callable[[Connection, Mapping[str, str]], Awaitable[Mapping[str, str]]]
    finish: Callable[[Connection, Mapping[str, str]], Awaitable[None]]  # in the transaction of the last page
    holders: bool = False  # the cause names prices, not versions: only who holds one of them is looked at

    def gathers(self, cause: Mapping[str, str]) -> bool:
        """Say whether a process of a version that is named gathered other facts than this one does."""
        return not self.holders and not all(rules.gathers_alike(version) for version in cause)


class LookAgain:
    """Knows the causes, and goes on with the looks."""

    def __init__(self, database: Database, prices: Prices, now: Callable[[], datetime]) -> None:
        """`now` is the one clock of the process."""
        self._database = database
        self._prices = prices
        self._now = now
        self._beat_due_s = -math.inf
        self._is_new = True  # nobody may have been looked at by this catalog and these rules
        self._others_wait = False  # for a look that is not done
        self._looked_at: Mapping[str, str] | None = None  # the prices whose holders were

    async def run(self) -> None:
        """Look for causes, for ever."""
        while True:
            try:
                await self.after_catalog()
                await self.after_others()
                await self.after_prices()
            except (BillingError, UnwritableError) as error:
                log.warning("look_interrupted", error=named(error))
            await asyncio.sleep(PAUSE_S)

    async def after_catalog(self) -> None:
        """After the catalog or our rules changed, have everybody looked at once: things may end at another time now.

        Raises:
            BillingError: the database is away; the next call goes on where this one ended.
        """
        if not self._is_new:
            return
        version = self._version

        async def cause(connection: Connection, kept: Mapping[str, str]) -> Mapping[str, str]:
            before, stamp = await derivations.stamped(connection, derivations.NEXT_CHANGE) or ("", "")
            if before == version:
                return {}
            if before and before not in kept:  # whoever works with it may be of a release that does not say so
                await derivations.beat(connection, before)
            return {before: stamp}

        async def finish(connection: Connection, _cause: Mapping[str, str]) -> None:
            await derivations.set_version(connection, derivations.NEXT_CHANGE, version)

        if await self._database.run(lambda c: derivations.version(c, derivations.NEXT_CHANGE)) != version:
            self._is_new = not await self._goes_on(_Reason(looks.CATALOG + version, cause, finish))
        else:
            self._is_new = False

    async def after_others(self) -> None:
        """Say which catalog and rules are in use here; and have everybody looked at once more when the last process with others has gone.

        What that one wrote meanwhile, it wrote by these: when time changes something next, too. Raises as `after_catalog`.
        """
        if not await self._beat() and not self._others_wait:
            return
        version = self._version

        async def cause(connection: Connection, kept: Mapping[str, str]) -> Mapping[str, str]:
            gone = await derivations.gone(connection, version, SILENT_S)
            return kept if kept and kept.items() <= gone.items() else gone  # who has gone since is for the next look

        async def finish(connection: Connection, cause: Mapping[str, str]) -> None:
            await derivations.forget(connection, cause)
            for gone in cause:  # began to look, and would look at nobody before its place if it came back
                await looks.end(connection, looks.CATALOG + gone)

        is_any = bool(await self._database.run(lambda c: derivations.gone(c, version, SILENT_S)))
        self._others_wait = is_any and not await self._goes_on(_Reason(looks.OTHERS, cause, finish))

    async def after_prices(self) -> None:
        """After prices resolved to plans that did not before, have those looked at who hold them: nobody else tells of it.

        Every customer is read, and few are written. Done twice, it logs nothing twice. Raises as `after_catalog`.
        """
        mine = (await self._prices.plans()).remembered
        if mine == self._looked_at:
            return
        kept = await self._database.run(lambda c: derivations.version(c, derivations.PRICES))
        if kept is None:  # this release began here
            await self._database.run(lambda c: derivations.set_version(c, derivations.PRICES, _prices_text(mine)))

        async def cause(connection: Connection, kept: Mapping[str, str]) -> Mapping[str, str]:
            before = _prices_of(await derivations.version(connection, derivations.PRICES))
            new = {price_id: plan_key for price_id, plan_key in mine.items() if before.get(price_id) != plan_key}
            if not new:
                return {}
            return kept if new.keys() <= kept.keys() else {**kept, **new}

        async def finish(connection: Connection, cause: Mapping[str, str]) -> None:
            before = _prices_of(await derivations.version(connection, derivations.PRICES))
            await derivations.set_version(connection, derivations.PRICES, _prices_text({**before, **cause}))

        is_known = kept is None or mine.items() <= _prices_of(kept).items()
        if is_known or await self._goes_on(_Reason(looks.PRICES, cause, finish, holders=True)):
            self._looked_at = mine

    @property
    def _version(self) -> str:
        """By what this process works out what customers have."""
        return rules.version_of(self._prices.index.catalog.version)

    async def _beat(self) -> bool:
        """Say which catalog and rules are in use here, where that is due; give whether it was."""
        if time.monotonic() < self._beat_due_s:
            return False
        version = self._version
        await self._database.run(lambda c: derivations.beat(c, version))
        self._beat_due_s = time.monotonic() + BEAT_S
        return True

    async def _goes_on(self, reason: _Reason) -> bool:
        """Go on with a look, page by page, until something is in the way or other looks are to have their turn; give whether it is done.

        It rests after each page for as long as that took: whoever calls or sends a webhook comes first.
        """
        end = time.monotonic() + TURN_S
        while True:
            began = time.monotonic()
            page = await self._turn(reason)
            ended = time.monotonic()
            if page is not _Page.NEXT or ended > end:
                return page is _Page.DONE
            await asyncio.sleep(ended - began)

    async def _turn(self, reason: _Reason) -> _Page:
        """Go on by a page. Who cannot be gathered, having been written by a newer release say, is found alone, and looked at without that."""
        await self._beat()
        context = Context(await self._prices.plans(), self._now())
        for most_gathered in (MOST_GATHERED, 1):
            page = partial(self._page, reason=reason, context=context, most_gathered=most_gathered)
            try:
                return await self._database.run(page)
            except BillingError:
                raise
            except Exception as error:  # noqa: BLE001 - whose fault it is shows when each is alone; without gathering it is raised
                log.warning("page_not_gathered", reason=reason.name, most=most_gathered, error=named(error))
        return await self._database.run(partial(self._page, reason=reason, context=context, most_gathered=0))

    async def _page(self, connection: Connection, *, reason: _Reason, context: Context, most_gathered: int) -> _Page:
        kept = await looks.take(connection, reason.name)
        if kept is None:
            return _Page.WAIT
        cause = await reason.cause(connection, kept.cause)
        if not cause:
            await looks.end(connection, reason.name)
            return _Page.DONE
        look = kept if cause == kept.cause else Look(cause)
        gathers = reason.gathers(cause)
        offered = look.left[: max(most_gathered, 1)] if gathers else look.left
        is_alone = gathers and most_gathered <= 1
        room = min(max(most_gathered, 1) if gathers else MOST, MOST_LEFT - len(look.left))
        most = 0 if look.is_at_end or (is_alone and offered) else room
        last, taken, locked = await customers.take_next(connection, look.after, most, offered)
        left = [*look.left[len(offered) :], *locked]  # who is locked still comes after all others
        if gathers and most_gathered and taken:
            await refold(connection, taken, context, Cause(CauseKind.READ, None))
        await customers.make_due(connection, taken, context.now, cause.keys() if reason.holders else None)
        is_at_end = look.is_at_end or (most > 0 and last is None)
        if is_at_end and not left:
            await reason.finish(connection, cause)
            await looks.end(connection, reason.name)
            log.info("looked_again", reason=reason.name, customers=look.count + len(taken), gathered=gathers)
            return _Page.DONE
        count = look.count + len(taken)
        place = replace(look, after=last or look.after, is_at_end=is_at_end, left=left, count=count)
        await looks.save(connection, reason.name, place)
        if count // TOLD_EACH > look.count // TOLD_EACH:
            log.info("looking_again", reason=reason.name, customers=count, gathered=gathers)
        return _Page.NEXT if taken or last is not None else _Page.WAIT


def _prices_of(text: str | None) -> Mapping[str, str]:
    return msgspec.json.decode(text or "{}", type=dict[str, str])


def _prices_text(prices: Mapping[str, str]) -> str:
    return msgspec.json.encode(prices, order="sorted").decode()
