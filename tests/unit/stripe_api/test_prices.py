from __future__ import annotations

from pathlib import Path

import pytest

from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_file import parse_catalog
from billing_service.stripe_api.prices import PriceProblem, StripePrice, lookup_keys_of, resolve_prices

EXAMPLE = Path(__file__).parents[3] / "catalog.toml"


@pytest.fixture
def catalog() -> Catalog:
    return parse_catalog(EXAMPLE.read_text(encoding="utf-8"))


def at_stripe(lookup_key: str, *, active: bool = True, recurring: bool = True) -> StripePrice:
    return StripePrice(f"price_{lookup_key}", lookup_key, active, recurring, "eur", 1200, "prod_1")


GOOD = {
    "pro_monthly": at_stripe("pro_monthly"),
    "pro_yearly": at_stripe("pro_yearly"),
    "team_monthly": at_stripe("team_monthly"),
    "export_pass": at_stripe("export_pass", recurring=False),
}


def test_asks_for_every_price(catalog: Catalog) -> None:
    """Every price of the catalog is looked up, in its order."""
    assert lookup_keys_of(catalog) == tuple(GOOD)


def test_resolves_what_fits(catalog: Catalog) -> None:
    """Where Stripe has what the catalog sells, every price resolves and nothing is to be said."""
    resolved = resolve_prices(catalog, [*GOOD.values(), at_stripe("of_another_product")])
    assert resolved.price_by_lookup_key == GOOD
    assert resolved.problems == ()


@pytest.mark.parametrize(
    ("price", "message"),
    [
        (None, "no price with this lookup key"),
        (at_stripe("pro_yearly", active=False), "not active"),
        (at_stripe("pro_yearly", recurring=False), 'paid once at Stripe, and the plan is of mode "subscription"'),
    ],
)
def test_names_what_does_not_fit(catalog: Catalog, price: StripePrice | None, message: str) -> None:
    """A price that cannot be sold is named with its plan and the reason, and the others stay for sale."""
    found = {**GOOD, "pro_yearly": price}
    resolved = resolve_prices(catalog, [price for price in found.values() if price])
    assert "pro_yearly" not in resolved.price_by_lookup_key
    assert len(resolved.price_by_lookup_key) == 3
    (problem,) = resolved.problems
    assert isinstance(problem, PriceProblem)
    assert (problem.plan_key, problem.price_key, problem.lookup_key) == ("pro", "yearly", "pro_yearly")
    assert message in problem.message


def test_a_recurring_price_does_not_fit_a_payment(catalog: Catalog) -> None:
    """A plan that is paid once is not sold at a price that Stripe would charge again and again."""
    found = {**GOOD, "export_pass": at_stripe("export_pass")}
    (problem,) = resolve_prices(catalog, found.values()).problems
    assert problem.message == 'the price is recurring at Stripe, and the plan is of mode "payment"'
