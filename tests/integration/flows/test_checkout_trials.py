"""One trial per customer, on whichever page and by whichever word it was given."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from billing_service.domain.catalog import Policy
from billing_service.domain.errors import (
    StripeUnavailableError,
)
from billing_service.flows.create_checkout_session import CreateCheckoutSession
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.shop import REQUEST, Shop, grouped, selling
from tests.integration.flows.subscriber import Clock
from tests.stripe_proxy import lose_request


def with_trials(shop: Shop, *, one_per_customer: bool) -> CreateCheckoutSession:
    """Sell two plans of different groups, each with a trial of fourteen days."""
    policy = Policy(trial=timedelta(days=14), one_trial_per_customer=one_per_customer)
    plans = {key: replace(CATALOG.plans[key], group=key, policy=policy) for key in ("pro", "team")}
    return selling(shop, replace(CATALOG, plans={**CATALOG.plans, **plans}))


def trials(database_url: str) -> dict[str, str | None]:
    """Give the days of trial that each plan's page was made with."""
    with psycopg.connect(database_url) as connection:
        return dict(
            connection.execute(
                "SELECT plan_key, request_body #>> '{subscription_data,trial_period_days}' FROM checkout_intents"
            ).fetchall()
        )


@pytest.mark.parametrize("paid", [False, True])
@pytest.mark.parametrize("one_per_customer", [False, True])
async def test_one_trial_per_customer_is_the_plans_policy_though_two_pages_are_open_or_nobody_told_us(
    shop: Shop, database_url: str, paid: bool, one_per_customer: bool
) -> None:
    """Neither page was heard of as a subscription yet: what was offered counts, as long as it can be taken up."""
    create = with_trials(shop, one_per_customer=one_per_customer)
    first = await create(REQUEST)
    if paid:
        await shop.control(f"checkout/sessions/{first.session.checkout_session_id}/complete", outcome="paid")
    await create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert trials(database_url) == {"pro": "14", "team": None if one_per_customer else "14"}


async def test_a_trial_on_a_page_that_nobody_can_pay_any_more_is_offered_again(
    shop: Shop, clock: Clock, database_url: str
) -> None:
    create = with_trials(shop, one_per_customer=True)
    await create(REQUEST)
    clock.ahead = timedelta(hours=25)
    await create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert trials(database_url) == {"pro": "14", "team": "14"}


async def test_a_page_that_was_paid_in_its_last_minute_was_the_one_trial_though_nobody_told_us(
    shop: Shop, clock: Clock, database_url: str
) -> None:
    """Its time is over by our clock, which says nothing about what became of it."""
    create = with_trials(shop, one_per_customer=True)
    first = await create(REQUEST)
    await shop.control(f"checkout/sessions/{first.session.checkout_session_id}/complete", outcome="paid")
    clock.ahead = timedelta(hours=24)
    await create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert trials(database_url) == {"pro": "14", "team": None}


@pytest.mark.parametrize("hours", [0, 25])
async def test_a_trial_on_a_page_that_could_not_be_expired_counts_in_another_group_until_its_time_is_over(
    shop: Shop, clock: Clock, database_url: str, hours: int
) -> None:
    trial = with_trials(shop, one_per_customer=True)
    first = await trial(REQUEST)
    shop.proxy.next("POST", f"/v1/checkout/sessions/{first.session.checkout_session_id}/expire", lose_request)
    with pytest.raises(StripeUnavailableError):  # without a trial itself, so that only the page at Stripe has one
        await selling(shop, grouped(pro="pro"))(replace(REQUEST, request_id="request-2", price_key="yearly"))
    clock.ahead = timedelta(hours=hours)
    await trial(replace(REQUEST, request_id="request-3", plan_key="team"))
    assert trials(database_url)["team"] == ("14" if hours else None)


async def test_a_page_with_a_trial_that_stripe_does_not_know_does_not_count(
    shop: Shop, clock: Clock, database_url: str
) -> None:
    create = with_trials(shop, one_per_customer=True)
    await create(REQUEST)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE checkout_intents SET checkout_session_id = 'cs_test_of_another_account'")
    clock.ahead = timedelta(hours=25)
    await create(replace(REQUEST, request_id="request-2", plan_key="team"))
    assert trials(database_url) == {"pro": "14", "team": "14"}
