"""Grants: given and revoked by hand in one transaction with all that follows from it, beside webhooks, and heard of like them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from billing_service.domain.access import SourceState
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.errors import (
    FeatureNotFoundError,
    GrantNotFoundError,
    InvalidFieldsError,
    PlanNotFoundError,
    RequestIdReusedError,
    TooManyGrantsError,
)
from billing_service.domain.impact import Direction
from billing_service.domain.operator import GrantWish, Order
from billing_service.flows import change_grants
from billing_service.flows.admit_catalog import AdmitCatalog, PlanVanishedError
from billing_service.flows.catalog_impact import CatalogImpact
from billing_service.flows.change_grants import ChangeGrants
from billing_service.flows.prices import Prices
from billing_service.flows.read_past import ReadPast
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import NOWHERE, Service
from tests.integration.flows.test_watch import View, opened, until, watching, whole
from tests.stripe_events import MONTH, START, event, purchase, subscription

SEATS = GrantWish("ann", override=False, start=None, end=None, feature_key="seats", value=5)
TEAM = GrantWish("ann", override=False, start=None, end=None, plan_key="team", quantity=3)
TEXT = (Path(__file__).parents[3] / "catalog.toml").read_text()


def order(number: int = 1, reason: str = "ticket 7") -> Order:
    return Order(f"request-{number}", "eve@ops", reason)


def sql(database_url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(database_url) as connection:
        cursor = connection.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


@pytest.fixture
def grants(service: Service) -> ChangeGrants:
    prices = Prices(service.database, StripeApi("sk_test_x", NOWHERE), CATALOG)
    return ChangeGrants(service.database, prices, lambda: service.now)


async def test_a_grant_counts_with_its_answer_and_is_in_the_history(
    service: Service, grants: ChangeGrants, database_url: str
) -> None:
    """Also one for somebody of whom nothing was known."""
    made, revision = await grants.create(order(), TEAM)
    answer = await service.read("ann")
    assert (answer.plan_keys, answer.revision, revision) == (("team",), 1, 1)
    assert (made.state, made.grant.actor, made.grant.reason) == (SourceState.ACTIVE, "eve@ops", "ticket 7")
    logged = sql(database_url, "SELECT revision, cause, cause_id FROM entitlement_changes")
    assert logged == [(1, "grant", made.grant.facts.grant_id)]


async def test_the_same_request_is_carried_out_once_and_for_nothing_else(
    service: Service, grants: ChangeGrants, database_url: str
) -> None:
    first, second = await asyncio.gather(grants.create(order(), SEATS), grants.create(order(), SEATS))
    assert (first, await grants.create(order(), SEATS)) == (second, second)
    assert await service.value("ann", "seats") == 5
    for other in (replace(SEATS, value=6), TEAM):
        with pytest.raises(RequestIdReusedError):
            await grants.create(order(), other)
    with pytest.raises(RequestIdReusedError):
        await grants.create(order(reason="another"), SEATS)
    with pytest.raises(RequestIdReusedError):
        await grants.revoke(order(), first[0].grant.facts.grant_id)
    assert sql(database_url, "SELECT count(*) FROM grants") == [(1,)]


async def test_a_grant_that_is_revoked_ends_at_once_and_only_it(service: Service, grants: ChangeGrants) -> None:
    await service.outcomes(*purchase("ann"))
    made, _ = await grants.create(order(), TEAM)
    await grants.create(order(2), SEATS)
    ended, revision = await grants.revoke(order(3), made.grant.facts.grant_id)
    answer = await service.read("ann")
    assert (answer.plan_keys, answer.revision) == (("pro",), revision)
    assert await service.value("ann", "seats") == 6
    assert (ended.state, ended.grant.revoke_actor, ended.grant.revoke_time) == (
        SourceState.ENDED,
        "eve@ops",
        service.now,
    )
    service.now += timedelta(hours=1)
    again, same = await grants.revoke(order(4), made.grant.facts.grant_id)
    assert (again.grant, same) == (ended.grant, revision)
    with pytest.raises(GrantNotFoundError):
        await grants.revoke(order(5), "grant_" + "0" * 32)


async def test_the_only_grant_that_is_revoked_ends_at_once_and_no_webhook_brings_it_back(
    service: Service, grants: ChangeGrants
) -> None:
    """The row has no grants then; the schema takes facts without a word of them for those of a release that knew none."""
    made, _ = await grants.create(order(), TEAM)
    _, revision = await grants.revoke(order(2), made.grant.facts.grant_id)
    answer = await service.read("ann")
    assert (answer.plan_keys, answer.revision) == (("free",), revision)
    await service.outcomes(*purchase("ann"))
    assert (await service.read("ann")).plan_keys == ("pro",)


async def test_what_the_catalog_does_not_have_is_refused_and_nothing_is_kept(
    service: Service, grants: ChangeGrants, database_url: str
) -> None:
    refused = {
        PlanNotFoundError: replace(TEAM, plan_key="gone"),
        FeatureNotFoundError: replace(SEATS, feature_key="gone"),
    }
    for kind, wish in refused.items():
        with pytest.raises(kind):
            await grants.create(order(), wish)
    for wish in (
        replace(SEATS, value="many"), replace(SEATS, value=0), replace(TEAM, plan_key="pro"),
        replace(TEAM, end=service.now), replace(TEAM, start=service.now + timedelta(2), end=service.now + timedelta(1)),
    ):  # fmt: skip
        with pytest.raises(InvalidFieldsError):
            await grants.create(order(), wish)
    counts = "SELECT (SELECT count(*) FROM grants), (SELECT count(*) FROM operator_requests), (SELECT count(*) FROM customers)"
    assert sql(database_url, counts) == [(0, 0, 0)]


async def test_a_customer_has_a_bounded_number_of_grants_at_once(
    service: Service, grants: ChangeGrants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_grants, "MOST_AT_ONCE", 2)
    ending = replace(SEATS, end=service.now + timedelta(days=1))
    await grants.create(order(1), ending)
    made, _ = await grants.create(order(2), SEATS)
    with pytest.raises(TooManyGrantsError):
        await grants.create(order(3), SEATS)
    service.now += timedelta(days=1)  # one is over, and leaves room
    await grants.create(order(3), SEATS)
    await grants.revoke(order(4), made.grant.facts.grant_id)
    await grants.create(order(5), SEATS)
    assert await service.value("ann", "seats") == 10


async def test_webhooks_fold_what_was_given_with_what_was_bought(service: Service, grants: ChangeGrants) -> None:
    await grants.create(order(), SEATS)
    await service.outcomes(*purchase("ann"))
    assert (await service.value("ann", "seats"), await service.value("ann", "projects")) == (6, 50)
    over = event("customer.subscription.deleted", subscription("ann", "canceled"), created=START + 9)
    await service.outcomes(over)
    assert (await service.value("ann", "seats"), await service.value("ann", "projects")) == (5, 3)


async def test_grants_and_webhooks_at_once_lose_nothing_of_each_other(
    service: Service, other_service: Service, grants: ChangeGrants, database_url: str
) -> None:
    """Both take their locks in the one order, and revisions come one after the other."""
    people = ("ann", "ben", "cal")
    await asyncio.gather(
        *(grants.create(order(n), replace(SEATS, customer_id=people[n % 3], value=1)) for n in range(12)),
        *(one.outcomes(body) for one in (service, other_service) for name in people for body in purchase(name)),
    )
    for name in people:
        assert (await service.value(name, "seats"), (await service.read(name)).plan_keys) == (5, ("pro",))
    logged = sql(
        database_url, "SELECT customer_id, array_agg(revision ORDER BY position) FROM entitlement_changes GROUP BY 1"
    )
    assert all(revisions == list(range(1, len(revisions) + 1)) for _, revisions in logged)  # type: ignore[arg-type]
    assert sql(database_url, "SELECT DISTINCT jsonb_array_length(facts -> 'grants') FROM customers") == [(4,)]


async def test_a_program_of_the_release_before_takes_no_grant_away(
    service: Service, grants: ChangeGrants, database_url: str
) -> None:
    """It writes facts that have no grants in them."""
    await grants.create(order(), SEATS)
    sql(database_url, """UPDATE customers SET facts = '{"subscriptions": [], "purchases": []}'""")
    assert await service.value("ann", "seats") == 5


async def test_a_watcher_hears_of_a_grant_of_its_beginning_and_of_its_end(
    service: Service, grants: ChangeGrants, database_url: str
) -> None:
    view = View()
    async with watching(database_url, service) as watcher, opened(watcher) as stream:
        await until(stream, view, whole)
        start, end = service.now + timedelta(days=1), service.now + timedelta(days=2)
        await grants.create(order(), replace(TEAM, start=start, end=end))
        await until(stream, view, lambda v: v.revisions.get("ann") == 1)
        assert view.plans["ann"] == ("free",)
        for moment, plans in ((start, ("team",)), (end, ("free",))):
            service.now = moment
            await watcher.time_changes.drain()
            await until(stream, view, lambda v, plans=plans: v.plans["ann"] == plans)
    assert view.causes == ["grant", "time", "time"]


async def test_the_past_knows_what_was_given_then(service: Service, grants: ChangeGrants) -> None:
    prices = Prices(service.database, StripeApi("sk_test_x", NOWHERE), CATALOG)
    await AdmitCatalog(service.database, CATALOG, lambda: service.now)()
    past = ReadPast(service.database, prices, lambda: service.now)
    moments = [service.now]
    made, _ = await grants.create(order(), TEAM)
    service.now += timedelta(hours=1)
    await grants.revoke(order(2), made.grant.facts.grant_id)
    moments.append(service.now - timedelta(minutes=1))
    moments.append(service.now)
    answers = [(await past("ann", moment))[0].plan_keys for moment in moments]
    assert answers == [("team",), ("team",), ("free",)]


async def test_a_plan_that_was_granted_may_not_vanish_from_the_catalog_while_it_lasts(
    service: Service, grants: ChangeGrants
) -> None:
    await AdmitCatalog(service.database, CATALOG, lambda: service.now)()
    await grants.create(order(), replace(TEAM, end=service.now + timedelta(days=1)))
    less = TEXT[: TEXT.index("[plans.team]")] + TEXT[TEXT.index("[plans.export_pass]") :]
    lessened = parse_catalog(less)
    with pytest.raises(PlanVanishedError) as refused:
        await AdmitCatalog(service.database, lessened, lambda: service.now)()
    assert refused.value.holders == {"team": 1}
    impact = await CatalogImpact(service.database, lambda: service.now)(lessened, lambda _: None)
    assert (impact.vanished, impact.lines["projects", Direction.LOSS].customers) == ({"team": 1}, 1)
    service.now += timedelta(days=1)
    await AdmitCatalog(service.database, lessened, lambda: service.now)()


async def test_a_grant_outlives_what_was_bought_beside_it(service: Service, grants: ChangeGrants) -> None:
    await service.outcomes(*purchase("ann"))
    await grants.create(order(), replace(SEATS, override=True, value=9))
    service.now = datetime.fromtimestamp(START + 2 * MONTH, UTC)
    assert await service.value("ann", "seats") == 9
