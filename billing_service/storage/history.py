"""What each customer's entitlements were before and after each change, and what the change is put down to.

Positions become visible in their order: each is drawn under a lock that is held until the commit, the last in the order of
locks. A plain sequence would show a later one before an earlier one, and whoever reads from a cursor would skip it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from sys import getsizeof

import msgspec
import sqlalchemy as sa

from billing_service.domain.access import Source
from billing_service.domain.catalog import UNLIMITED, FeatureValue, Unlimited
from billing_service.domain.entitlement import Entitlement, Entitlements
from billing_service.domain.frozen import frozen
from billing_service.storage.connection import Answer, Result
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection
from billing_service.storage.lock_keys import LockKey

CHANNEL = "entitlement_changes"  # of LISTEN and NOTIFY, which carry nothing: whoever is told reads from his position


class CauseKind(StrEnum):
    """What makes entitlements change."""

    EVENT = "event"
    READ = "read"  # our own verified read of Stripe
    GRANT = "grant"
    TIME = "time"
    BINDING = "binding"  # a Stripe customer was bound, and what was parked under it counts


@frozen
class Cause:
    """What a change is put down to, with the id of the event, the object that was read, or the binding; of several, the latest."""

    kind: CauseKind
    cause_id: str | None


@frozen
class Change:
    """A customer's row as it is to be, and its entitlements before and after."""

    row: CustomerRow
    gives: bool  # whether what is given changed, and not only the facts
    cause: Cause
    before: Entitlements
    after: Entitlements


@dataclass(frozen=True)
class LoggedChange:
    """A change as it stands in the log."""

    position: int
    change_time: datetime
    customer_id: str
    revision: int
    cause: CauseKind
    catalog_version: str
    after: str  # see `entitlements_of`
    folded: Entitlements | None = None  # of one that a process with another catalog logged: what ours gives

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.position, int(self.change_time.timestamp() * 1_000_000))

    @cached_property
    def entitlements(self) -> Entitlements:
        """What was answered after it; worked out once, however many watch."""
        return self.folded or entitlements_of(self)

    @property
    def size_bytes(self) -> int:
        """How much memory its text takes, which is most of it."""
        return getsizeof(self.after)


@dataclass(frozen=True)
class Place:
    """A place in the log: a position, and when its change was made, in microseconds.

    A database that was restored gives positions out again. Where the change at a position is not the one that was seen, what is
    after it is not what comes next.
    """

    position: int
    stamp: int


BEGINNING = Place(0, 0)

# The lock is had, and its wait is over, before a position is drawn: the rows are sorted first, and to sort them they must be there.
_APPEND = sa.text("""
    WITH locked AS MATERIALIZED (SELECT pg_advisory_xact_lock(:key), pg_notify(:channel, ''))
    INSERT INTO entitlement_changes (
        position, customer_id, revision, change_time, cause, cause_id, catalog_version, before, after)
    SELECT nextval('entitlement_position'), customer_id, revision, :now, cause, cause_id, :catalog_version,
           before::jsonb, after::jsonb
    FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS bigint[]), CAST(:causes AS text[]), CAST(:cause_ids AS text[]),
                CAST(:befores AS text[]), CAST(:afters AS text[]))
         AS n (customer_id, revision, cause, cause_id, before, after)
    CROSS JOIN locked
    ORDER BY customer_id COLLATE "C", revision
""")
_COLUMNS = "position, change_time, customer_id, revision, cause, catalog_version, after::text AS after"
# In one statement with the horizon, so that what is taken out meanwhile is seen to be.
_SINCE = sa.text(f"""
    SELECT {_COLUMNS}, (SELECT changes_position FROM history_horizon) AS horizon
    FROM entitlement_changes WHERE position >= :position ORDER BY position LIMIT :most
""")  # noqa: S608 - the columns are a constant of this module
_ONE_VIEW = sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_TIP = sa.text(f"SELECT {_COLUMNS} FROM entitlement_changes ORDER BY position DESC LIMIT 1")  # noqa: S608 - as above


def append(connection: Connection, changes: Sequence[Change], catalog_version: str, now: datetime) -> Answer[Result]:
    """Keep changes of locked customers; a revision is written once. The last in the order of locks."""
    values = {
        "key": LockKey.LOG,
        "channel": CHANNEL,
        "causes": [change.cause.kind.value for change in changes],
        "cause_ids": [change.cause.cause_id for change in changes],
        "catalog_version": catalog_version,
        "now": now,
        "ids": [change.row.customer_id for change in changes],
        "revisions": [change.row.revision for change in changes],
        "befores": [_state(change.before, change.after.sources) for change in changes],
        "afters": [_state(change.after) for change in changes],
    }
    return connection.send(_APPEND, values)


async def since(connection: Connection, place: Place, most: int) -> Sequence[LoggedChange] | None:
    """Give the changes after a place, the earliest first; None where the log does not go on from there.

    A place before the horizon may still have its change, and yet not all that came after it.
    """
    rows = list(await connection.execute(_SINCE, {"position": place.position, "most": most + 1}))
    if rows and place.position < rows[0].horizon:
        return None
    found = [_logged(row) for row in rows]
    if place == BEGINNING:
        return found[:most]
    return found[1:] if found and found[0].place == place else None


async def one_view(connection: Connection) -> None:
    """Have all that this transaction reads be of one moment. First in a transaction that only reads."""
    await connection.execute(_ONE_VIEW)


