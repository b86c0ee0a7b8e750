"""A catalog beside what Stripe sells: what is wrong, and what may be done about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from billing_service.domain.catalog import Charge, Interval
from billing_service.domain.catalog_actions import ActionKind
from billing_service.domain.catalog_comparison import compare
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.offers import Offers
from tests.unit.domain.offered import CATALOG, DEPLOYMENT, TEXT, compared, offered, product

PLACE = "plans.pro.prices.monthly"
DEAR = Charge(1500, "eur", Interval.MONTH)


def test_an_account_that_agrees_leaves_nothing_to_do() -> None:
    found = compared(offered())
    assert (found.mismatches, found.actions) == ((), ())


def test_an_empty_account_gets_everything_once() -> None:
    """A product for each plan that is sold, a price for each of its prices, a configuration for each group and for nobody's plan."""
    found = compare(CATALOG, Offers({}, {}, frozenset()), DEPLOYMENT, livemode=False)
    assert [(one.kind.value, one.place) for one in found.actions] == [
        ("create_product", "plans.pro"),
        ("create_product", "plans.team"),
        ("create_product", "plans.export_pass"),
        ("create_price", "plans.pro.prices.monthly"),
        ("create_price", "plans.pro.prices.yearly"),
        ("create_price", "plans.team.prices.monthly"),
        ("create_price", "plans.export_pass.prices.once"),
        ("create_portal_configuration", "portal.group:base"),
        ("create_portal_configuration", "portal.no_plan"),
    ]
    assert len({one.idempotency_key(DEPLOYMENT) for one in found.actions}) == len(found.actions)
    assert found.unmended == ()
    assert len(found.mismatches) == 4


def test_what_is_made_says_whose_it_is() -> None:
    """By its metadata alone it is known again as ours."""
    prices = offered()
    del prices["pro_monthly"]
    (action,) = compared(prices).actions
    assert action.body is not None
    assert action.body["metadata"] == {
        "billing_deployment": "default",
        "billing_plan_key": "pro",
        "billing_price_key": "monthly",
    }
    assert (action.body["product"], action.body["unit_amount"], action.body["currency"]) == ("prod_pro", 1200, "eur")
    assert action.body["recurring"] == {"interval": "month", "interval_count": 1}
    assert "transfer_lookup_key" not in action.body


def test_a_changed_amount_is_a_new_price_to_which_the_lookup_key_moves() -> None:
    """Stripe changes no price, and whoever is on the old one stays on it."""
    prices = offered()
    prices["pro_monthly"] = replace(prices["pro_monthly"], charge=DEAR)
    found = compared(prices)
    (action,), (mismatch,) = found.actions, found.mismatches
    assert (action.kind, action.object_id) == (ActionKind.REPLACE_PRICE, "price_pro_monthly")
    assert action.body is not None
    assert (action.body["lookup_key"], action.body["transfer_lookup_key"]) == ("pro_monthly", True)
    assert [vars(one) for one in action.differences] == [
        {"field": "charge", "before": "1500 eur per month", "after": "1200 eur per month"}
    ]
    assert mismatch.mended


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"charge": DEAR}, "Stripe charges 1500 eur per month, and the file says 1200 eur per month"),
        ({"charge": None}, "by tiers or the like"),
        ({"charge": Charge(1200, "usd", Interval.MONTH)}, "1200 usd"),
        ({"charge": Charge(1200, "eur", Interval.YEAR)}, "per year"),
        ({"charge": Charge(1200, "eur", Interval.MONTH, 3)}, "per 3 months"),
        (
            {"charge": Charge(1200, "eur"), "recurring": False},
            'paid once at Stripe, and the plan is of mode "subscription"',
        ),
        ({"metered": True}, "charged by usage"),
        ({"livemode": True}, "of live mode, and the API key is not"),
    ],
)
def test_what_somebody_else_made_is_told_and_never_touched(other: dict[str, Any], said: str) -> None:
    """A difference there is for a person: another deployment, or the dashboard, made it."""
    prices = offered()
    prices["pro_monthly"] = replace(
        prices["pro_monthly"], ours=False, product=product("pro", plan_key=None, name="Hand-made"), **other
    )
    found = compared(prices)
    assert found.actions == ()
    (mismatch,) = found.unmended
    assert mismatch.place == PLACE
    assert said in mismatch.message
    assert "leaves it alone" in mismatch.message


