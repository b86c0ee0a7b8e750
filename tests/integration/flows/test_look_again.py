"""Everybody is looked at once for each cause, by whichever processes there are, from where the last one ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from billing_service.domain.catalog import Catalog
from billing_service.domain.errors import DatabaseUnavailableError
from billing_service.flows import look_again, rules
from billing_service.flows.look_again import LookAgain
from billing_service.flows.prices import Prices
from billing_service.flows.time_changes import TimeChanges
from billing_service.storage import customers
from billing_service.storage.database import Connection
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import Service
from tests.integration.flows.test_past_invoices import kept
from tests.integration.flows.test_watch import View, opened, until, watching, whole
from tests.stripe_events import event, export_pass, purchase

BOUND_S = 20
NAMES = [f"guest{number}" for number in range(7)]
GONE = "INSERT INTO derivations VALUES ('in use: x', 'x', now() - interval '1 hour')"
CAUSES = {
    "catalog": "INSERT INTO derivations VALUES ('next_change_time', 'of before')",
    "others": GONE,
    "prices": "INSERT INTO derivations VALUES ('prices', '{}')",
}

LOOKS: dict[str, Callable[[LookAgain], Awaitable[None]]] = {
    "catalog": LookAgain.after_catalog,
    "others": LookAgain.after_others,
    "prices": LookAgain.after_prices,
}


class Pages:
    """After whom each page began that was looked at; and what goes wrong with one."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.fails_at: int | None = None

    async def take_next(
        self, connection: Connection, after: str, most: int, left: Collection[str] = ()
    ) -> customers.NextCustomers:
        """Take them as it is done, and note it."""
        if self.fails_at == len(self.begun):
            raise DatabaseUnavailableError
        found = await _take_next(connection, after, most, left)
        if found.last is not None:
            self.begun.append(after)
        return found


_take_next = customers.take_next


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Pages:
    one = Pages()
    monkeypatch.setattr(customers, "take_next", one.take_next)
    monkeypatch.setattr(look_again, "MOST", 2)
    monkeypatch.setattr(look_again, "MOST_GATHERED", 2)
    return one


@pytest.fixture
async def bought(service: Service, database_url: str) -> None:
    """Everybody has pro, and nobody was looked at."""
    await service.outcomes(*(body for name in NAMES for body in purchase(name)))
    execute(database_url, "DELETE FROM derivations")


def execute(database_url: str, statement: str) -> list[Any]:
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def process(service: Service, catalog: Catalog = CATALOG) -> LookAgain:
    """Make what looks in one process."""
    return LookAgain(service.database, Prices(service.database, service.stripe, catalog), lambda: service.now)


def looked_at(database_url: str) -> list[str]:
    rows = execute(database_url, "SELECT customer_id FROM customers WHERE next_change_time < '1970-01-02' ORDER BY 1")
    return [row[0] for row in rows]


def is_looking(database_url: str) -> bool:
    return bool(execute(database_url, "SELECT 1 FROM derivations WHERE name LIKE 'look: %'"))


async def broken_off(service: Service, pages: Pages, database_url: str) -> None:
    """Have a look at everybody begin, and end by an error at its second page; the next one does not fail."""
    execute(database_url, GONE)
    pages.fails_at = 2
    with pytest.raises(DatabaseUnavailableError):
        await process(service).after_others()
    pages.fails_at = None


