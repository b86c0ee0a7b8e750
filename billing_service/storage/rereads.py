"""The queue of objects to read again from Stripe, coalesced per object, and the budget of requests that all processes share.

Every committed event that asked for a read is followed by a read whose fence is drawn after that commit. So a request draws
`wanted` anew, a worker claims by lease in a short transaction of its own, and deletes only where `wanted` is still what it
claimed. Held across the call, a row lock would lose requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import sqlalchemy as sa

from billing_service import tracing
from billing_service.domain.frozen import frozen
from billing_service.domain.views import ObjectKind
from billing_service.storage.connection import Answer, Result
from billing_service.storage.database import Connection

LEASE = timedelta(seconds=30)  # a worker that has not come back by then is taken for dead
MAX_BACKOFF_S = 600


@frozen
class Ask:
    """A request to read an object again, after a delay."""

    object_id: str
    kind: ObjectKind
    delay_s: int


@frozen
class Claim:
    """An object that this worker is to read, and what was wanted when it took it."""

    object_id: str
    kind: ObjectKind
    wanted: int
    traceparent: str | None = None  # of the span that asked for it last, where one is kept


# `wanted` is drawn, so that no number is given twice: a worker that comes back late may find another row of the object, and must not
# take it for the one that it claimed. Of a row that is there it is drawn under the row's lock, so that it is later than the one before;
# the release before counts from 1, and on from what is there.
_ASK = sa.text("""
    INSERT INTO rereads (object_id, kind, wanted, due_time, traceparent)
    SELECT object_id, kind, nextval('stripe_fence'), now() + make_interval(secs => delay), CAST(:traceparent AS text)
    FROM unnest(CAST(:ids AS text[]), CAST(:kinds AS text[]), CAST(:delays AS integer[])) AS n (object_id, kind, delay)
    ORDER BY object_id COLLATE "C"
    ON CONFLICT (object_id) DO UPDATE
    SET wanted = greatest(nextval('stripe_fence'), rereads.wanted + 1), due_time = least(rereads.due_time, excluded.due_time),
        traceparent = coalesce(excluded.traceparent, rereads.traceparent)
""")
_CLAIM = sa.text("""
    UPDATE rereads SET lease_time = now() + CAST(:lease AS interval), attempts = attempts + 1
    WHERE object_id IN (
        SELECT object_id FROM rereads
        WHERE due_time <= now() AND (lease_time IS NULL OR lease_time < now()) AND kind = ANY(CAST(:kinds AS text[]))
        ORDER BY due_time LIMIT :most FOR UPDATE SKIP LOCKED)
    RETURNING object_id, kind, wanted, traceparent
""")
# For somebody who waits: at once, unless somebody is at it, it was read a moment ago, or it failed and was put off.
_CLAIM_NOW = sa.text("""
    INSERT INTO rereads AS r (object_id, kind, wanted, attempts, lease_time)
    SELECT :object_id, :kind, nextval('stripe_fence'), 1, now() + CAST(:lease AS interval)
    WHERE NOT EXISTS (SELECT 1 FROM stripe_objects WHERE object_id = :object_id AND read_request_time >= :since)
    ON CONFLICT (object_id) DO UPDATE
    SET lease_time = excluded.lease_time, attempts = r.attempts + 1
    WHERE (r.lease_time IS NULL OR r.lease_time < now()) AND (r.attempts = 0 OR r.due_time <= now())
    RETURNING wanted
""")
_DONE = sa.text("DELETE FROM rereads WHERE object_id = :object_id AND wanted = :wanted")
_AGAIN = sa.text("UPDATE rereads SET lease_time = NULL, attempts = 0 WHERE object_id = :object_id")
_LATER = sa.text("""
    UPDATE rereads
    SET lease_time = NULL, due_time = now() + make_interval(secs => least(:most, power(2, least(attempts, 20))))
    WHERE object_id = :object_id
""")
_RELEASE = sa.text("""
    UPDATE rereads SET lease_time = NULL, attempts = greatest(attempts - 1, 0)
    WHERE object_id = ANY(CAST(:ids AS text[]))