def test_a_price_out_of_sale_stays_out_of_sale() -> None:
    """Taking a price out of sale is how a plan is retired: nothing puts it back, not even another amount in the file."""
    prices = offered()
    prices["pro_monthly"] = replace(prices["pro_monthly"], active=False, charge=DEAR)
    found = compared(prices)
    (mismatch,) = found.unmended
    assert (found.actions, mismatch.withdrawn) == ((), True)
    assert found.but_withdrawn().unmended == ()


def test_nothing_is_made_under_a_product_out_of_sale() -> None:
    prices = offered()
    del prices["pro_monthly"]
    prices["pro_yearly"] = replace(prices["pro_yearly"], product=product("pro", active=False))
    found = compared(prices)
    assert found.actions == ()
    assert [one.place for one in found.unmended] == ["plans.pro", PLACE]


def test_a_missing_price_joins_the_product_of_its_siblings() -> None:
    """Also where somebody else made it: a price under it changes nothing of the product."""
    prices = offered()
    del prices["pro_monthly"]
    prices["pro_yearly"] = replace(prices["pro_yearly"], ours=False, product=product("pro", plan_key=None, name="Mine"))
    (action,) = compared(prices).actions
    assert action.body is not None
    assert (action.kind, action.body["product"]) == (ActionKind.CREATE_PRICE, "prod_pro")


def test_a_name_is_brought_in_step_where_it_is_ours() -> None:
    prices = offered()
    prices["pro_monthly"] = replace(prices["pro_monthly"], product=product("pro", name="Old", description=""))
    prices["pro_yearly"] = replace(prices["pro_yearly"], product=product("pro", name="Old", description=""))
    (action,) = compared(prices).actions
    assert (action.kind, action.object_id, action.body) == (
        ActionKind.UPDATE_PRODUCT,
        "prod_pro",
        {"name": "Pro", "description": "For people who ship."},
    )


def test_what_the_file_leaves_to_stripe_is_not_compared() -> None:
    """A catalog without amounts agrees with any amount, and cannot have a price made."""
    lines = TEXT.splitlines()
    silent = parse_catalog("\n".join(one for one in lines if not one.startswith(("amount_", "currency", "interval"))))
    prices = offered()
    prices["pro_monthly"] = replace(prices["pro_monthly"], charge=DEAR)
    del prices["team_monthly"]
    found = compared(prices, silent)
    assert found.actions == ()
    (mismatch,) = found.unmended
    assert mismatch.place == "plans.team.prices.monthly"
    assert "add amount_minor" in mismatch.message


@pytest.mark.parametrize("livemode", [True, False, None])
def test_the_mode_of_the_key_is_that_of_the_prices(*, livemode: bool | None) -> None:
    """What an answer has of the other mode is never changed."""
    found = compared(offered(), livemode=livemode)
    assert (len(found.unmended), found.actions) == (4 if livemode else 0, ())


def test_a_price_of_ours_that_became_of_the_wrong_kind_is_replaced() -> None:
    """The plan changed from paid once to paid again and again: no new amount, and another price all the same."""
    prices = offered()
    prices["pro_monthly"] = replace(prices["pro_monthly"], recurring=False, charge=Charge(1200, "eur"))
    (action,) = compared(prices).actions
    assert action.kind is ActionKind.REPLACE_PRICE
    assert action.body is not None
    assert action.body["recurring"]["interval"] == "month"


def test_a_portal_configuration_waits_for_the_prices_of_its_group_and_is_made_once() -> None:
    prices = offered()
    (base, nobody) = compare(CATALOG, Offers(prices, {}, frozenset()), DEPLOYMENT, livemode=False).actions
    assert base.body is not None
    assert nobody.body is not None
    known = frozenset(str(one.body["metadata"]["billing_portal_content"]) for one in (base, nobody) if one.body)
    assert compare(CATALOG, Offers(prices, {}, known), DEPLOYMENT, livemode=False).actions == ()
    other = compare(CATALOG, Offers(prices, {}, known), "another", livemode=False)
    assert len(other.actions) == 2
    missing = {key: one for key, one in prices.items() if key != "pro_monthly"}
    waiting = compare(CATALOG, Offers(missing, {}, known), DEPLOYMENT, livemode=False).actions[-1]
    assert (waiting.place, waiting.body) == ("portal.group:base", None)
