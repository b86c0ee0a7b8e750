from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable

import pytest

from billing_service.deadline import deadline_after
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import (
    StripeBusy,
    StripeCallError,
    StripeDefinite,
    StripeDenied,
    StripeKeyConflict,
    StripeNoAnswer,
)
from billing_service.stripe_api.prices import StripePrice
from tests.integration.stripe_api.conftest import API_KEY, DATE_S, Answer, FakeServer

SESSION = {
    "id": "cs_test_1",
    "object": "checkout.session",
    "status": "open",
    "metadata": {"a": "b"},
    "amount_total": 1200,
}
Call = Callable[[StripeApi], Awaitable[object]]

CALLS: dict[str, Call] = {
    "customers.create": lambda api: api.create_customer({}, "k"),
    "checkout.sessions.create": lambda api: api.create_checkout_session({}, "k"),
    "checkout.sessions.expire": lambda api: api.expire_checkout_session("cs_1"),
    "checkout.sessions.get": lambda api: api.get_checkout_session("cs_1"),
    "prices.list": lambda api: api.find_prices(["pro_monthly"]),
}


async def failure_of(api: StripeApi) -> StripeCallError:
    with pytest.raises(StripeCallError) as caught:
        await api.create_checkout_session({"mode": "payment"}, "intent-1")
    return caught.value


async def test_sends_what_was_rendered(api: StripeApi, server: FakeServer) -> None:
    """A session is asked for with our key, our version and the idempotency key, and the body as Stripe's form."""
    server.will_answer(SESSION)
    await api.create_checkout_session(
        {
            "mode": "payment",
            "line_items": [{"price": "price_1", "quantity": 2}],
            "metadata": {"billing_plan_key": "pro"},
        },
        "intent-1",
    )
    (request,) = server.seen
    assert (request.method, request.path) == ("POST", "/v1/checkout/sessions")
    assert request.headers["Idempotency-Key"] == "intent-1"
    assert request.headers["Stripe-Version"] == "2026-10-28.endive"
    assert request.headers["Authorization"] == f"Bearer {API_KEY}"
    assert "X-Stripe-Client-Telemetry" not in request.headers
    assert dict(request.form) == {
        "mode": "payment",
        "line_items[0][price]": "price_1",
        "line_items[0][quantity]": "2",
        "metadata[billing_plan_key]": "pro",
    }