async def tip(connection: Connection) -> Place:
    """Give the place of the last change."""
    row = (await connection.execute(_TIP)).one_or_none()
    return BEGINNING if row is None else _logged(row).place


def _logged(row: sa.Row[tuple[object, ...]]) -> LoggedChange:
    return LoggedChange(
        position=row.position,
        change_time=row.change_time,
        customer_id=row.customer_id,
        revision=row.revision,
        cause=CauseKind(row.cause),
        catalog_version=row.catalog_version,
        after=row.after,
    )


class _Line(msgspec.Struct, omit_defaults=True):
    """One feature of a kept state; `source` is its index among the sources."""

    feature_key: str
    value: bool | int | str | None  # None: unlimited
    source: int | None = None
    next_change_time: datetime | None = None


class _State(msgspec.Struct):
    """What is kept of entitlements."""

    plan_keys: list[str]
    sources: list[Source | int]  # a number: the same as the source of that number beside it
    lines: list[_Line]
    next_change_time: datetime | None = None


_decode_state = msgspec.json.Decoder(_State).decode


def _state(entitlements: Entitlements, beside: Sequence[Source] = ()) -> str:
    sources = list(entitlements.sources)
    numbers = {source: number for number, source in enumerate(beside)}
    lines = [
        _Line(
            one.feature_key,
            None if isinstance(one.value, Unlimited) else one.value,
            None if one.source is None else sources.index(one.source),
            one.next_change_time,
        )
        for one in entitlements.entitlements
    ]
    kept = [numbers.get(source, source) for source in sources]
    state = _State(list(entitlements.plan_keys), kept, lines, entitlements.next_change_time)
    return msgspec.json.encode(state).decode()


def entitlements_of(change: LoggedChange, beside: Sequence[Source] = ()) -> Entitlements:
    """Give what was answered after a change, as it was kept; of what was before it, with the sources that are `beside` it.

    Raises:
        msgspec.ValidationError: an older release kept it in another form.
    """
    state = _decode_state(change.after)
    sources = tuple([beside[source] if isinstance(source, int) else source for source in state.sources])
    lines = tuple(
        Entitlement(
            one.feature_key,
            _value(one.value),
            None if one.source is None else sources[one.source],
            one.next_change_time,
        )
        for one in state.lines
    )
    return Entitlements(
        customer_id=change.customer_id,
        revision=change.revision,
        entitlements=lines,
        sources=sources,
        plan_keys=tuple(state.plan_keys),
        read_time=change.change_time,
        next_change_time=state.next_change_time,
        catalog_version=change.catalog_version,
    )


def _value(value: bool | int | str | None) -> FeatureValue:
    return UNLIMITED if value is None else value


_LAST = sa.text(f"""
    SELECT {_COLUMNS} FROM entitlement_changes
    WHERE (customer_id, revision) IN (SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS bigint[])))
""")  # noqa: S608 - as above


async def last(connection: Connection, rows: Collection[CustomerRow]) -> Sequence[LoggedChange]:
    """Give the last change of customers; without those of whom there was none, or it is not kept."""
    values = {"ids": [row.customer_id for row in rows], "revisions": [row.revision for row in rows]}
    return [_logged(row) for row in await connection.execute(_LAST, values)]


_CHANGED = sa.text("""
    SELECT DISTINCT customer_id FROM entitlement_changes
    WHERE cause = 'event' AND cause_id = ANY(CAST(:ids AS text[]))
""")
_CHANGED_BY_READ = sa.text("""
    SELECT DISTINCT customer_id FROM entitlement_changes
    WHERE cause = 'read' AND cause_id = :object_id AND position > :position
""")


async def changed_by(connection: Connection, event_ids: Collection[str]) -> set[str]:
    """Give the customers whose entitlements these events changed."""
    return {row.customer_id for row in await connection.execute(_CHANGED, {"ids": sorted(event_ids)})}


async def changed_by_read(connection: Connection, object_id: str, place: Place) -> set[str]:
    """Give the customers whose entitlements a read of this object changed after a place in the log."""
    values = {"object_id": object_id, "position": place.position}
    return {row.customer_id for row in await connection.execute(_CHANGED_BY_READ, values)}


@dataclass(frozen=True)
class RecordedChange:
    """One change of a customer, as it is told to a person: what they had, and what they have since."""

    cause: Cause
    change_time: datetime
    before: Entitlements
    after: Entitlements


_OF_CUSTOMER = sa.text("""
    SELECT position, change_time, customer_id, revision, cause, cause_id, catalog_version, before::text AS before,
           after::text AS after
    FROM entitlement_changes
    WHERE customer_id = :customer_id AND (CAST(:revision AS bigint) IS NULL OR revision < :revision)
    ORDER BY revision DESC LIMIT :most
""")


async def of_customer(
    connection: Connection, customer_id: str, before_revision: int | None, most: int
) -> Sequence[RecordedChange]:
    """Give the next changes of a customer, the newest first, before a revision."""
    values = {"customer_id": customer_id, "revision": before_revision, "most": most}
    return [_recorded(row) for row in await connection.execute(_OF_CUSTOMER, values)]


def _recorded(row: sa.Row[tuple[object, ...]]) -> RecordedChange:
    after = _logged(row)
    before = replace(after, revision=after.revision - 1, after=row.before)
    entitlements = entitlements_of(after)
    cause = Cause(CauseKind(row.cause), row.cause_id)
    return RecordedChange(cause, row.change_time, entitlements_of(before, entitlements.sources), entitlements)
