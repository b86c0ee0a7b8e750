"""The pages: prices, the way to the checkout, the account, and the demo's sign-in."""

from __future__ import annotations

import asyncio
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import jinja2
from aiohttp import web
from billing.v1 import checkout_pb2, entitlement_pb2, plan_pb2

from sandbox.storefront import words
from sandbox.storefront.billing import Billing, BillingError, Order
from sandbox.storefront.settings import Settings
from sandbox.storefront.words import Notice, Tone


@dataclass(frozen=True)
class Person:
    """Somebody who may be signed in: the customer of the billing service, and the name to show."""

    customer_id: str
    name: str


SETTINGS = web.AppKey("settings", Settings)
BILLING = web.AppKey("billing", Billing)
VISITOR = web.RequestKey("visitor", Person)
COOKIE = "demo_user"
PEOPLE = (Person("demo-ada", "Ada"), Person("demo-ben", "Ben"), Person("demo-cleo", "Cleo"))

# What the billing service takes for a customer id, but narrower: what can stand in a cookie as it is.
_CUSTOMER_ID = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_SESSION_ID = re.compile(r"cs_[A-Za-z0-9_]{1,250}")
_LOOKS = 5  # how often the page looks again by itself while a payment is being confirmed; the first look waits longer
_LOOK_AGAIN_S = 2
_QUANTITY_LIMIT = 1_000_000  # the contract's

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals.update(
    value_words=words.value_words,
    is_on=words.is_on,
    is_ending=words.is_ending,
    new_request_id=lambda: str(uuid.uuid4()),
    Mode=plan_pb2.PlanMode,
)


# --- Prices, and the way to the checkout ---------------------------------------------------------------------------------


async def pricing(request: web.Request) -> web.Response:
    """GET /: the plans, with what the visitor has of them."""
    came_back = Notice(
        Tone.WAITING, "Nothing was bought", "You left the checkout. You can come back to it whenever you like."
    )
    return await _pricing(request, came_back if "cancelled" in request.query else None)


async def buy(request: web.Request) -> web.Response:
    """POST /checkout: send the visitor to pay for what the form says."""
    order = await _order(request)
    if order is None:
        return await _pricing(request, words.notice_of_error(BillingError.invalid_fields()), status=400)
    try:
        session = await _checkout(request, order)
    except BillingError as error:
        return await _pricing(request, words.notice_of_error(error), status=words.http_status(error))
    # A page out of the browser's memory can bring an order that was paid meanwhile: then there is nothing to pay.
    raise web.HTTPSeeOther(session.url or f"/account?{urlencode({'checkout_session_id': session.checkout_session_id})}")


async def _checkout(request: web.Request, order: Order) -> checkout_pb2.CheckoutSession:
    """Get the page to pay on. One that has expired since the form was first sent is asked for anew, once."""
    site = request.app[SETTINGS].url
    success_url = f"{site}/account?checkout_session_id={{CHECKOUT_SESSION_ID}}"
    cancel_url = f"{site}/?cancelled=1"
    billing = request.app[BILLING]
    session = await billing.checkout(order, success_url=success_url, cancel_url=cancel_url)
    if session.state == checkout_pb2.CheckoutSession.STATE_EXPIRED:
        session = await billing.checkout(order.again(str(uuid.uuid4())), success_url=success_url, cancel_url=cancel_url)
    return session


async def _order(request: web.Request) -> Order | None:
    """Read the form; None when it is not one of ours. Which plans and prices there are is the service's to judge."""
    form = await request.post()
    texts = {name: value.strip() for name, value in form.items() if isinstance(value, str)}
    quantity = texts.get("quantity", "1")
    if not quantity.isdecimal() or not 1 <= int(quantity[:8]) <= _QUANTITY_LIMIT:
        return None
    return Order(
        request_id=texts.get("request_id", ""),
        customer_id=request[VISITOR].customer_id,
        plan_key=texts.get("plan_key", ""),
        price_key=texts.get("price_key") or None,
        quantity=int(quantity),
    )


async def _pricing(request: web.Request, notice: Notice | None, *, status: int = 200) -> web.Response:
    billing = request.app[BILLING]
    plans, held = await asyncio.gather(billing.plans(), billing.entitlements(request[VISITOR].customer_id))
    return _page(request, "pricing.html", status=status, notice=notice, plans=plans, held=list(held.plan_keys))


# --- The account ---------------------------------------------------------------------------------------------------------


async def account(request: web.Request) -> web.Response:
    """GET /account: what the visitor may use and why; after a checkout also where the payment stands."""
    return await account_page(request, words.DONE.get(request.query.get("done", "")))


