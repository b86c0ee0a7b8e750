"""The client against the stand-in: a whole conversation, as the flows hold it."""

from __future__ import annotations

import time
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from billing_service.domain.catalog_file import parse_catalog
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import StripeDefinite, StripeDenied, StripeKeyConflict
from billing_service.stripe_api.prices import lookup_keys_of, resolve_prices
from sandbox.stripe.app import StandInStripe

CATALOG = (Path(__file__).parents[3] / "catalog.toml").read_text(encoding="utf-8")
KEY = "sk_test_of_the_tests"


@pytest.fixture
async def base_url() -> AsyncIterator[str]:
    """A stand-in that sells what the example's catalog names."""
    stand_in = StandInStripe(KEY)
    url = await stand_in.start()
    stand_in.seed(tomllib.loads(CATALOG))
    yield url
    await stand_in.stop()


@pytest.fixture
async def api(base_url: str) -> AsyncIterator[StripeApi]:
    async with StripeApi(KEY, base_url) as api:
        yield api


async def body(api: StripeApi, **changes: Any) -> dict[str, Any]:
    (price,) = await api.find_prices(["pro_monthly"])
    customer = await api.create_customer({"metadata": {"billing_customer_id": "ada"}}, "customer-1")
    return {
        "mode": "subscription",
        "customer": customer,
        "client_reference_id": "ada",
        "line_items": [{"price": price.price_id, "quantity": 1}],
        "success_url": "https://app.example.com/done?session={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://app.example.com/pricing",
        "expires_at": int(time.time()) + 3600,
        "metadata": {"billing_deployment": "test"},
        **changes,
    }


async def test_every_price_of_the_example_resolves(api: StripeApi) -> None:
    """What the catalog sells is found by its lookup keys, and fits."""
    catalog = parse_catalog(CATALOG)
    resolved = resolve_prices(catalog, await api.find_prices(lookup_keys_of(catalog)))
    assert resolved.problems == ()
    assert set(resolved.price_by_lookup_key) == set(lookup_keys_of(catalog))


async def test_a_session_is_made_once_per_key(api: StripeApi) -> None:
    """The same key with the same body gives the same session; with another body it is refused as a key conflict."""
    asked = await body(api)
    first = await api.create_checkout_session(asked, "intent-1")
    again = await api.create_checkout_session(asked, "intent-1")
    assert first.object["id"] == again.object["id"]
    assert first.object["status"] == "open"
    assert abs(first.server_time - time.time()) < 3600
    with pytest.raises(StripeKeyConflict):
        await api.create_checkout_session({**asked, "client_reference_id": "eve"}, "intent-1")
    read = await api.get_checkout_session(first.object["id"])
    assert read.object["client_reference_id"] == "ada"


async def test_a_session_expires_once(api: StripeApi) -> None:
    """An open session can be expired; one that is not open any more is a definite refusal."""
    session = await api.create_checkout_session(await body(api), "intent-1")
    expired = await api.expire_checkout_session(session.object["id"])
    assert expired.object["status"] == "expired"
    with pytest.raises(StripeDefinite) as caught:
        await api.expire_checkout_session(session.object["id"])
    assert caught.value.status == 400


async def test_a_customer_that_is_gone_is_told_apart(api: StripeApi) -> None:
    """A session for a customer that Stripe does not know says so, which is what makes the flow create a new one."""
    with pytest.raises(StripeDefinite) as caught:
        await api.create_checkout_session(await body(api, customer="cus_gone"), "intent-1")
    assert caught.value.missing_customer


async def test_what_is_not_there_is_missing(api: StripeApi) -> None:
    """An id that Stripe does not know is a 404."""
    with pytest.raises(StripeDefinite) as caught:
        await api.get_checkout_session("cs_gone")
    assert caught.value.missing


async def test_another_key_is_denied(base_url: str) -> None:
    """A key that does not open the account is denied."""
    async with StripeApi("sk_test_of_somebody_else", base_url) as api:
        with pytest.raises(StripeDenied):
            await api.find_prices(["pro_monthly"])
