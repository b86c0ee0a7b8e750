"""Who would gain or lose what by a catalog: every customer, folded as the service would after the restart."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.impact import Direction, Impact
from billing_service.flows import catalog_impact
from billing_service.flows.admit_catalog import AdmitCatalog
from billing_service.flows.catalog_impact import CatalogImpact, NoCatalogError
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import Service
from tests.stripe_events import MONTH, event, export_pass, purchase
from tests.unit.domain.offered import TEXT


async def impact_of(service: Service, text: str) -> Impact:
    flow = CatalogImpact(service.database, lambda: service.now)
    return await flow(parse_catalog(text), lambda _: None)


@pytest.fixture(autouse=True)
async def shop(service: Service) -> Service:
    """Ann and Ben have Pro, Cal has an export pass, Dan's Pro is over; the example's catalog is in use."""
    await AdmitCatalog(service.database, CATALOG, lambda: service.now)()
    for name in ("ann", "ben"):
        await service.outcomes(*purchase(name))
    await service.outcomes(event("checkout.session.completed", export_pass("cal")))
    await service.outcomes(*purchase("dan", service_start(service) - 3 * MONTH))
    return service


def service_start(service: Service) -> int:
    return int(service.now.timestamp())


def told(impact: Impact) -> dict[tuple[str, str], list[str]]:
    return {
        (key, direction.value): [f"{one.customer_id}: {one.before} -> {one.after}" for one in line.examples]
        for (key, direction), line in impact.lines.items()
    }


async def test_the_catalog_in_use_changes_nothing(service: Service) -> None:
    impact = await impact_of(service, TEXT)
    assert (impact.customers, impact.any_change, impact.lines) == (4, False, {})


async def test_who_holds_a_plan_now_gains_and_loses_with_it(service: Service) -> None:
    """Dan's is over, and Cal never had it: neither is named."""
    impact = await impact_of(
        service,
        TEXT.replace("projects = 50", "projects = 40").replace('support = "e-mail"', 'support = "chat", export = true'),
    )
    assert told(impact) == {
        ("projects", "loss"): ["ann: 50 -> 40", "ben: 50 -> 40"],
        ("export", "gain"): ["ann: False -> True", "ben: False -> True"],
        ("support", "other"): ["ann: e-mail -> chat", "ben: e-mail -> chat"],
    }
    assert (impact.customers, impact.losing, impact.gaining, impact.changing) == (4, 2, 2, 2)


async def test_the_default_plan_concerns_everybody_without_one(service: Service) -> None:
    """Those who are known are counted; those who are not are told of as one."""
    impact = await impact_of(service, TEXT.replace("projects = 3", "projects = 2"))
    assert told(impact) == {("projects", "loss"): ["cal: 3 -> 2", "dan: 3 -> 2"]}
    assert [(one.feature_key, one.direction) for one in impact.newcomers] == [("projects", Direction.LOSS)]


async def test_a_plan_that_is_gone_is_named_with_its_customers(service: Service) -> None:
    """For its sake the service would not start; and what they would lose is told all the same."""
    text = TEXT[: TEXT.index("[plans.export_pass]")]
    impact = await impact_of(service, text)
    assert impact.vanished == {"export_pass": 1}
    assert told(impact) == {("export", "loss"): ["cal: True -> False"]}


async def test_a_lookup_key_that_goes_to_another_plan_takes_along_the_price_that_has_it_now(
    service: Service, database_url: str
) -> None:
    """As it does once the service has resolved it; customers on a price of the past stay where they are."""
    with_price = TEXT.replace('lookup_key = "pro_monthly"', 'lookup_key = "pro_new"').replace(
        'lookup_key = "team_monthly"', 'lookup_key = "pro_monthly"'
    )
    assert not told(await impact_of(service, with_price))
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE prices SET current = true WHERE lookup_key = 'pro_monthly'")
    assert told(await impact_of(service, with_price))["projects", "gain"] == [
        "ann: 50 -> unlimited",
        "ben: 50 -> unlimited",
    ]


async def test_every_page_is_looked_at(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the customers fall into pages, the sums are the same; and it is told how far it is."""
    text = TEXT.replace("projects = 50", "projects = 40")
    whole = await impact_of(service, text)
    for size in (1, 2, 3):
        monkeypatch.setattr(catalog_impact, "PAGE", size)
        heard: list[int] = []
        flow = CatalogImpact(service.database, lambda: service.now)
        assert await flow(parse_catalog(text), heard.append) == whole
        assert heard == [*range(size, 4, size), 4]


async def test_it_is_as_of_now(service: Service) -> None:
    """Two months on, nobody has Pro any more: nobody loses by it."""
    service.now += timedelta(days=60)
    assert not (await impact_of(service, TEXT.replace("projects = 50", "projects = 40"))).any_change


async def test_nothing_is_written(service: Service, database_url: str) -> None:
    """Not even the catalog: looking at one is not using it."""
    with psycopg.connect(database_url) as connection:
        query = "SELECT (SELECT count(*) FROM catalog_versions), (SELECT max(xmin::text) FROM customers)"
        before = connection.execute(query).fetchall()
        await impact_of(service, TEXT.replace("projects = 50", "projects = 40"))
        assert connection.execute(query).fetchall() == before


async def test_a_database_without_a_catalog_says_so(service: Service, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("TRUNCATE catalog_activations, catalog_versions CASCADE")
    with pytest.raises(NoCatalogError):
        await impact_of(service, TEXT)