async def account_page(request: web.Request, notice: Notice | None, *, status: int = 200) -> web.Response:
    """Show the account, under a notice where there is one."""
    billing, visitor = request.app[BILLING], request[VISITOR]
    session_id = request.query.get("checkout_session_id")
    plans, bought = await asyncio.gather(billing.plans(), _purchase(request, session_id))
    held = bought or await billing.entitlements(visitor.customer_id)
    plan_names = {plan.plan_key: plan.display_name for plan in plans}
    feature_names = {feature.feature_key: feature.display_name for plan in plans for feature in plan.features}
    if session_id is not None:
        plan_key = await billing.plan_key_of(session_id) if bought else ""
        outcome = bought.checkout_outcome if bought else None
        notice = words.notice_of_checkout(outcome, plan_names.get(plan_key, plan_key))
    return _page(
        request,
        "account.html",
        status=status,
        notice=notice,
        look_again=_look_again(request, bought),
        check_again=f"/account?{urlencode({'checkout_session_id': session_id or ''})}",
        plan_titles=[plan_names.get(key, key) for key in held.plan_keys],
        features=words.feature_facts(held.entitlements, feature_names, plan_names),
        sources=words.source_facts(held.sources, plan_names),
        subscriptions=words.changeable(held.sources),
        plans=[plan for plan in plans if plan.mode == plan_pb2.PLAN_MODE_SUBSCRIPTION],
        plan_names=plan_names,
    )


async def _purchase(request: web.Request, session_id: str | None) -> entitlement_pb2.GetEntitlementsResponse | None:
    """Wait for the visitor's purchase, so that the page never shows what they had before; None where there is none."""
    if session_id is None or not _SESSION_ID.fullmatch(session_id):
        return None
    # The first look waits; those that the page takes by itself come again anyway.
    patient = "looks" not in request.query
    return await request.app[BILLING].purchase(request[VISITOR].customer_id, session_id, patient=patient)


def _look_again(request: web.Request, bought: entitlement_pb2.GetEntitlementsResponse | None) -> str | None:
    """Give what a page that is still waiting tells the browser: come again in so many seconds. Bounded; then a person may."""
    if bought is None or words.settled(bought.checkout_outcome):
        return None
    looks = request.query.get("looks", "0")
    done = int(looks) if looks.isdecimal() and len(looks) < 3 else _LOOKS
    if done >= _LOOKS:
        return None
    query = urlencode({"checkout_session_id": request.query["checkout_session_id"], "looks": done + 1})
    return f"{_LOOK_AGAIN_S};url=/account?{query}"


# --- The demo's sign-in --------------------------------------------------------------------------------------------------


def visitor(customer_id: str) -> Person:
    """Say who is signed in by what the cookie says; the first of the demo's people when it says nothing that holds."""
    if not _CUSTOMER_ID.fullmatch(customer_id):
        return PEOPLE[0]
    return next((person for person in PEOPLE if person.customer_id == customer_id), Person(customer_id, customer_id))


async def sign_in_form(request: web.Request) -> web.Response:
    """GET /sign-in: choose who to be."""
    return _page(request, "sign_in.html", notice=None, people=PEOPLE)


async def sign_in(request: web.Request) -> web.Response:
    """POST /sign-in: be that one. A demo: nobody is asked for a password. A real shop has its own session here."""
    form = await request.post()
    customer_id = str(form.get("customer_id", "")).strip()
    if not _CUSTOMER_ID.fullmatch(customer_id):
        notice = Notice(
            Tone.BAD, "That name does not work", "Please use 1 to 64 letters, digits, dots, dashes, underscores or @."
        )
        return _page(request, "sign_in.html", status=400, notice=notice, people=PEOPLE)
    response = web.HTTPSeeOther("/")
    secure = request.app[SETTINGS].url.startswith("https:")
    response.set_cookie(COOKIE, customer_id, httponly=True, samesite="Lax", secure=secure, max_age=30 * 86_400)
    raise response


# --- What pages share ----------------------------------------------------------------------------------------------------


def problem(request: web.Request, notice: Notice, *, status: int) -> web.Response:
    """Give a page that says what is wrong and offers the way back."""
    return _page(request, "problem.html", status=status, notice=notice)


def _page(request: web.Request, template: str, *, status: int = 200, **values: object) -> web.Response:
    text = _templates.get_template(template).render(
        visitor=request[VISITOR], path=request.path, **{"look_again": None, **values}
    )
    headers = {"Retry-After": "5"} if status == 503 else None
    return web.Response(text=text, status=status, content_type="text/html", charset="utf-8", headers=headers)