""")
_TAKE = sa.text("""
    UPDATE stripe_budget
    SET tokens = least(:burst, tokens + extract(epoch FROM clock_timestamp() - update_time) * :rate) - 1,
        update_time = clock_timestamp()
    WHERE least(:burst, tokens + extract(epoch FROM clock_timestamp() - update_time) * :rate) - 1 >= :reserve
    RETURNING 1
""")
# People never wait. However many they are, a quarter of what comes back stays for background work.
_SPEND = sa.text("""
    UPDATE stripe_budget
    SET tokens = greatest(
            least(:burst, tokens + extract(epoch FROM clock_timestamp() - update_time) * :rate) - :requests,
            least(:reserve + 1, tokens + extract(epoch FROM clock_timestamp() - update_time) * :rate / 4)),
        update_time = clock_timestamp()
""")


def ask(connection: Connection, asks: Iterable[Ask]) -> Answer[Result]:
    """Ask for reads; one per object, the earliest of its times. After the customers in the order of locks."""
    soonest: dict[str, Ask] = {}
    for one in sorted(asks, key=lambda one: -one.delay_s):
        soonest[one.object_id] = one
    rows = [soonest[object_id] for object_id in sorted(soonest)]
    values = {
        "ids": [row.object_id for row in rows],
        "kinds": [row.kind.value for row in rows],
        "delays": [row.delay_s for row in rows],
        "traceparent": tracing.kept_traceparent(),
    }
    return connection.send(_ASK, values)


async def claim(connection: Connection, most: int) -> list[Claim]:
    """Take what is due and nobody works on, the longest due first. What a newer release asked for, it reads."""
    kinds = [kind.value for kind in ObjectKind]
    result = await connection.execute(_CLAIM, {"most": most, "lease": LEASE, "kinds": kinds})
    return [Claim(row.object_id, ObjectKind(row.kind), row.wanted, row.traceparent) for row in result]


async def claim_now(connection: Connection, object_id: str, kind: ObjectKind, since: int) -> Claim | None:
    """Take one object for somebody who waits for it; None where another is at it or just was, so that it need not be read.

    `since`: a read whose request left at this Unix second or later is fresh enough.
    """
    values = {"object_id": object_id, "kind": kind.value, "lease": LEASE, "since": since}
    row = (await connection.execute(_CLAIM_NOW, values)).one_or_none()
    return None if row is None else Claim(object_id, kind, row.wanted)


async def done(connection: Connection, claimed: Claim) -> None:
    """Forget a request that was served; one that was asked for again meanwhile stays, to be served again."""
    await connection.execute(_DONE, {"object_id": claimed.object_id, "wanted": claimed.wanted})
    await connection.execute(_AGAIN, {"object_id": claimed.object_id})


async def later(connection: Connection, claimed: Claim) -> None:
    """Put a read off that failed: twice as long each time, ten minutes at the most. It is never given up."""
    await connection.execute(_LATER, {"object_id": claimed.object_id, "most": MAX_BACKOFF_S})


async def release(connection: Connection, claims: Sequence[Claim]) -> None:
    """Give back what could not be tried: due as before, in the same order, and no attempt counted."""
    await connection.execute(_RELEASE, {"ids": sorted(claimed.object_id for claimed in claims)})


async def take_budget(connection: Connection, *, rate_per_s: float, burst: int, reserve: int) -> bool:
    """Take one request from the budget that all processes share; False where only the reserve is left."""
    values = {"rate": rate_per_s, "burst": burst, "reserve": reserve}
    return (await connection.execute(_TAKE, values)).one_or_none() is not None


async def spend_budget(connection: Connection, requests: int, *, rate_per_s: float, burst: int, reserve: int) -> None:
    """Count requests that were made whatever was left of the budget."""
    values = {"rate": rate_per_s, "burst": burst, "reserve": reserve, "requests": requests}
    await connection.execute(_SPEND, values)
