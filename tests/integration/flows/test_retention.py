"""Bodies of events go first, their ids much later; nothing that is still needed goes at all."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import pytest

from billing_service.flows import retention as flow
from billing_service.flows.retention import Kept, Removed, Retention
from billing_service.storage import retention
from tests.integration.flows.conftest import Service
from tests.stripe_events import event, purchase, subscription, thin_event

KEPT = Kept(payloads=timedelta(days=90), events=timedelta(days=400), history=timedelta(days=800))


async def one_round(service: Service) -> Removed:
    """Take out what is due."""
    return await Retention(service.database, KEPT, lambda: service.now).once()


def age(database_url: str, days: int, like: str = "%") -> None:
    """Have events come so many days ago."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE stripe_events SET receive_time = now() - make_interval(days => %s) WHERE event_id LIKE %s",
            (days, like),
        )


def kept(database_url: str) -> dict[str, bool]:
    """Give the events that are known, and whether each has its body."""
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT event_id, octet_length(payload) > 0 FROM stripe_events").fetchall()
    return dict(rows)


async def test_a_body_goes_after_its_time_and_the_event_still_counts_once(service: Service, database_url: str) -> None:
    bodies = purchase("ann")
    await service.outcomes(*bodies)
    age(database_url, 91)
    fresh = event("customer.subscription.updated", subscription("ann"), event_id="evt_fresh")
    await service.outcomes(fresh)
    assert await one_round(service) == Removed(payloads=len(bodies))
    assert [event_id for event_id, has_body in kept(database_url).items() if has_body] == ["evt_fresh"]
    assert await service.outcomes(*bodies) == ["duplicate"] * len(bodies)
    assert (await service.read("ann")).plan_keys == ("pro",)


async def test_an_id_goes_when_stripe_can_no_longer_bring_it_and_access_stays(
    service: Service, database_url: str
) -> None:
    bodies = purchase("ann")
    await service.outcomes(*bodies)
    age(database_url, 401)
    assert await one_round(service) == Removed(payloads=len(bodies), events=len(bodies))
    assert kept(database_url) == {}
    assert (await service.read("ann")).plan_keys == ("pro",)
    await service.outcomes(*bodies)  # whoever brings it all the same changes nothing
    assert (await service.read("ann")).plan_keys == ("pro",)


async def test_what_is_put_aside_keeps_its_body(service: Service, database_url: str) -> None:
    assert await service.outcomes(b"{") == ["quarantined"]
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE quarantined_events SET create_time = now() - interval '1000 days'")
    await one_round(service)
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT payload FROM quarantined_events").fetchall() == [(b"{",)]


async def test_what_was_told_of_an_object_that_nobody_ever_saw_goes_with_the_events_ids(
    service: Service, database_url: str
) -> None:
    await service.outcomes(thin_event("invoice.payment_failed", "in_denied"))
    assert (await one_round(service)).told_facts == 0
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE told_facts SET create_time = now() - interval '401 days'")
    assert (await one_round(service)).told_facts == 1


async def test_what_was_discarded_goes_once_that_is_as_long_ago_as_bodies_are_kept(
    service: Service, database_url: str
) -> None:
    """Counted from the discarding, however long it was there before."""
    assert await service.outcomes(b"{", b"[", b"(") == ["quarantined"] * 3
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE quarantined_events SET create_time = now() - interval '1000 days'")
        for body, days in ((b"{", 91), (b"[", 89)):
            connection.execute(
                "UPDATE quarantined_events SET discard_time = now() - make_interval(days => %s) WHERE payload = %s",
                (days, body),
            )
    assert await one_round(service) == Removed(discarded=1)
    with psycopg.connect(database_url) as connection:
        left = connection.execute("SELECT payload FROM quarantined_events ORDER BY payload").fetchall()
    assert left == [(b"(",), (b"[",)]


async def test_it_goes_in_small_steps_and_holds_up_nobody(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that somebody holds is passed over, and taken by the next round."""
    monkeypatch.setattr(retention, "BATCH", 2)
    monkeypatch.setattr(flow, "PAUSE_S", 0.0)
    bodies = purchase("ann")
    await service.outcomes(*bodies)
    age(database_url, 91)
    with psycopg.connect(database_url) as holder:
        holder.execute("SELECT 1 FROM stripe_events ORDER BY event_id LIMIT 1 FOR UPDATE")
        async with asyncio.timeout(30):
            assert await one_round(service) == Removed(payloads=len(bodies) - 1)
        holder.rollback()
    both = await asyncio.gather(*(one_round(service) for _ in range(2)))
    assert sum(removed.payloads for removed in both) == 1


async def test_it_looks_rows_up_by_their_age(service: Service, database_url: str) -> None:
    """Through an index in which nothing stands that was dealt with: a round costs what it takes out, not what there is."""
    await service.outcomes(*purchase("ann"))
    with psycopg.connect(database_url) as connection:
        for statement, index in ((retention._EMPTY, "with_payload"), (retention._DELETE, "without_payload")):
            text = statement.text.replace(":age", "'90 days'").replace(":most", "5")
            connection.execute("SET enable_seqscan = off")
            plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + text).fetchall())
            assert f"stripe_events_{index}_idx" in plan
