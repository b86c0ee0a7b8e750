"""What time alone changes is in the log with a revision of its own, also where something else is written before the drain comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

import psycopg
import pytest

from billing_service.domain.operator import GrantWish, Order
from billing_service.flows import time_changes
from billing_service.flows.apply import Context, refold
from billing_service.flows.change_grants import ChangeGrants
from billing_service.flows.look_again import LookAgain
from billing_service.flows.prices import Prices
from billing_service.flows.time_changes import TimeChanges
from billing_service.storage import customers, stripe_customers
from billing_service.storage import prices as price_rows
from billing_service.storage.database import Connection
from billing_service.storage.history import Cause, CauseKind
from billing_service.storage.prices import PriceRow
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import NOWHERE, Service
from tests.integration.flows.test_watch import View, opened, until, watching, whole
from tests.stripe_events import MONTH, START, event, invoice, purchase, subscription

ENDS = START + MONTH + 86_400  # of what was bought: the period and its leeway
GIFT = GrantWish("ann", override=False, start=None, end=None, feature_key="seats", value=5)


class Logged(NamedTuple):
    """A change as the log has it."""

    revision: int
    cause: str
    before: list[str]
    after: list[str]


@pytest.fixture
def prices(service: Service) -> Prices:
    return Prices(service.database, StripeApi("sk_test_x", NOWHERE), CATALOG)


@pytest.fixture
def drain(service: Service, prices: Prices) -> TimeChanges:
    return TimeChanges(service.database, prices, lambda: service.now)


@pytest.fixture
def looks(service: Service, prices: Prices) -> LookAgain:
    return LookAgain(service.database, prices, lambda: service.now)


def logged(database_url: str) -> list[Logged]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT revision, cause, before -> 'plan_keys', after -> 'plan_keys' FROM entitlement_changes ORDER BY position"
        )
        return [Logged(*row) for row in rows]


async def bought_and_ended(service: Service) -> None:
    """Ann had pro, and time has taken it: nobody has noticed yet."""
    await service.outcomes(*purchase("ann"))
    assert (await service.read("ann")).plan_keys == ("pro",)
    service.now = datetime.fromtimestamp(ENDS + 1, UTC)
    assert (await service.read("ann")).plan_keys == ("free",)


BOUGHT = Logged(1, "event", ["free"], ["pro"])
ENDED = Logged(2, "time", ["pro"], ["free"])


async def test_what_time_changed_is_logged_by_an_event_that_changes_nothing_itself(
    service: Service, drain: TimeChanges, database_url: str
) -> None:
    """The event sets anew when time changes something next: the drain would never hear of it."""
    await bought_and_ended(service)
    await service.outcomes(
        event("customer.subscription.updated", subscription("ann", latest_invoice="in_2"), created=ENDS)
    )
    assert logged(database_url) == [BOUGHT, ENDED]
    assert (await service.read("ann")).revision == 2
    assert await drain.drain() == 0


async def renewal(service: Service, _prices: Prices) -> None:
    renewed = subscription("ann", start=START + MONTH)
    await service.outcomes(event("customer.subscription.updated", renewed, created=ENDS))


async def gift(service: Service, prices: Prices) -> None:
    await ChangeGrants(service.database, prices, lambda: service.now).create(Order("r-1", "eve@ops", "ticket 7"), GIFT)


async def binding(service: Service, prices: Prices) -> None:
    """Bind a Stripe customer under which something was parked."""
    parked = subscription("ann", id="sub_2", customer="cus_2", metadata={}, start=START + MONTH)
    assert await service.outcomes(event("customer.subscription.updated", parked)) == ["parked"]
    context = Context(await prices.plans(), service.now)

    async def bind(connection: Connection) -> None:
        await stripe_customers.lock(connection, ["cus_2"])
        await customers.lock(connection, ["ann"])
        await stripe_customers.bind(connection, {"cus_2": "ann"})
        await refold(connection, {"ann"}, context, Cause(CauseKind.BINDING, "cus_2"))

    await service.database.run(bind)


@pytest.mark.parametrize(("write", "cause"), [(renewal, "event"), (gift, "grant"), (binding, "binding")])
async def test_the_log_has_no_gap_where_something_is_written_before_the_drain(
    service: Service,
    prices: Prices,
    drain: TimeChanges,
    database_url: str,
    write: Callable[[Service, Prices], Awaitable[None]],
    cause: str,
) -> None:
    """What time took comes first, then what was written, each with a revision, and each begins with what the one before gave."""
    await bought_and_ended(service)
    await write(service, prices)
    await drain.drain()
    changes = logged(database_url)
    assert changes[:2] == [BOUGHT, ENDED]
    assert [(change.revision, change.cause) for change in changes[2:]] == [(3, cause)]
    assert all(earlier.after == later.before for earlier, later in pairwise(changes))
    assert (await service.read("ann")).revision == 3


async def test_who_watches_is_told_both(service: Service, prices: Prices, database_url: str) -> None:
    view = View()
    await service.outcomes(*purchase("ann"))
    async with watching(database_url, service) as watcher, opened(watcher) as stream:
        await until(stream, view, whole)
        service.now = datetime.fromtimestamp(ENDS + 1, UTC)
        await renewal(service, prices)
        await until(stream, view, lambda v: v.revisions.get("ann") == 3)
    assert view.causes == ["time", "event"]


async def test_a_changed_catalog_does_not_hide_what_time_changed_just_before(
    service: Service, drain: TimeChanges, looks: LookAgain, database_url: str
) -> None:
    await bought_and_ended(service)
    await looks.after_catalog()
    await drain.drain()
    assert logged(database_url) == [BOUGHT, ENDED]


@pytest.mark.parametrize("write", [None, renewal, gift, binding])
async def test_a_changed_catalog_does_not_hide_what_time_changes_before_everybody_was_looked_at(
    service: Service,
    prices: Prices,
    drain: TimeChanges,
    looks: LookAgain,
    database_url: str,
    write: Callable[[Service, Prices], Awaitable[None]] | None,
) -> None:
    """With many customers that takes minutes, and what falls due meanwhile is told, also where something else is written first."""
    await service.outcomes(*purchase("ann"))
    service.now = datetime.fromtimestamp(ENDS - 1, UTC)
    await looks.after_catalog()
    service.now = datetime.fromtimestamp(ENDS + 1, UTC)
    if write is not None:
        await write(service, prices)
    await drain.drain()
    changes = logged(database_url)
    assert changes[:2] == [BOUGHT, ENDED]
    assert all(earlier.after == later.before for earlier, later in pairwise(changes))


async def test_who_falls_due_does_not_wait_for_those_who_are_looked_at_again(
    service: Service, drain: TimeChanges, looks: LookAgain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a catalog changed those are everybody."""
    for name in ("ann", "bob", "eve"):
        await service.outcomes(*purchase(name))
    await looks.after_catalog()
    await service.outcomes(*purchase("zoe"))
    service.now = datetime.fromtimestamp(ENDS + 1, UTC)
    monkeypatch.setattr("billing_service.flows.time_changes.MOST", 1)
    assert await drain.drain() == 1
    assert (await service.read("zoe")).revision == 2


