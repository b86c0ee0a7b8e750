"""The storefront before a billing service that answers what a test wants, over real sockets."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from billing.v1 import billing_service_pb2, checkout_pb2, entitlement_pb2, plan_pb2
from billing.v1.billing_service_pb2_grpc import add_BillingServiceServicer_to_server
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed
from grpc_status import rpc_status  # type: ignore[import-untyped]  # comes without types

from sandbox.ports import HOST, free_port
from sandbox.storefront.app import build_app
from sandbox.storefront.billing import open_billing
from sandbox.storefront.settings import Settings, SettingsError
from tests.unserved import Unserved

_Session = checkout_pb2.CheckoutSession
_PRO = plan_pb2.Plan(
    plan_key="pro",
    mode=plan_pb2.PLAN_MODE_SUBSCRIPTION,
    display_name="Pro <b>",
    prices=[plan_pb2.PlanPrice(price_key="monthly", display_text="€12 per month", available=True)],
    features=[
        plan_pb2.PlanFeature(
            feature_key="projects", display_name="Projects", value=plan_pb2.FeatureValue(integer_value=50)
        )
    ],
)


@dataclass
class _Service(Unserved):
    """Answers from what the test has put there, and keeps what it was asked."""

    sessions: dict[str, checkout_pb2.CheckoutSession] = field(default_factory=dict)
    answers: list[checkout_pb2.CheckoutSession] = field(default_factory=list)
    asked: list[checkout_pb2.CreateCheckoutSessionRequest] = field(default_factory=list)
    refusal: tuple[grpc.StatusCode, str] | None = None
    away: bool = False

    async def ListPlans(self, request: Any, context: Any) -> billing_service_pb2.ListPlansResponse:  # noqa: ARG002, N802 - gRPC's
        """Give the one plan."""
        if self.away:
            await context.abort_with_status(_status(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE"))
        return billing_service_pb2.ListPlansResponse(plans=[_PRO])

    async def GetEntitlements(self, request: Any, context: Any) -> entitlement_pb2.GetEntitlementsResponse:  # noqa: N802 - gRPC's
        """Give nothing but the name, and for a purchase that it is still open."""
        answer = entitlement_pb2.GetEntitlementsResponse(customer_id=request.customer_id, plan_keys=["free"])
        if request.HasField("after_checkout_session_id"):
            session = self.sessions.get(request.after_checkout_session_id)
            if session is None or session.customer_id != request.customer_id:
                await context.abort_with_status(_status(grpc.StatusCode.NOT_FOUND, "CHECKOUT_SESSION_NOT_FOUND"))
            answer.checkout_outcome = entitlement_pb2.CHECKOUT_OUTCOME_STILL_OPEN
        return answer

    async def GetCheckoutSession(self, request: Any, context: Any) -> checkout_pb2.GetCheckoutSessionResponse:  # noqa: N802 - gRPC's
        """Give what is known."""
        if request.checkout_session_id not in self.sessions:
            await context.abort_with_status(_status(grpc.StatusCode.NOT_FOUND, "CHECKOUT_SESSION_NOT_FOUND"))
        return checkout_pb2.GetCheckoutSessionResponse(checkout_session=self.sessions[request.checkout_session_id])

    async def CreateCheckoutSession(self, request: Any, context: Any) -> checkout_pb2.CreateCheckoutSessionResponse:  # noqa: N802 - gRPC's
        """Give the next answer."""
        self.asked.append(request)
        if self.refusal:
            await context.abort_with_status(_status(*self.refusal))
        return checkout_pb2.CreateCheckoutSessionResponse(checkout_session=self.answers.pop(0))


def _status(code: grpc.StatusCode, reason: str) -> Any:
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="billing.v1"))
    return rpc_status.to_status(status_pb2.Status(code=code.value[0], message="not for people", details=[detail]))


@dataclass
class _Shop:
    url: str
    service: _Service
    http: aiohttp.ClientSession

    async def get(self, path: str, **options: Any) -> tuple[int, str]:
        async with self.http.get(self.url + path, **options) as response:
            return response.status, await response.text()

    async def order(self, *, origin: str | None = None, **fields: str) -> aiohttp.ClientResponse:
        form = {"request_id": "request-1", "plan_key": "pro", "price_key": "monthly", **fields}
        headers = {"Origin": self.url if origin is None else origin}
        async with self.http.post(
            f"{self.url}/checkout", data=form, headers=headers, allow_redirects=False
        ) as response:
            await response.read()
            return response


@pytest.fixture
async def shop() -> AsyncIterator[_Shop]:
    service = _Service()
    server = grpc.aio.server()
    add_BillingServiceServicer_to_server(service, server)
    target = f"{HOST}:{server.add_insecure_port(f'{HOST}:0')}"
    await server.start()
    port = free_port()
    settings = Settings(HOST, port, f"http://{HOST}:{port}", target)
    async with (
        open_billing(target) as billing,
        aiohttp.ClientSession(cookies={"demo_user": "ada"}, cookie_jar=aiohttp.CookieJar(unsafe=True)) as http,
    ):
        runner = web.AppRunner(build_app(settings, billing))
        await runner.setup()
        await web.TCPSite(runner, HOST, port).start()
        yield _Shop(settings.url, service, http)
        await runner.cleanup()
    await server.stop(None)


async def test_an_order_names_a_plan_and_goes_to_the_page_to_pay_on(shop: _Shop) -> None:
    """The form becomes one request with its request id, our customer, and the two ways back."""
    shop.service.answers = [_Session(url="https://pay.example/1", state=_Session.STATE_OPEN)]
    response = await shop.order()
    assert (response.status, response.headers["Location"]) == (303, "https://pay.example/1")
    (asked,) = shop.service.asked
    assert (asked.request_id, asked.customer_id, asked.plan_key, asked.price_key, asked.quantity) == (
        "request-1",
        "ada",
        "pro",
        "monthly",
        1,
    )
    assert asked.success_url == f"{shop.url}/account?checkout_session_id={{CHECKOUT_SESSION_ID}}"


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://localhost"])
async def test_a_form_from_elsewhere_is_refused(shop: _Shop, origin: str) -> None:
    response = await shop.order(origin=origin)
    assert (response.status, shop.service.asked) == (403, [])
    for path in ("/account/subscription", "/account/portal"):
        async with shop.http.post(shop.url + path, data={"action": "cancel"}, headers={"Origin": origin}) as answer:
            assert answer.status == 403


@pytest.mark.parametrize("form", [{}, {"action": "own"}, {"action": "change-now", "quantity": "-1"}])
async def test_a_form_of_the_account_that_does_not_hold_is_told(shop: _Shop, form: dict[str, str]) -> None:
    headers = {"Origin": shop.url}
    async with shop.http.post(f"{shop.url}/account/subscription", data=form, headers=headers) as answer:
        assert answer.status == 400
        assert "does not hold" in await answer.text()


@pytest.mark.parametrize(
    ("code", "reason", "status", "told"),
    [
        (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_SUBSCRIBED", 409, "You already have a plan of this group"),
        (grpc.StatusCode.UNAVAILABLE, "STRIPE_UNAVAILABLE", 503, "please try again"),
        (grpc.StatusCode.INTERNAL, "INTERNAL", 500, "Something went wrong on our side"),
    ],
)
async def test_a_refusal_is_told_in_friendly_words(
    shop: _Shop, code: grpc.StatusCode, reason: str, status: int, told: str
) -> None:
    """The reason decides the words; the service's own message is not for people."""
    shop.service.refusal = (code, reason)
    response = await shop.order()
    text = await response.text()
    assert response.status == status
    assert told in text
    assert "not for people" not in text


