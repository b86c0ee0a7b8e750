"""The web application: its routes, and what holds for every page (who is signed in, whose forms are taken, headers)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from sandbox.storefront.billing import Billing, BillingError
from sandbox.storefront.pages import (
    BILLING,
    COOKIE,
    SETTINGS,
    VISITOR,
    account,
    buy,
    pricing,
    problem,
    sign_in,
    sign_in_form,
    visitor,
)
from sandbox.storefront.settings import Settings
from sandbox.storefront.subscription_forms import manage_subscription, portal
from sandbox.storefront.words import http_status, notice_of_error

_STATIC = Path(__file__).with_name("static")
_BODY_LIMIT = 16 * 1024  # bytes; the largest form has six short fields
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_HEADERS = {
    # No form-action: the browser would apply it to the redirect to the checkout page too, whose address Stripe chooses.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def build_app(settings: Settings, billing: Billing) -> web.Application:
    """Give the application over an open connection to the billing service."""
    app = web.Application(
        client_max_size=_BODY_LIMIT, middlewares=[_add_headers, _same_site, _know_visitor, _show_problems]
    )
    app[SETTINGS] = settings
    app[BILLING] = billing
    app.router.add_get("/", pricing)
    app.router.add_post("/checkout", buy)
    app.router.add_get("/account", account)
    app.router.add_post("/account/subscription", manage_subscription)
    app.router.add_post("/account/portal", portal)
    app.router.add_get("/sign-in", sign_in_form)
    app.router.add_post("/sign-in", sign_in)
    app.router.add_get("/livez", _livez)
    app.router.add_get("/style.css", _style)
    return app


async def _livez(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _style(_: web.Request) -> web.FileResponse:
    return web.FileResponse(_STATIC / "style.css")


@web.middleware
async def _add_headers(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as error:
        error.headers.update(_HEADERS)
        raise
    response.headers.update(_HEADERS)
    return response


@web.middleware
async def _same_site(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Take forms from our own pages alone, and serve pages under our own address alone (localhost is another site)."""
    settings = request.app[SETTINGS]
    if request.method == "POST":
        if request.headers.get("Origin") != settings.url:
            return web.Response(status=403, text="This form was not sent from our own pages.")
    elif request.path != "/livez" and request.host != urlsplit(settings.url).netloc:
        raise web.HTTPFound(settings.url + str(request.rel_url))
    return await handler(request)


@web.middleware
async def _know_visitor(request: web.Request, handler: _Handler) -> web.StreamResponse:
    request[VISITOR] = visitor(request.cookies.get(COOKIE, ""))
    return await handler(request)


@web.middleware
async def _show_problems(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BillingError as error:
        return problem(request, notice_of_error(error), status=http_status(error))