async def test_a_call_searches_for_no_module(
    api: StripeApi, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first, which loads what all need: one that is missing would be looked for in every folder, at each call."""
    sought: list[str] = []

    class Notes:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            sought.append(name)

    for _ in range(2):
        server.will_answer(SESSION)
    await api.get_checkout_session("cs_test_1")
    monkeypatch.setattr(sys, "meta_path", [Notes, *sys.meta_path])
    await api.get_checkout_session("cs_test_1")
    assert sought == []


async def test_gives_plain_json_and_stripes_time(api: StripeApi, server: FakeServer) -> None:
    """An answer arrives as the JSON that it is, with the time of Stripe's clock."""
    server.will_answer(SESSION)
    read = await api.create_checkout_session({}, "intent-1")
    assert read.object == SESSION
    assert type(read.object) is type(read.object["metadata"]) is dict
    assert read.server_time == DATE_S


async def test_says_when_stripe_gave_no_time(api: StripeApi, server: FakeServer) -> None:
    """A Date header that cannot be read is 0, which orders a read before everything, and not an error."""
    server.will_answer(SESSION, Date="yesterday")
    assert (await api.get_checkout_session("cs_test_1")).server_time == 0


async def test_creates_a_customer(api: StripeApi, server: FakeServer) -> None:
    """A customer's id is all that is kept of it."""
    server.will_answer({"id": "cus_1", "object": "customer", "email": "ada@example.org"})
    assert await api.create_customer({"metadata": {"billing_customer_id": "ada"}}, "customer-1") == "cus_1"
    assert server.seen[0].path == "/v1/customers"
    assert server.seen[0].headers["Idempotency-Key"] == "customer-1"


async def test_expires_and_reads(api: StripeApi, server: FakeServer) -> None:
    """Each call goes to its own path; reading expands what it is told to."""
    for content in ({**SESSION, "status": "expired"}, SESSION):
        server.will_answer(content)
    assert (await api.expire_checkout_session("cs_1")).object["status"] == "expired"
    await api.get_checkout_session("cs_1", expand=["payment_intent"])
    assert [(request.method, request.path) for request in server.seen] == [
        ("POST", "/v1/checkout/sessions/cs_1/expire"),
        ("GET", "/v1/checkout/sessions/cs_1"),
    ]
    assert dict(server.seen[1].query) == {"expand[0]": "payment_intent"}


async def test_an_id_cannot_leave_its_path(api: StripeApi, server: FakeServer) -> None:
    """An id that came from outside stays one segment of the path, whatever it holds."""
    server.will_refuse(404, code="resource_missing")
    with pytest.raises(StripeDefinite):
        await api.get_checkout_session("../customers/cus_1?x=1")
    assert server.seen[0].headers["Host"] in server.url
    assert server.seen[0].path.startswith("/v1/checkout/sessions/")
    assert dict(server.seen[0].query) == {}


@pytest.mark.parametrize("status", [409, 429])
async def test_busy(api: StripeApi, server: FakeServer, status: int) -> None:
    """A key in use and too many requests both mean: the same key again, later."""
    server.will_refuse(status, type="invalid_request_error", code="idempotency_key_in_use")
    failure = await failure_of(api)
    assert isinstance(failure, StripeBusy)
    assert (failure.status, failure.request_id) == (status, "req_1")


@pytest.mark.parametrize("status", [401, 403])
async def test_denied(api: StripeApi, server: FakeServer, status: int) -> None:
    """A key that Stripe does not take is told apart: no retry mends it."""
    server.will_refuse(status, type="invalid_request_error")
    failure = await failure_of(api)
    assert isinstance(failure, StripeDenied)
    assert failure.status == status


async def test_key_conflict(api: StripeApi, server: FakeServer) -> None:
    """The same key with other parameters is told apart from every other 400."""
    server.will_refuse(400, type="idempotency_error")
    assert isinstance(await failure_of(api), StripeKeyConflict)


@pytest.mark.parametrize("status", [400, 402, 404, 500, 503])
async def test_definite(api: StripeApi, server: FakeServer, status: int) -> None:
    """Every other error object of Stripe, a 500 too, is an answer that Stripe replays to the key; it is not retried here."""
    kind = "card_error" if status == 402 else "api_error" if status >= 500 else "invalid_request_error"
    server.will_refuse(status, type=kind, code="some_code", param="some_param")
    failure = await failure_of(api)
    assert isinstance(failure, StripeDefinite)
    assert (failure.status, failure.code, failure.param) == (status, "some_code", "some_param")
    assert failure.is_server_error == (status >= 500)
    assert failure.missing == (status == 404)
    assert not failure.missing_customer
    assert len(server.seen) == 1


@pytest.mark.parametrize(("param", "missing"), [("customer", True), ("line_items[0][price]", False)])
async def test_missing_customer(api: StripeApi, server: FakeServer, param: str, *, missing: bool) -> None:
    """A customer that was deleted at Stripe is told apart from anything else that is missing."""
    server.will_refuse(400, type="invalid_request_error", code="resource_missing", param=param)
    failure = await failure_of(api)
    assert isinstance(failure, StripeDefinite)
    assert failure.missing_customer == missing


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b'{"id": "cs_1", "object": "checkout.session"}', cut=True),
        Answer(b'{"error": {"type": "api_error"}}', 500, cut=True),
        Answer(b"<html>Bad Gateway</html>", 502),
        Answer(b"<html>Welcome to this hotel</html>", 200),
        Answer(b"", 302, {"Location": "https://example.org/"}),
        Answer(b"", 200),
        Answer(b"{}", 200),
        Answer(b"[]", 200),
        Answer(b"null", 200),
        Answer(b'"cs_1"', 200),
        Answer(b'{"id": 1}', 200),
        Answer(b"{}", 500),
        Answer(b'{"error": "no object"}', 500),
        Answer(b'{"error": ["no object"]}', 500),
        Answer(b"\xff\xfe", 500),
    ],
    ids=lambda answer: f"{answer.status} {answer.body[:24]!r}{' cut' * answer.cut}",
)
async def test_what_stripe_did_not_say_is_no_answer(api: StripeApi, server: FakeServer, answer: Answer) -> None:
    """A cut body, a proxy's page and JSON that is none of Stripe's leave open what Stripe did: the same key again."""
    server.answers.append(answer)
    assert isinstance(await failure_of(api), StripeNoAnswer)


async def test_nobody_there_is_no_answer() -> None:
    """A connection that is refused is no answer."""
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    async with StripeApi(API_KEY, f"http://127.0.0.1:{port}") as api:
        failure = await failure_of(api)
    assert isinstance(failure, StripeNoAnswer)
    assert failure.request_id is None


async def test_a_call_ends_with_its_limit(server: FakeServer) -> None:
    """An answer that never comes ends with the call's own limit."""
    server.answers.append(Answer(hang=True))
    async with StripeApi(API_KEY, server.url, timeout_s=0.05) as api:
        assert isinstance(await failure_of(api), StripeNoAnswer)


async def test_a_call_ends_with_the_callers_deadline(api: StripeApi, server: FakeServer) -> None:
    """A caller's deadline that is nearer than the limit ends the call."""
    server.answers.append(Answer(hang=True))
    with deadline_after(0.05):
        assert isinstance(await failure_of(api), StripeNoAnswer)