async def test_nothing_is_logged_of_time_before_it_is_due(service: Service, database_url: str) -> None:
    await service.outcomes(*purchase("ann"))
    service.now = datetime.fromtimestamp(ENDS, UTC) - timedelta(seconds=1)
    await service.outcomes(
        event("customer.subscription.updated", subscription("ann", latest_invoice="in_2"), created=ENDS)
    )
    assert logged(database_url) == [BOUGHT]


async def test_a_price_that_resolves_later_is_told_and_its_end_is_too(
    service: Service, drain: TimeChanges, looks: LookAgain, prices: Prices, database_url: str
) -> None:
    """Ann bought at a price without a lookup key; the operator moves the catalog's key to it, and Stripe says nothing of Ann."""
    body = subscription("ann", latest_invoice="in_ann")
    body["items"]["data"][0]["price"] = {"id": "price_x", "object": "price", "lookup_key": None}
    await service.outcomes(event("customer.subscription.created", body), event("invoice.paid", invoice("ann")))
    await service.outcomes(*purchase("bob"))
    await looks.after_prices()
    async with watching(database_url, service) as watcher, opened(watcher) as stream:
        view = View()
        await until(stream, view, whole)
        assert view.plans["ann"] == ("free",)
        row = PriceRow("price_x", "pro", "monthly", "pro_monthly", active=True, current=True)
        await service.database.run(lambda c: price_rows.remember(c, [("pro", "monthly")], [row]))
        await prices.refresh()  # loads what is remembered
        await looks.after_prices()
        assert await drain.drain() == 1
        await until(stream, view, lambda v: v.plans["ann"] == ("pro",))
        assert view.causes == ["read"]
        assert (await service.read("ann")).revision == view.revisions["ann"] == 2
        service.now = datetime.fromtimestamp(ENDS + 1, UTC)
        await drain.drain()
        await until(stream, view, lambda v: v.plans == {"ann": ("free",), "bob": ("free",)})


async def test_who_is_looked_at_again_for_a_price_is_told_nothing_twice(
    service: Service, drain: TimeChanges, database_url: str
) -> None:
    """A process that ends in between leaves it to the next one, which begins anew; and who resolved before has changed nothing."""
    await service.outcomes(*purchase("ann"))
    for _ in range(2):
        await service.database.run(
            lambda c: customers.make_due(c, ["ann"], service.now, ["price_pro_monthly", "price_x"])
        )
        await drain.drain()
    assert logged(database_url) == [BOUGHT]


async def test_whom_a_newer_release_wrote_keeps_nobody_from_being_told(
    service: Service, drain: TimeChanges, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken back. He is due for as long, before all others; and what ended of his is told by the release that understands him."""
    monkeypatch.setattr(time_changes, "MOST", 1)
    for name in ("ann", "bob"):
        await service.outcomes(*purchase(name))
        service.now += timedelta(seconds=1)
    written = "UPDATE customers SET facts = jsonb_set(facts, '{{subscriptions,0,status}}', '\"{}\"') WHERE customer_id = 'ann'"
    with psycopg.connect(database_url) as connection:
        connection.execute(written.format("of_next_year"))
        connection.execute(
            "UPDATE customers SET next_change_time = next_change_time - interval '1 hour' WHERE customer_id = 'ann'"
        )
    service.now = datetime.fromtimestamp(ENDS + 1, UTC)
    assert [await drain.drain() for _ in range(3)] == [0, 1, 0]
    assert await drain._wait_s() > 0.9, "nobody is looked at again and again"
    assert [one.cause for one in logged(database_url)] == ["event", "event", "time"]
    with psycopg.connect(database_url) as connection:
        connection.execute(written.format("active"))
    assert await TimeChanges(service.database, service.prices, lambda: service.now).drain() == 1