@pytest.mark.parametrize("cause", CAUSES)
async def test_processes_that_see_one_cause_make_one_look(
    service: Service, other_service: Service, pages: Pages, bought: None, database_url: str, cause: str
) -> None:
    """They take turns, also with one that comes when it is done; and then the cause has gone for all."""
    del bought
    execute(database_url, CAUSES[cause])
    both = [process(service), process(other_service)]

    async def until_done(one: LookAgain) -> None:
        async with asyncio.timeout(BOUND_S):
            while True:
                await LOOKS[cause](one)
                if not is_looking(database_url):
                    return

    await asyncio.gather(*(until_done(one) for one in both))
    assert looked_at(database_url) == NAMES
    await LOOKS[cause](process(service))
    assert pages.begun == ["", NAMES[1], NAMES[3], NAMES[5]]


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_look_that_was_broken_off_is_gone_on_with_by_whoever_comes(
    service: Service, other_service: Service, pages: Pages, bought: None, database_url: str, cause: str
) -> None:
    """An error or a restart does not have a million customers gone through again."""
    del bought
    execute(database_url, CAUSES[cause])
    pages.fails_at = 2
    with pytest.raises(DatabaseUnavailableError):
        await LOOKS[cause](process(service))
    assert looked_at(database_url) == NAMES[:4]
    pages.fails_at = None
    await LOOKS[cause](process(other_service))
    assert looked_at(database_url) == NAMES
    assert pages.begun == ["", NAMES[1], NAMES[3], NAMES[5]]
    assert not is_looking(database_url)


@pytest.mark.parametrize("cause", CAUSES)
async def test_who_is_locked_stops_nobody_and_is_looked_at_when_the_lock_has_gone(
    service: Service, pages: Pages, bought: None, database_url: str, cause: str
) -> None:
    """A writer that hangs has read what was before the cause, and writes it later."""
    del pages, bought
    execute(database_url, CAUSES[cause])
    one = process(service)
    with psycopg.connect(database_url) as writer:
        writer.execute(
            "UPDATE customers SET next_change_time = now() + interval '9 years' WHERE customer_id = 'guest2'"
        )
        await LOOKS[cause](one)
        assert looked_at(database_url) == [name for name in NAMES if name != "guest2"]
        await LOOKS[cause](one)
        assert is_looking(database_url)  # what is kept says that it is not done
    await LOOKS[cause](one)
    assert looked_at(database_url) == NAMES
    assert not is_looking(database_url)


