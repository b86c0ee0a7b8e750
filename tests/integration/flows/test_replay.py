"""Quarantine and what was ignored: nothing is lost, and everything is taken in once its cause was mended."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from billing_service.flows.fulfill import Outcome
from billing_service.flows.replay import Replay
from billing_service.storage import quarantine
from billing_service.storage.bodies import packed
from billing_service.storage.quarantine import Reason
from tests.integration.flows.conftest import Service
from tests.stripe_events import START, event, purchase, subscription


@pytest.fixture
def replay(service: Service) -> Replay:
    return Replay(service.database, service.fulfill)


def sql(database_url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute(statement, values)
        return list(cursor.fetchall()) if cursor.description else []


def spoilt(body: bytes) -> bytes:
    """Give an event in a shape that nobody knows."""
    changed = json.loads(body)
    changed["data"]["object"]["status"] = {"was": changed["data"]["object"]["status"]}
    return json.dumps(changed).encode()


def by_hash(database_url: str) -> list[str]:
    return [row[0] for row in sql(database_url, "SELECT event_key FROM quarantined_events ORDER BY 1")]


async def test_a_quarantined_event_has_its_effect_once_its_cause_is_mended(
    service: Service, replay: Replay, database_url: str
) -> None:
    """The mend is played by giving the kept bytes the shape that a newer release would understand."""
    created, *others = purchase("ann")
    bodies = [*others, spoilt(created)]
    assert await service.outcomes(*bodies) == [*["applied"] * len(others), "quarantined"]
    (key,) = by_hash(database_url)
    still = await replay.reasons([Reason.MALFORMED])
    assert (still.count, still.failed, by_hash(database_url)) == (1, 1, [key])
    assert sql(database_url, "SELECT attempts FROM quarantined_events") == [(2,)]
    sql(database_url, "UPDATE quarantined_events SET payload = %s", created)
    assert (await replay.event(key)).outcomes == {Outcome.APPLIED: 1}
    assert by_hash(database_url) == []
    assert (await replay.event(key)).count == 0


async def test_only_the_reason_asked_for_is_replayed_and_nothing_takes_effect_twice(
    service: Service, replay: Replay
) -> None:
    bodies = purchase("ann")
    await service.outcomes(*bodies)
    revision = (await service.read("ann")).revision
    for number, body in enumerate(bodies):
        reason = Reason.UNWRITABLE if number % 2 else Reason.MALFORMED
        await service.database.run(
            lambda c, number=number, body=body, reason=reason: quarantine.keep(c, f"k{number}", body, reason, "")  # type: ignore[misc] # bound now
        )
    first = await replay.reasons([Reason.UNWRITABLE])
    assert first.outcomes == {Outcome.DUPLICATE: len(bodies) // 2}
    rest = await replay.reasons(list(Reason))
    assert rest.outcomes == {Outcome.DUPLICATE: len(bodies) - len(bodies) // 2}
    assert (await service.read("ann")).revision == revision


async def test_more_than_one_batch_is_replayed_and_progress_is_told(
    service: Service, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing_service.flows.replay.MOST", 3)
    bodies = [body for name in ("ann", "bob", "eve") for body in purchase(name)]
    for number, body in enumerate(bodies):
        await service.database.run(
            lambda c, number=number, body=body: quarantine.keep(c, f"k{number:02}", body, Reason.MALFORMED, "")  # type: ignore[misc] # bound now
        )
    told: list[int] = []
    replayed = await replay.reasons([Reason.MALFORMED], lambda so_far: told.append(so_far.count))
    assert replayed.outcomes == {Outcome.APPLIED: len(bodies)}
    assert told == [*range(3, len(bodies), 3), len(bodies)]
    assert {(await service.read(name)).plan_keys for name in ("ann", "bob", "eve")} == {("pro",)}


@pytest.mark.parametrize("keep", [packed, bytes], ids=["as they are kept", "as an older release kept them"])
async def test_events_of_a_type_that_was_not_used_then_take_effect_when_it_is(
    service: Service, replay: Replay, database_url: str, keep: Callable[[bytes], bytes]
) -> None:
    """As an older release left them: recorded, without effect. The rows of types that nobody uses stay as they are."""
    await service.outcomes(*purchase("ann"), event("price.created", {"id": "price_1", "object": "price"}))
    gone = event("customer.subscription.deleted", subscription("ann", "canceled"), created=START + 9)
    (row,) = [json.loads(gone)]
    sql(
        database_url,
        "INSERT INTO stripe_events (event_id, type, created, livemode, outcome, payload)"
        " VALUES (%s, %s, %s, false, 'ignored', %s)",
        row["id"],
        row["type"],
        row["created"],
        keep(gone),
    )
    assert (await service.read("ann")).plan_keys == ("pro",)
    assert (await replay.ignored()).outcomes == {Outcome.APPLIED: 1}
    assert (await service.read("ann")).plan_keys == ("free",)
    assert sql(database_url, "SELECT type FROM stripe_events WHERE outcome = 'ignored'") == [("price.created",)]
    assert (await replay.ignored()).count == 0


async def test_an_event_that_the_database_keeps_refusing_stays_with_its_reason(
    service: Service, replay: Replay, database_url: str
) -> None:
    bad = event("customer.subscription.created", subscription("eve", id="sub_\u0000"))
    assert await service.outcomes(bad) == ["quarantined"]
    before = sql(database_url, "SELECT event_key, reason FROM quarantined_events")
    replayed = await replay.reasons(list(Reason))
    assert replayed.failed == 1
    assert sql(database_url, "SELECT event_key, reason FROM quarantined_events") == before


async def test_what_is_in_quarantine_is_tried_when_a_process_starts_and_by_one_of_many(
    service: Service, replay: Replay, database_url: str
) -> None:
    """It may be of a release that understands it. No walk over Stripe's list comes back to it, and nobody has to ask."""
    created, *others = purchase("ann")
    await service.outcomes(*others, spoilt(created), spoilt(purchase("bob")[0]))
    (first, second) = by_hash(database_url)
    assert await replay._at_start()
    assert sql(database_url, "SELECT attempts FROM quarantined_events") == [(1,), (1,)], "it was tried a moment ago"
    sql(database_url, "UPDATE quarantined_events SET update_time = now() - interval '1 hour'")
    sql(
        database_url,
        "UPDATE quarantined_events SET payload = %s WHERE event_key = %s",
        created,
        json.loads(created)["id"],
    )
    for _ in range(3):
        assert await replay._at_start()
    assert sql(database_url, "SELECT attempts FROM quarantined_events") == [(2,)]
    assert sql(database_url, "SELECT count(*) FROM stripe_events WHERE event_id = ANY(%s)", [first, second]) == [(1,)]


async def test_what_was_discarded_is_not_tried_when_a_process_starts(
    service: Service, replay: Replay, database_url: str
) -> None:
    await service.outcomes(spoilt(purchase("ann")[0]))
    sql(database_url, "UPDATE quarantined_events SET discard_time = now(), update_time = now() - interval '1 hour'")
    assert await replay._at_start()
    assert sql(database_url, "SELECT attempts FROM quarantined_events") == [(1,)]