async def test_an_order_of_an_old_page_that_has_expired_is_made_anew_once(shop: _Shop) -> None:
    shop.service.answers = [
        _Session(state=_Session.STATE_EXPIRED),
        _Session(url="https://pay.example/2", state=_Session.STATE_OPEN),
    ]
    response = await shop.order()
    assert response.headers["Location"] == "https://pay.example/2"
    first, second = shop.service.asked
    assert first.request_id == "request-1"
    assert second.request_id not in {"", "request-1"}


async def test_an_order_that_is_paid_already_leads_to_the_account(shop: _Shop) -> None:
    shop.service.answers = [_Session(checkout_session_id="cs_paid", state=_Session.STATE_COMPLETE)]
    response = await shop.order()
    assert response.headers["Location"] == "/account?checkout_session_id=cs_paid"


@pytest.mark.parametrize("quantity", ["0", "-1", "many", "99999999999999999999", ""])
async def test_a_quantity_that_does_not_hold_is_told(shop: _Shop, quantity: str) -> None:
    response = await shop.order(quantity=quantity)
    assert (response.status, shop.service.asked) == (400, [])


async def test_the_page_looks_again_while_a_payment_is_confirmed_and_then_leaves_it_to_the_person(shop: _Shop) -> None:
    """Five looks, two seconds apart; a count that somebody made up ends it."""
    shop.service.sessions["cs_1"] = _Session(
        checkout_session_id="cs_1", customer_id="ada", plan_key="pro", state=_Session.STATE_OPEN
    )
    path, looks = "/account?checkout_session_id=cs_1", 0
    while refresh := re.search(r'http-equiv="refresh" content="2;url=([^"]+)"', (await shop.get(path))[1]):
        path, looks = refresh[1].replace("&amp;", "&"), looks + 1
        assert looks <= 5
    assert looks == 5
    for made_up in ("-1", "x", "1e9", "999"):
        assert "http-equiv" not in (await shop.get(f"/account?checkout_session_id=cs_1&looks={made_up}"))[1]


