"""An event that was discarded waits for nobody and is taken in by nothing that does not name it; and nothing of it is lost."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from billing_service.domain.errors import EventNotFoundError, RequestIdReusedError
from billing_service.domain.operator import Order
from billing_service.flows.discard_quarantined_event import DiscardQuarantinedEvent
from billing_service.flows.event_bodies import hash_key
from billing_service.flows.fulfill import Outcome
from billing_service.flows.replay import Replay
from billing_service.storage import quarantine, tally
from billing_service.storage.quarantine import QuarantinedEvent, Reason
from tests.integration.flows.conftest import Service
from tests.stripe_events import event, purchase, subscription

EVE = Order("request-1", "eve", "ticket 7")


@pytest.fixture
def replay(service: Service) -> Replay:
    return Replay(service.database, service.fulfill)


@pytest.fixture
def discard(service: Service) -> DiscardQuarantinedEvent:
    return DiscardQuarantinedEvent(service.database)


def sql(database_url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


async def put(service: Service, body: bytes, reason: Reason = Reason.UNWRITABLE, key: str | None = None) -> str:
    """Put an event in quarantine as one of another release would be, which refused it; give its key."""
    event_key: str = key or json.loads(body)["id"]
    await service.database.run(lambda c: quarantine.keep(c, event_key, body, reason, "x"))
    return event_key


async def found(service: Service, event_key: str) -> tuple[QuarantinedEvent, bytes] | None:
    return await service.database.run(lambda c: quarantine.find(c, event_key))


async def test_it_counts_nowhere_and_is_passed_over_by_whatever_does_not_name_it(
    service: Service, replay: Replay, discard: DiscardQuarantinedEvent
) -> None:
    """Its neighbours go on as before."""
    keys = [
        await put(service, body, reason)
        for body, reason in zip(purchase("ann"), [*Reason, Reason.IGNORED], strict=True)
    ]
    neighbour = await put(service, b"{", Reason.MALFORMED, hash_key(b"{"))
    for number, key in enumerate(keys):
        await discard(Order(f"r{number}", "eve", "ticket 7"), key)
    counted = await service.database.run(lambda c: tally.take(c, rate_per_s=1.0, burst=1))
    assert counted.quarantined == {"malformed": 1}
    assert await service.database.run(quarantine.counts) == {Reason.MALFORMED: 1}
    listed = await service.database.run(lambda c: quarantine.newest(c, list(Reason), 100))
    assert [one.event_key for one in listed] == [neighbour]
    for replayed in (await replay.reasons(list(Reason)), (await replay.page(list(Reason), None, "", 500))[0]):
        assert replayed.outcomes == {Outcome.QUARANTINED: 1}
    assert (await replay.ignored()).count == 0, "as at the start of a release"
    assert (await service.read("ann")).plan_keys == ("free",)


async def test_its_bytes_stay_and_its_own_key_still_replays_it(
    service: Service, replay: Replay, discard: DiscardQuarantinedEvent
) -> None:
    bodies = purchase("ann")
    for number, body in enumerate(bodies):
        key = await put(service, body)
        discarded = await discard(Order(f"r{number}", "eve", "ticket 7"), key)
        assert discarded.discard_time is not None
        assert await found(service, key) == (discarded, body)
        assert (await replay.event(key)).outcomes.total() == 1
        assert await found(service, key) is None
    assert (await service.read("ann")).plan_keys == ("pro",)


async def test_what_fails_again_stays_discarded_and_counts_its_attempts(
    service: Service, replay: Replay, discard: DiscardQuarantinedEvent
) -> None:
    """Delivered again by Stripe, or replayed by its key."""
    bad = event("customer.subscription.created", subscription("eve", id="sub_\u0000"))
    assert await service.outcomes(bad, b"{") == ["quarantined"] * 2
    for number, (key, body) in enumerate(((json.loads(bad)["id"], bad), (hash_key(b"{"), b"{"))):
        discarded = await discard(Order(f"r{number}", "eve", "ticket 7"), key)
        assert await service.outcomes(body) == ["quarantined"]
        assert (await replay.event(key)).failed == 1
        now = await found(service, key)
        assert now is not None
        assert (now[0].discard_time, now[0].attempts) == (discarded.discard_time, 3)
    assert await service.database.run(quarantine.counts) == {}


async def test_what_is_kept_by_another_key_after_a_replay_stays_discarded(
    service: Service, replay: Replay, discard: DiscardQuarantinedEvent
) -> None:
    """This release takes for malformed what another understood: its key is the hash of its bytes then."""
    await put(service, b"{", key="evt_1")
    await put(service, b"[", key="evt_2")
    discarded = await discard(EVE, "evt_1")
    assert (await replay.event("evt_1")).failed == 1
    assert (await replay.reasons([Reason.UNWRITABLE])).failed == 1
    now, other = await found(service, hash_key(b"{")), await found(service, hash_key(b"["))
    assert now is not None
    assert other is not None
    assert (now[0].discard_time, other[0].discard_time) == (discarded.discard_time, None)
    assert await found(service, "evt_1") is await found(service, "evt_2") is None


async def test_what_can_be_written_when_stripe_delivers_it_again_is_released(
    service: Service, discard: DiscardQuarantinedEvent
) -> None:
    bodies = purchase("ann")
    await discard(EVE, await put(service, bodies[0]))
    assert await service.outcomes(*bodies) == ["applied"] * len(bodies)
    assert await found(service, json.loads(bodies[0])["id"]) is None
    assert (await service.read("ann")).plan_keys == ("pro",)


async def test_a_request_is_carried_out_once_and_has_its_answer_though_the_event_has_gone(
    service: Service, discard: DiscardQuarantinedEvent, database_url: str
) -> None:
    """Another request about what is discarded already leaves it as it was, and is kept too."""
    key = await put(service, b"{", key="k")
    first = await discard(EVE, key)
    assert await discard(Order("request-2", "bob", "ticket 8"), key) == first
    await service.outcomes(b"{")
    sql(database_url, "DELETE FROM quarantined_events")
    assert await discard(EVE, key) == first
    with pytest.raises(RequestIdReusedError):
        await discard(EVE, "other")
    with pytest.raises(EventNotFoundError):
        await discard(Order("request-3", "eve", "ticket 9"), key)
    kept = sql(
        database_url, "SELECT operation, actor, reason, answer ->> 'event_key' FROM operator_requests ORDER BY 2"
    )
    assert kept == [
        ("discard_quarantined_event", "bob", "ticket 8", "k"),
        ("discard_quarantined_event", "eve", "ticket 7", "k"),
    ]


async def test_what_was_recorded_cannot_be_discarded(
    service: Service, discard: DiscardQuarantinedEvent, database_url: str
) -> None:
    bodies = purchase("ann")
    await service.outcomes(*bodies)
    with pytest.raises(EventNotFoundError):
        await discard(EVE, json.loads(bodies[0])["id"])
    assert sql(database_url, "SELECT count(*) FROM operator_requests") == [(0,)]


async def test_events_to_replay_and_to_discard_are_looked_up_by_their_key(database_url: str) -> None:
    """Also where most were discarded."""
    texts = {
        "page": quarantine._PAYLOADS.text.replace(":reasons", "'{malformed}'").replace(":key", "NULL"),
        "one": quarantine._PAYLOADS.text.replace(":reasons", "'{malformed}'").replace(":key", "'k7'"),
        "discard": quarantine._DISCARD.text.replace(":event_key", "'k7'"),
        "discarded": quarantine._DISCARDED.text.replace(":keys", "'{k7}'"),
    }
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO quarantined_events (event_key, payload, reason, detail, discard_time)"
            " SELECT 'k' || n, '{}', 'malformed', 'x', CASE WHEN n % 10 > 0 THEN now() END FROM generate_series(1, 20000) AS n"
        )
        connection.execute("ANALYZE quarantined_events")
        for name, text in texts.items():
            given = text.replace(":after", "'k5'").replace(":most", "64").replace(":untried_for", "NULL")
            plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + given).fetchall())
            assert "Index Scan using quarantined_events_pkey" in plan, (name, plan)