async def test_no_more_are_left_behind_than_is_kept(
    service: Service, pages: Pages, bought: None, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    del bought
    monkeypatch.setattr(look_again, "MOST_LEFT", 2)
    execute(database_url, GONE)
    one = process(service)
    with psycopg.connect(database_url) as writer:
        writer.execute("SELECT 1 FROM customers WHERE customer_id < 'guest3' FOR UPDATE")
        await one.after_others()
        assert looked_at(database_url) == []
        assert pages.begun == [""]
    await one.after_others()
    assert looked_at(database_url) == NAMES


async def test_others_who_came_back_and_went_again_have_everybody_looked_at_from_the_beginning(
    service: Service, pages: Pages, bought: None, database_url: str
) -> None:
    """They wrote meanwhile, also customers before the place that was kept."""
    del bought
    await broken_off(service, pages, database_url)
    execute(database_url, "UPDATE derivations SET update_time = now() - interval '30 min' WHERE name = 'in use: x'")
    await process(service).after_others()
    assert pages.begun == ["", NAMES[1], *["", NAMES[1], NAMES[3], NAMES[5]]]


async def test_one_more_that_goes_during_a_look_has_the_next_one(
    service: Service, pages: Pages, bought: None, database_url: str
) -> None:
    """The one that was begun goes on, or it would begin again with each release."""
    del bought
    await broken_off(service, pages, database_url)
    execute(database_url, GONE.replace("x", "y"))
    for _ in range(2):
        await process(service).after_others()
    whole = ["", NAMES[1], NAMES[3], NAMES[5]]
    assert pages.begun == [*whole, *whole]
    assert not execute(database_url, "SELECT 1 FROM derivations WHERE name IN ('in use: x', 'in use: y')")


async def test_a_catalog_that_was_taken_back_and_comes_again_begins_anew(
    service: Service, pages: Pages, bought: None, database_url: str
) -> None:
    """Its look was broken off; meanwhile everybody was looked at, and written, by the one before."""
    del bought
    execute(database_url, f"INSERT INTO derivations VALUES ('next_change_time', '{rules.version_of('of before')}')")  # noqa: S608 - a hash
    pages.fails_at = 2
    with pytest.raises(DatabaseUnavailableError):
        await process(service).after_catalog()
    pages.fails_at = None
    execute(database_url, "UPDATE derivations SET update_time = now() - interval '1 hour' WHERE name LIKE 'in use: %'")
    before = process(service, replace(CATALOG, version="of before"))
    await before.after_others()
    await process(service).after_catalog()
    assert pages.begun[-4:] == ["", NAMES[1], NAMES[3], NAMES[5]]


async def test_who_is_looked_at_by_turns_is_drained_as_ever(service: Service, bought: None, database_url: str) -> None:
    """Everybody was made due, and of nobody there is anything to tell."""
    del bought
    execute(database_url, GONE)
    await process(service).after_others()
    prices = Prices(service.database, service.stripe, CATALOG)
    assert await TimeChanges(service.database, prices, lambda: service.now).drain() == len(NAMES)
    assert looked_at(database_url) == []
    assert {(await service.read(name)).revision for name in NAMES} == {1}


async def test_a_release_with_other_rules_has_everybody_looked_at_and_told(
    service: Service, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same catalog the release before gave ann nothing, and said so. Reads give her pro by now, and who watches goes on from before."""
    view = View()
    async with watching(database_url, service) as before:
        with monkeypatch.context() as release:
            release.setattr(rules, "ACCESS", "of before")
            await before.looks.after_catalog()
            await before.looks.after_others()
        await service.outcomes(*purchase("ann"))
        execute(database_url, """UPDATE entitlement_changes SET after = jsonb_set(after, '{plan_keys}', '["free"]')""")
        async with opened(before) as stream:
            await until(stream, view, whole)
            view.plans["ann"] = ("free",)  # as it was told then
    async with watching(database_url, service) as after, opened(after, None, view.cursor) as stream:
        await after.looks.after_catalog()
        assert await after.time_changes.drain() == 1
        await until(stream, view, lambda v: v.plans["ann"] == ("pro",))
        assert view.snapshots == 1
        gone = "UPDATE derivations SET update_time = now() - interval '1 hour' WHERE name LIKE 'in use:%of before%'"
        execute(database_url, gone)
        await process(service).after_others()
        assert await after.time_changes.drain() == 1, "and once more when the last process of that release has gone"


def as_another_release(database_url: str, gathering: str = "of before", access: str | None = None) -> None:
    """Have everybody's facts worked out by a release that saw nothing in their objects, and looked at everybody."""
    version = f"{CATALOG.version} {access or rules.ACCESS} {gathering}"
    execute(database_url, """UPDATE customers SET facts = '{"grants": []}'""")
    execute(database_url, "DELETE FROM derivations")
    execute(database_url, f"INSERT INTO derivations VALUES ('next_change_time', '{version}')")  # noqa: S608 - hashes


@pytest.fixture
def gathered(service: Service, bought: None, database_url: str) -> Callable[[], Awaitable[list[bool]]]:
    """Say of each who bought whether the facts are those that the events gave."""
    del bought, database_url

    async def told() -> list[bool]:
        return [bool((await kept(service, name)).subscriptions) for name in NAMES]

    return told


async def test_a_release_that_gathers_other_facts_gathers_everybodys_anew(
    service: Service, pages: Pages, gathered: Callable[[], Awaitable[list[bool]]], database_url: str
) -> None:
    """From what is kept of Stripe's objects, without asking Stripe; and what changes by that is told, once."""
    as_another_release(database_url)
    assert not any(await gathered())
    for one in (process(service), process(service)):
        await one.after_catalog()
    assert all(await gathered())
    assert pages.begun == ["", NAMES[1], NAMES[3], NAMES[5]]
    logged = execute(
        database_url, "SELECT customer_id, revision, cause FROM entitlement_changes WHERE revision > 1 ORDER BY 1"
    )
    assert logged == [(name, 2, "read") for name in NAMES]


async def test_a_look_that_takes_long_leaves_others_their_turn(
    service: Service,
    pages: Pages,
    gathered: Callable[[], Awaitable[list[bool]]],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A price that resolves meanwhile is not told when everybody has been gathered, minutes later; and the look goes on where it was."""
    monkeypatch.setattr(look_again, "TURN_S", 0.0)
    as_another_release(database_url)
    one, places = process(service), ["", NAMES[1], NAMES[3], NAMES[5]]
    for turn in range(1, 5):
        await one.after_catalog()
        assert pages.begun == places[:turn]
    await one.after_catalog()
    assert all(await gathered())
    assert not is_looking(database_url)


async def test_what_another_release_gathered_until_it_had_gone_is_gathered_once_more(
    service: Service, gathered: Callable[[], Awaitable[list[bool]]], database_url: str
) -> None:
    as_another_release(database_url)
    await process(service).after_catalog()
    execute(database_url, """UPDATE customers SET facts = '{"grants": []}' WHERE customer_id = 'guest2'""")
    await process(service).after_others()
    assert not all(await gathered()), "that release may be at work still"
    execute(database_url, "UPDATE derivations SET update_time = now() - interval '1 hour' WHERE name LIKE '%of before'")
    await process(service).after_others()
    assert all(await gathered())


async def test_a_release_that_only_gives_otherwise_loads_nobodys_objects(
    service: Service, gathered: Callable[[], Awaitable[list[bool]]], database_url: str
) -> None:
    """Everybody's objects are many times what everybody's facts are."""
    as_another_release(database_url, rules.GATHERING, access="of before")
    await process(service).after_catalog()
    assert looked_at(database_url) == NAMES
    assert not any(await gathered())


async def test_whoever_is_locked_is_gathered_when_the_lock_has_gone(
    service: Service, gathered: Callable[[], Awaitable[list[bool]]], database_url: str
) -> None:
    as_another_release(database_url)
    with psycopg.connect(database_url) as elsewhere:
        elsewhere.execute("SELECT FROM customers WHERE customer_id = 'guest3' FOR UPDATE")
        one = process(service)
        await one.after_catalog()
        assert await gathered() == [name != "guest3" for name in NAMES]
    await one.after_catalog()
    assert all(await gathered())


async def test_whoever_cannot_be_gathered_is_passed_over_and_holds_nobody_up(
    service: Service, gathered: Callable[[], Awaitable[list[bool]]], database_url: str
) -> None:
    """A newer release wrote of him what this one does not understand, and was taken back."""
    execute(
        database_url,
        """
        UPDATE stripe_objects SET payload_view = jsonb_set(payload_view, '{status}', '"of_next_year"')
        WHERE kind = 'subscription' AND stripe_customer_id = 'cus_guest3'""",
    )
    as_another_release(database_url)
    one = process(service)
    await one.after_catalog()
    assert await gathered() == [name != "guest3" for name in NAMES]
    assert "guest3" in looked_at(database_url), "by the other rules he is looked at all the same"
    assert not is_looking(database_url)


async def test_what_had_ended_is_told_before_what_is_gathered_anew(
    service: Service, bought: None, database_url: str
) -> None:
    """A period ended, nobody has told yet, and a release comes that sees a pass where the one before did not: the log has both, in their order."""
    del bought
    await service.outcomes(event("checkout.session.completed", export_pass("guest0")))
    as_another_release(database_url)
    execute(
        database_url,
        """
        UPDATE customers SET facts = (SELECT facts FROM customer_facts WHERE customer_id = 'guest0' ORDER BY fact_id DESC LIMIT 1) - 'purchases'
        WHERE customer_id = 'guest0'""",
    )
    service.now += timedelta(days=90)
    await process(service).after_catalog()
    logged = execute(
        database_url, "SELECT cause FROM entitlement_changes WHERE customer_id = 'guest0' ORDER BY revision"
    )
    assert [cause for (cause,) in logged] == ["event", "event", "time", "read"]


async def test_what_a_batch_of_the_drain_costs_does_not_grow_with_those_who_wait(
    service: Service, bought: None, database_url: str
) -> None:
    """After a look they are everybody, all due at one time: to put a million in an order for each hundred would take days."""
    del bought
    execute(database_url, "INSERT INTO customers (customer_id) SELECT 'c' || n FROM generate_series(1, 2000) AS n")
    execute(database_url, GONE)
    await process(service).after_others()
    values = {"after": datetime.min.replace(tzinfo=UTC), "now": customers.PRICE_RESOLVED, "most": 10, "but_for": ["c7"]}
    explained = sa.text(f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF, SUMMARY OFF) {customers._DUE.text}")

    async def plan(connection: Connection) -> str:
        await customers.due(connection, service.now, 1)
        return "\n".join(row[0] for row in await connection.execute(explained, values))

    found = await service.database.run(plan)
    assert "Index Scan using customers_next_change_time_idx" in found
    assert "Sort" not in found
    assert max(int(float(rows)) for rows in re.findall(r"actual rows=([0-9.]+)", found)) <= 10


async def test_for_a_price_those_alone_are_looked_at_who_hold_it(
    service: Service, bought: None, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody is read, and few are written; and what they had is known to be what they had without the price. Nobody's objects are loaded."""
    del bought
    monkeypatch.delattr(look_again, "refold")
    execute(database_url, "INSERT INTO customers (customer_id) VALUES ('stranger')")
    execute(database_url, CAUSES["prices"])
    await process(service).after_prices()
    due = execute(database_url, "SELECT customer_id, next_change_time FROM customers ORDER BY 1")
    assert due == [*((name, customers.PRICE_RESOLVED) for name in NAMES), ("stranger", None)]


NOT_UNDERSTOOD = """
    UPDATE stripe_objects SET payload_view = jsonb_set(payload_view, '{{status}}', '"of_next_year"')
    WHERE kind = 'subscription' AND stripe_customer_id IN ({})
"""


@pytest.mark.parametrize("number", range(len(NAMES)))
async def test_wherever_on_a_page_somebody_cannot_be_gathered_the_others_are(
    service: Service,
    gathered: Callable[[], Awaitable[list[bool]]],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    monkeypatch.setattr(look_again, "MOST_GATHERED", 4)
    execute(database_url, NOT_UNDERSTOOD.format(f"'cus_{NAMES[number]}'"))
    as_another_release(database_url)
    await process(service).after_catalog()
    assert await gathered() == [name != NAMES[number] for name in NAMES]
    assert looked_at(database_url) == NAMES


@pytest.mark.parametrize("odd", NAMES[2:4])
async def test_who_was_locked_is_gathered_beside_somebody_who_cannot_be(
    service: Service, gathered: Callable[[], Awaitable[list[bool]]], database_url: str, odd: str
) -> None:
    """Those who were locked are taken together when the locks have gone."""
    execute(database_url, NOT_UNDERSTOOD.format(f"'cus_{odd}'"))
    as_another_release(database_url)
    one = process(service)
    with psycopg.connect(database_url) as elsewhere:
        elsewhere.execute("SELECT FROM customers WHERE customer_id BETWEEN 'guest2' AND 'guest4' FOR UPDATE")
        await one.after_catalog()
    await one.after_catalog()
    assert await gathered() == [name != odd for name in NAMES]
    assert looked_at(database_url) == NAMES
    assert not is_looking(database_url)


async def test_when_a_newer_release_is_there_again_nobody_is_left_behind(
    service: Service,
    gathered: Callable[[], Awaitable[list[bool]]],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It wrote, was taken back, this one looked at everybody but for whom it did not understand, and the newer one comes again."""
    execute(database_url, NOT_UNDERSTOOD.format("'cus_guest3'"))
    as_another_release(database_url)
    await process(service).after_catalog()
    assert not all(await gathered())
    execute(database_url, NOT_UNDERSTOOD.format("'cus_guest3'").replace("of_next_year", "active"))
    with monkeypatch.context() as release:
        release.setattr(rules, "GATHERING", "of before")
        await process(service).after_catalog()
    assert all(await gathered())