async def test_somebody_elses_session_is_unknown(shop: _Shop) -> None:
    shop.service.sessions["cs_1"] = _Session(
        checkout_session_id="cs_1", customer_id="ben", plan_key="pro", state=_Session.STATE_COMPLETE
    )
    _, text = await shop.get("/account?checkout_session_id=cs_1")
    assert "No such purchase" in text


async def test_a_page_says_when_billing_is_away(shop: _Shop) -> None:
    """With 503 and Retry-After, a sentence, and a way to try again."""
    shop.service.away = True
    async with shop.http.get(shop.url) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert "Please try again" in await response.text()


async def test_names_from_the_catalog_are_text(shop: _Shop) -> None:
    _, text = await shop.get("/")
    assert "Pro &lt;b&gt;" in text
    assert "Pro <b>" not in text


async def test_pages_are_served_under_one_address(shop: _Shop) -> None:
    """Under another name of this machine the visitor is sent to the one that forms and cookies belong to; always with its headers."""
    async with shop.http.get(f"{shop.url}/account", headers={"Host": "localhost:1"}, allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, f"{shop.url}/account")
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]


async def test_signing_in_takes_names_that_hold(shop: _Shop) -> None:
    headers = {"Origin": shop.url}
    async with shop.http.post(
        f"{shop.url}/sign-in", data={"customer_id": "team-7"}, headers=headers, allow_redirects=False
    ) as response:
        cookie = response.cookies["demo_user"]
        assert (response.status, cookie.value, cookie["samesite"], cookie["httponly"]) == (303, "team-7", "Lax", True)
    async with shop.http.post(
        f"{shop.url}/sign-in", data={"customer_id": "no\nname"}, headers=headers, allow_redirects=False
    ) as response:
        assert (response.status, "demo_user" in response.cookies) == (400, False)


@pytest.mark.parametrize(
    "environment", [{"STOREFRONT_ADDRESS": "nowhere"}, {"STOREFRONT_ADDRESS": "a:99999"}, {"STOREFRONT_URL": "ftp://x"}]
)
def test_settings_that_do_not_hold_are_named(environment: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=next(iter(environment))):
        Settings.read(environment)
