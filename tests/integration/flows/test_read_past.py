"""What was answered then: by the facts, the catalog and the time of then; and a catalog may not lose what people pay for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.entitlement import Entitlements
from billing_service.domain.errors import AsOfNotKeptError, InvalidFieldsError
from billing_service.flows.admit_catalog import AdmitCatalog, PlanVanishedError
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.read_past import ReadPast
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import NOWHERE, Service
from tests.stripe_events import MONTH, START, event, invoice, session, subscription

TEXT = (Path(__file__).parents[3] / "catalog.toml").read_text()
MORE = parse_catalog(TEXT.replace("projects = 50", "projects = 80"))
BEGIN = datetime.fromtimestamp(START, UTC)


def without_plan(plan_key: str) -> Catalog:
    plans = {key: plan for key, plan in CATALOG.plans.items() if key != plan_key}
    return replace(CATALOG, version=f"without {plan_key}", plans=plans)


class Past:
    """A service whose past is read, and whose catalog is replaced now and then."""

    def __init__(self, service: Service, stripe: StripeApi) -> None:
        self.service = service
        self._stripe = stripe
        self.use(CATALOG)

    def use(self, catalog: Catalog) -> None:
        """Go on with another catalog, as after a restart."""
        prices = Prices(self.service.database, self._stripe, catalog)
        self.read = ReadEntitlements(self.service.database, prices, lambda: self.service.now)
        self._past = ReadPast(self.service.database, prices, lambda: self.service.now)

    async def admit(self, catalog: Catalog, seconds: int = 0) -> None:
        """Start with a catalog so many seconds after the begin."""
        self.at(seconds)
        await AdmitCatalog(self.service.database, catalog, lambda: self.service.now)()

    def at(self, seconds: int) -> None:
        """Let it be so many seconds after the begin."""
        self.service.now = BEGIN + timedelta(seconds=seconds)

    async def of(self, seconds: int) -> Entitlements:
        """Read what was answered so many seconds after the begin."""
        return (await self._past("ann", BEGIN + timedelta(seconds=seconds)))[0]


@pytest.fixture
async def past(service: Service) -> AsyncIterator[Past]:
    async with StripeApi("sk_test_x", NOWHERE) as stripe:
        yield Past(service, stripe)


async def test_every_answer_is_found_again_as_it_was(past: Past) -> None:
    """Through a purchase, an upgrade, a catalog that gives more, a cancellation, and the end that time alone makes."""
    await past.admit(CATALOG)
    lives = [
        (10, subscription("ann", start=START)),
        (20, subscription("ann", lookup_key="team_monthly", quantity=4)),
        (40, subscription("ann", lookup_key="pro_monthly", cancel_at=START + 60)),
    ]
    answered: dict[int, Entitlements] = {}
    for moment in (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 59, 60, 61, 70):
        past.at(moment)
        for begin, body in lives:
            if begin == moment:
                paid = event("invoice.paid", invoice("ann"), created=START + begin)
                change = event("customer.subscription.updated", body, created=START + begin)
                await past.service.fulfill([paid, change])
        if moment == 30:
            await past.admit(MORE, 30)
            past.use(MORE)
        answered[moment] = await past.read("ann")
    assert len({one.plan_keys for one in answered.values()}) == 3
    assert len({one.catalog_version for one in answered.values()}) == 2
    past.at(1_000)
    assert {moment: await past.of(moment) for moment in answered} == answered


async def test_before_anything_was_known_the_default_plan_was_answered(past: Past) -> None:
    await past.admit(CATALOG)
    past.at(10)
    paid, made = event("invoice.paid", invoice("ann")), event("customer.subscription.created", subscription("ann"))
    await past.service.fulfill([paid, made])
    then = await past.of(9)
    assert (then.revision, then.plan_keys) == (0, ("free",))
    assert (await past.of(10)).plan_keys == ("pro",)


async def test_a_time_before_the_history_is_refused_with_when_it_begins(past: Past) -> None:
    await past.admit(CATALOG, 10)
    with pytest.raises(AsOfNotKeptError) as raised:
        await past.of(9)
    assert raised.value.metadata == {"kept_since": (BEGIN + timedelta(seconds=10)).isoformat()}


async def test_the_future_is_not_answered(past: Past) -> None:
    await past.admit(CATALOG, 10)
    with pytest.raises(InvalidFieldsError):
        await past.of(11)


async def test_a_start_with_the_same_catalog_adds_nothing_and_a_roll_back_is_kept(
    past: Past, database_url: str
) -> None:
    for moment, catalog in enumerate((CATALOG, CATALOG, MORE, MORE, CATALOG)):
        await past.admit(catalog, moment)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT version FROM catalog_activations ORDER BY activation_id").fetchall()
    assert [version for (version,) in rows] == [CATALOG.version, MORE.version, CATALOG.version]
    assert [(await past.of(moment)).catalog_version for moment in range(5)] == [
        CATALOG.version, CATALOG.version, MORE.version, MORE.version, CATALOG.version,
    ]  # fmt: skip


async def test_a_catalog_that_lost_a_plan_which_is_paid_for_is_refused_and_recorded_nowhere(past: Past) -> None:
    await past.admit(CATALOG)
    await past.service.fulfill([event("customer.subscription.created", subscription("ann"))])
    with pytest.raises(PlanVanishedError) as raised:
        await past.admit(without_plan("pro"), 10)
    assert raised.value.holders == {"pro": 1}
    assert '"pro" (customers: 1)' in str(raised.value)
    assert (await past.of(10)).catalog_version == CATALOG.version


async def test_a_plan_that_nobody_has_or_has_any_more_may_go(past: Past) -> None:
    await past.admit(CATALOG)
    await past.service.fulfill([event("customer.subscription.created", subscription("ann"))])
    await past.admit(without_plan("team"), 10)
    await past.service.fulfill(
        [event("customer.subscription.deleted", subscription("ann", "canceled"), created=START + 20)]
    )
    await past.admit(without_plan("pro"), 30)


async def test_a_pass_that_was_bought_holds_its_plan_until_it_is_over(past: Past) -> None:
    await past.admit(CATALOG)
    bought = session("ann", mode="payment", plan="export_pass")
    await past.service.fulfill([event("checkout.session.completed", bought)])
    with pytest.raises(PlanVanishedError):
        await past.admit(without_plan("export_pass"), MONTH - 1)
    await past.admit(without_plan("export_pass"), MONTH)


async def test_nothing_is_answered_by_a_catalog_that_was_not_admitted(past: Past, database_url: str) -> None:
    await past.admit(CATALOG)
    await past.service.fulfill([event("customer.subscription.created", subscription("ann"))])
    database = Database(database_url)
    lost = without_plan("pro")
    async with StripeApi("sk_test_x", NOWHERE) as stripe:
        prices = Prices(database, stripe, lost, AdmitCatalog(database, lost, lambda: past.service.now))
        for _ in range(2):
            with pytest.raises(PlanVanishedError):
                await ReadEntitlements(database, prices, lambda: past.service.now)("ann")
    await database.close()