async def test_cancelling_is_not_an_answer(api: StripeApi, server: FakeServer) -> None:
    """A caller who goes away cancels the call as any other; nothing turns it into an error of Stripe's."""
    server.answers.append(Answer(hang=True))
    call = asyncio.ensure_future(api.get_checkout_session("cs_1"))
    await server.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("operation", CALLS)
async def test_each_call_translates_its_errors(api: StripeApi, server: FakeServer, operation: str) -> None:
    """No call lets an exception of the SDK through, and each names itself for the log."""
    server.will_refuse(500, type="api_error")
    server.answers.append(Answer(b"[]"))
    with pytest.raises(StripeDefinite, match=f"^{operation}: "):
        await CALLS[operation](api)
    with pytest.raises(StripeNoAnswer, match=f"^{operation}: "):
        await CALLS[operation](api)


async def test_an_error_is_safe_to_log(api: StripeApi, server: FakeServer) -> None:
    """An error's text and traceback have Stripe's request id and codes, not its words, the body or the key."""
    server.will_refuse(400, type="invalid_request_error", code="email_invalid", param="customer_email")
    failure = await failure_of(api)
    text = "".join(traceback.format_exception(failure))
    assert str(failure) == "checkout.sessions.create: Stripe answered 400, email_invalid, param customer_email (req_1)"
    assert failure.__cause__ is failure.__context__ is None
    assert "ada@" not in text
    assert API_KEY not in text


async def test_the_libraries_log_nothing_personal(
    api: StripeApi, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """With our own logging at DEBUG the SDK and its HTTP client still write neither bodies nor keys."""
    caplog.set_level(logging.DEBUG)
    server.will_answer(SESSION)
    server.will_refuse(400, type="invalid_request_error")
    await api.create_checkout_session({"customer_email": "ada@example.org"}, "intent-1")
    await failure_of(api)
    assert "ada@" not in caplog.text
    assert API_KEY not in caplog.text


def price(number: int, **changes: object) -> dict[str, object]:
    return {
        "id": f"price_{number}",
        "object": "price",
        "lookup_key": f"key_{number}",
        "active": True,
        "recurring": {"interval": "month"},
        "currency": "eur",
        "unit_amount": 1200,
        "product": "prod_1",
        **changes,
    }


def page(*prices: dict[str, object], has_more: bool = False) -> dict[str, object]:
    return {"object": "list", "url": "/v1/prices", "has_more": has_more, "data": list(prices)}


async def test_finds_prices(api: StripeApi, server: FakeServer) -> None:
    """A price arrives with what selling needs; one without an amount of its own says so."""
    server.will_answer(page(price(1), price(2, active=False, recurring=None, unit_amount=None)))
    assert await api.find_prices(["key_1", "key_2", "key_1"]) == [
        StripePrice(
            "price_1", "key_1", active=True, recurring=True, currency="eur", amount_minor=1200, product_id="prod_1"
        ),
        StripePrice(
            "price_2", "key_2", active=False, recurring=False, currency="eur", amount_minor=None, product_id="prod_1"
        ),
    ]
    assert server.seen[0].path == "/v1/prices"
    assert dict(server.seen[0].query) == {"lookup_keys[0]": "key_1", "lookup_keys[1]": "key_2", "limit": "100"}


async def test_asks_for_ten_lookup_keys_at_a_time(api: StripeApi, server: FakeServer) -> None:
    """Stripe takes ten lookup keys a call, so that more of them take several."""
    server.will_answer(page(price(1)))
    server.will_answer(page(price(11)))
    found = await api.find_prices([f"key_{number}" for number in range(12)])
    assert [price.price_id for price in found] == ["price_1", "price_11"]
    assert [len(request.query) - 1 for request in server.seen] == [10, 2]


async def test_nothing_to_find_is_no_call(api: StripeApi, server: FakeServer) -> None:
    """A catalog without prices asks Stripe nothing."""
    assert await api.find_prices([]) == []
    assert server.seen == []


async def test_follows_pages(api: StripeApi, server: FakeServer) -> None:
    """A list that goes on is followed from its last element."""
    server.will_answer(page(price(1), has_more=True))
    server.will_answer(page(price(2)))
    found = await api.find_prices(["key_1", "key_2"])
    assert [price.price_id for price in found] == ["price_1", "price_2"]
    assert server.seen[1].query["starting_after"] == "price_1"


async def test_pages_without_end_end(api: StripeApi, server: FakeServer) -> None:
    """A list that never ends is given up, rather than followed for ever."""
    for number in range(20):
        server.will_answer(page(price(number), has_more=True))
    with pytest.raises(StripeNoAnswer):
        await api.find_prices(["key_1"])
    assert len(server.seen) == 10
