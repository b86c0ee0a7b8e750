"""Keys, errors, validation, idempotency and lists: the API's manners, seen through the SDK."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
import stripe
from aiohttp import web

from sandbox.stripe.errors import ApiError
from tests.integration.sandbox_stripe.conftest import API_KEY, World, open_client


async def test_a_wrong_key_is_401_and_is_not_said_back(world: World) -> None:
    stranger, transport = open_client(world.url, "sk_test_somebody_else_entirely")
    with pytest.raises(stripe.AuthenticationError, match="Invalid API Key provided") as refused:
        await stranger.v1.customers.list_async()
    await transport.close_async()  # type: ignore[no-untyped-call]  # the SDK leaves it untyped
    assert "somebody_else" not in str(refused.value)


async def test_no_key_is_401_and_basic_auth_works(world: World) -> None:
    async with world.http.get(f"{world.url}/v1/customers") as response:
        assert response.status == 401
        assert (await response.json())["error"]["type"] == "invalid_request_error"
    async with world.http.get(
        f"{world.url}/v1/customers", headers={"Authorization": aiohttp.encode_basic_auth(API_KEY, "")}
    ) as response:
        assert response.status == 200


async def test_answers_carry_stripes_headers_and_the_accounts_time(world: World) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with world.http.get(f"{world.url}/v1/events", headers=headers) as response:
        assert response.headers["Request-Id"].startswith("req_")
        assert response.headers["Stripe-Version"] == "2026-10-28.endive"
        assert parsedate_to_datetime(response.headers["Date"]).timestamp() == world.clock.now


async def test_an_unknown_path_is_404_with_stripes_error_object(world: World) -> None:
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with world.http.get(f"{world.url}/v1/nonsense", headers=headers) as response:
        assert response.status == 404
        assert "Unrecognized request URL (GET: /v1/nonsense)" in (await response.json())["error"]["message"]


async def test_what_does_not_exist_is_404_in_the_path_and_400_in_a_parameter(world: World) -> None:
    with pytest.raises(stripe.InvalidRequestError, match=r"No such checkout\.session: 'cs_test_none'") as missing:
        await world.reread("cs_test_none")
    assert (missing.value.http_status, missing.value.code, missing.value.param) == (404, "resource_missing", "id")
    with pytest.raises(stripe.InvalidRequestError, match="No such customer") as refused:
        await world.session(customer="cus_none")
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (400, "resource_missing", "customer")


async def test_an_older_api_version_is_refused_rather_than_rendered_wrong(world: World) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="Invalid Stripe API version"):
        await world.client.v1.customers.list_async(options={"stripe_version": "2024-06-20"})


@pytest.mark.parametrize(
    ("change", "param", "code", "message"),
    [
        ({"payment_method_types": ["card"]}, "payment_method_types", "parameter_unknown", "unknown parameter"),
        ({"line_items": [{"prise": "x"}]}, "line_items[0][prise]", "parameter_unknown", "unknown parameter"),
        ({"mode": "lease"}, "mode", None, "must be one of payment, setup or subscription"),
        ({"mode": "payment", "subscription_data": None}, "mode", None, "passed a recurring price"),
        ({"line_items": []}, "line_items", "parameter_missing", "Missing required param"),
        ({"success_url": None}, "success_url", "parameter_missing", "Missing required param"),
        ({"success_url": "javascript:alert(1)"}, "success_url", "url_invalid", "Not a valid URL"),
        ({"expires_at": 1_800_000_000 + 1_799}, "expires_at", None, "at least 30 minutes"),
        ({"expires_at": 1_800_000_000 + 86_401}, "expires_at", None, "less than 24 hours"),
        ({"expires_at": "soon"}, "expires_at", "parameter_invalid_integer", "Invalid integer: soon"),
        ({"allow_promotion_codes": "yes"}, "allow_promotion_codes", None, "Invalid boolean: yes"),
        ({"customer": ""}, "customer", "parameter_invalid_empty", "empty string"),
        ({"client_reference_id": "x" * 201}, "client_reference_id", None, "at most 200"),
        ({"metadata": {f"k{i}": "v" for i in range(51)}}, "metadata", None, "up to 50 metadata keys"),
        ({"metadata": {"k" * 41: "v"}}, "metadata", None, "up to 40 characters"),
        ({"metadata": {"k": "v" * 501}}, "metadata[k]", None, "up to 500 characters"),
        ({"payment_intent_data": {"metadata": {}, "description": "x"}}, "payment_intent_data", None, "can not pass"),
        ({"shipping_address_collection": {"allowed_countries": ["DE"]}}, None, "stand_in_unsupported", "stand-in"),
    ],
)
async def test_a_session_that_stripe_refuses_is_refused_with_the_parameters_name(
    world: World, change: dict[str, Any], param: str | None, code: str | None, message: str
) -> None:
    params = await world.session_params()
    with pytest.raises(stripe.InvalidRequestError, match=message) as refused:
        await world.client.v1.checkout.sessions.create_async({**params, **change})
    assert refused.value.code == code
    assert param is None or refused.value.param == param
    assert (await world.client.v1.checkout.sessions.list_async()).data == []


async def test_an_inactive_price_is_not_sold(world: World) -> None:
    price = await world.price("pro_monthly")
    params = await world.session_params()
    await world.client.v1.prices.update_async(price, {"active": False})
    with pytest.raises(stripe.InvalidRequestError, match="The price specified is inactive"):
        await world.client.v1.checkout.sessions.create_async(params)


async def test_a_one_time_price_is_not_sold_as_a_subscription(world: World) -> None:
    params = await world.session_params("pass", mode="subscription")
    del params["payment_intent_data"]
    with pytest.raises(stripe.InvalidRequestError, match="at least one recurring price"):
        await world.client.v1.checkout.sessions.create_async(params)


async def test_seeded_prices_are_found_by_lookup_key_with_amount_and_interval(world: World) -> None:
    found = await world.client.v1.prices.list_async(
        {"lookup_keys": ["pro_monthly", "pro_yearly", "pass", "nobody"], "expand": ["data.product"]}
    )
    prices = {price.lookup_key: price.to_dict() for price in found.data}
    shown = {
        key: (price["unit_amount"], price["currency"], (price["recurring"] or {}).get("interval"), price["type"])
        for key, price in prices.items()
    }
    assert shown == {
        "pro_monthly": (1200, "eur", "month", "recurring"),
        "pro_yearly": (120_050, "eur", "year", "recurring"),
        "pass": (2500, "usd", None, "one_time"),
    }
    assert prices["pro_monthly"]["product"]["name"] == "Pro"


async def test_a_lookup_key_moves_only_when_asked_to(world: World) -> None:
    old = await world.client.v1.prices.retrieve_async(await world.price("pro_monthly"))
    raised: Any = {
        "product": old.product,
        "currency": "eur",
        "unit_amount": 1500,
        "recurring": {"interval": "month"},
        "lookup_key": "pro_monthly",
    }
    with pytest.raises(stripe.InvalidRequestError, match="already uses that lookup key"):
        await world.client.v1.prices.create_async(raised)
    new = await world.client.v1.prices.create_async({**raised, "transfer_lookup_key": True})
    assert await world.price("pro_monthly") == new.id
    assert (await world.client.v1.prices.retrieve_async(old.id)).lookup_key is None


async def test_the_same_key_and_parameters_replay_the_first_answer(world: World) -> None:
    params = await world.session_params()
    first = await world.client.v1.checkout.sessions.create_async(params, {"idempotency_key": "k"})
    again = await world.client.v1.checkout.sessions.create_async(params, {"idempotency_key": "k"})
    assert again.id == first.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    assert len((await world.client.v1.checkout.sessions.list_async()).data) == 1


async def test_the_same_key_with_other_parameters_is_refused(world: World) -> None:
    await world.client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError, match="same parameters they were first used with"):
        await world.client.v1.customers.create_async({"name": "b"}, {"idempotency_key": "k"})


async def test_an_error_from_within_is_replayed_and_a_500_too(world: World) -> None:
    params = await world.session_params()
    customer = params["customer"]
    await world.client.v1.customers.delete_async(customer)
    with pytest.raises(stripe.InvalidRequestError, match="No such customer") as first:
        await world.client.v1.checkout.sessions.create_async(params, {"idempotency_key": "gone"})
    with pytest.raises(stripe.InvalidRequestError, match="No such customer") as second:
        await world.client.v1.checkout.sessions.create_async(params, {"idempotency_key": "gone"})
    assert (_replayed(first.value), _replayed(second.value)) == (False, True)

    async def broken(_: web.Request) -> None:
        raise ApiError("An unknown error occurred", status=500, kind="api_error")

    world.stand_in.intercept = broken
    with pytest.raises(stripe.APIError):
        await world.client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "broken"})
    world.stand_in.intercept = None
    with pytest.raises(stripe.APIError) as replayed:
        await world.client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "broken"})
    assert (replayed.value.http_status, _replayed(replayed.value)) == (500, True)


def _replayed(error: stripe.StripeError) -> bool:
    return {name.lower(): value for name, value in (error.headers or {}).items()}.get("idempotent-replayed") == "true"


async def test_a_refusal_before_execution_is_not_kept(world: World) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="unknown parameter"):
        await world.client.v1.customers.create_async({"nmae": "a"}, {"idempotency_key": "k"})
    made = await world.client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "k"})
    assert made.name == "a"


async def test_a_key_in_use_is_409_and_the_first_request_is_not_disturbed(world: World) -> None:
    running, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: web.Request) -> None:
        running.set()
        await go_on.wait()

    world.stand_in.intercept = hold
    first = asyncio.create_task(world.client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "k"}))
    await running.wait()
    with pytest.raises(stripe.APIError) as refused:
        await world.client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "k"})
    assert refused.value.http_status == 409
    go_on.set()
    assert (await first).name == "a"


async def test_a_key_is_free_again_after_a_day(world: World) -> None:
    first = await world.client.v1.customers.create_async({"name": "a"}, {"idempotency_key": "k"})
    world.clock.now += 86_400
    world.stand_in.advance()
    second = await world.client.v1.customers.create_async({"name": "b"}, {"idempotency_key": "k"})
    assert second.id != first.id


async def test_pages_join_up_in_both_directions(world: World) -> None:
    made = [(await world.client.v1.customers.create_async({"name": str(i)})).id for i in range(7)]
    newest_first = made[::-1]
    listed = await world.client.v1.customers.list_async({"limit": 3})
    assert ([c.id for c in listed.data], listed.has_more) == (newest_first[:3], True)
    assert [c.id async for c in listed.auto_paging_iter()] == newest_first
    last = await world.client.v1.customers.list_async({"limit": 4, "starting_after": newest_first[2]})
    assert ([c.id for c in last.data], last.has_more) == (newest_first[3:], False)
    newer = await world.client.v1.customers.list_async({"limit": 2, "ending_before": newest_first[4]})
    assert ([c.id for c in newer.data], newer.has_more) == (newest_first[2:4], True)


@pytest.mark.parametrize("limit", [0, 101])
async def test_a_limit_outside_1_to_100_is_refused(world: World, limit: int) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="This value must be") as refused:
        await world.client.v1.customers.list_async({"limit": limit})
    assert refused.value.param == "limit"


async def test_events_are_listed_by_type_time_and_delivery(world: World) -> None:
    await world.bought()
    await world.delivered()
    world.clock.now += 10
    await world.bought("pass")
    await world.delivered()
    later: Any = {"types": ["checkout.session.completed"], "created": {"gte": 1_800_000_010}, "delivery_success": True}
    found = await world.client.v1.events.list_async(later)
    assert [event.data.object["mode"] for event in found.data] == ["payment"]
    assert found.data[0].pending_webhooks == 0
    assert (await world.client.v1.events.list_async({"delivery_success": False})).data == []
    patterns = await world.client.v1.events.list_async({"type": "checkout.*"})
    assert len(patterns.data) == 2


async def test_expanding_what_cannot_be_expanded_is_refused(world: World) -> None:
    session = await world.session()
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        await world.reread(session.id, "colour")
    expanded = await world.reread(session.id, "customer", "line_items", "subscription")
    assert expanded.customer.email == "ada@example.com"
    assert expanded.line_items.data[0].price.lookup_key == "pro_monthly"
    assert expanded.subscription is None


async def test_metadata_merges_and_an_empty_value_unsets_its_key(world: World) -> None:
    customer = await world.customer()
    changed = await world.client.v1.customers.update_async(
        customer, {"metadata": {"a": "1", "billing_customer_id": ""}}
    )
    assert changed.metadata.to_dict() == {"a": "1"}
