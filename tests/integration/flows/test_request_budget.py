"""Every request at Stripe is counted in one budget; when it runs low, people go first, and the rest is never starved."""

from __future__ import annotations

from collections.abc import AsyncIterator

import psycopg
import pytest

from billing_service.flows.request_budget import Budget, RequestBudget
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi
from tests.integration.flows.subscriber import KEY, Clock, stand_in

STILL = Budget(rate_per_s=0.0, burst=20, reserve=5)  # nothing comes back while the test runs


@pytest.fixture
async def budget(database_url: str) -> AsyncIterator[RequestBudget]:
    """Give a full budget of which nothing comes back."""
    fill(database_url, 20)
    database = Database(database_url)
    yield RequestBudget(database, STILL)
    await database.close()


def fill(database_url: str, tokens: float) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE stripe_budget SET tokens = %s, update_time = now()", (tokens,))


def left(database_url: str) -> float:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT tokens FROM stripe_budget").fetchone()
    assert row is not None
    return float(row[0])


async def test_what_people_spend_is_missing_in_the_background_of_every_process(
    budget: RequestBudget, database_url: str
) -> None:
    for _ in range(14):
        budget.spend()
    await budget.flush()
    other = Database(database_url)
    background = RequestBudget(other, STILL)
    assert [await background.take(), await background.take()] == [True, False]  # 20 - 14 - 1 is the reserve
    await other.close()


async def test_however_many_people_there_are_a_quarter_of_what_comes_back_is_left_for_the_background(
    database_url: str,
) -> None:
    """Four requests come back in the second that passed; people made five hundred."""
    database = Database(database_url)
    busy = RequestBudget(database, Budget(rate_per_s=4.0, burst=20, reserve=5))
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE stripe_budget SET tokens = 5, update_time = now() - interval '1 second'")
    for _ in range(500):
        busy.spend()
    await busy.flush()
    background = RequestBudget(database, STILL)
    assert [await background.take(), await background.take()] == [True, False]
    await database.close()


async def test_a_request_that_was_taken_beforehand_is_not_counted_twice(
    budget: RequestBudget, database_url: str
) -> None:
    assert await budget.take()
    budget.spend()
    budget.spend()  # one more than was taken
    await budget.flush()
    assert left(database_url) == 20 - 2


async def test_what_could_not_be_told_is_told_later(budget: RequestBudget, database_url: str) -> None:
    budget.spend()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("ALTER TABLE stripe_budget RENAME TO away")
        with pytest.raises(Exception, match="stripe_budget"):
            await budget.flush()
        connection.execute("ALTER TABLE away RENAME TO stripe_budget")
    await budget.flush()
    assert left(database_url) == 19


async def test_each_call_and_each_page_of_a_list_is_counted(budget: RequestBudget, database_url: str) -> None:
    async with stand_in(Clock()) as url, StripeApi(KEY, url, before=budget.spend) as stripe:
        await stripe.create_customer({}, "key-1")
        await stripe.find_prices(["pro_monthly", "pro_yearly"])
        assert [page async for page in stripe.listing.live_subscriptions()]
    await budget.flush()
    assert left(database_url) == 20 - 3
