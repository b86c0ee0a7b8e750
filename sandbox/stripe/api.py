"""The API's front door: key, version, idempotency, errors and headers; what an endpoint does is its own module's business."""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable
from email.utils import formatdate
from typing import Any

from aiohttp import web

from sandbox.stripe import (
    billing_portal,
    checkout_sessions,
    customers,
    discounts,
    disputes,
    errors,
    events,
    invoice_endpoints,
    invoice_previews,
    payment_intents,
    prices,
    products,
    refunds,
    subscription_creation,
    subscription_endpoints,
    subscription_schedules,
    webhook_endpoints,
)
from sandbox.stripe.account import API_VERSION, Account
from sandbox.stripe.errors import ApiError, RefusedBeforeExecutionError
from sandbox.stripe.faults import Faults
from sandbox.stripe.form import decode_form
from sandbox.stripe.idempotency import Answer, IdempotencyKeys
from sandbox.stripe.identifiers import random_text
from sandbox.stripe.rendering import expand
from sandbox.stripe.route import Call, Route
from sandbox.stripe.validation import validate

ROUTES: tuple[Route, ...] = (
    *products.ROUTES,
    *prices.ROUTES,
    *customers.ROUTES,
    *checkout_sessions.ROUTES,
    *discounts.ROUTES,
    *subscription_creation.ROUTES,
    *subscription_endpoints.ROUTES,
    *subscription_schedules.ROUTES,
    *invoice_endpoints.ROUTES,
    *invoice_previews.ROUTES,
    *payment_intents.ROUTES,
    *refunds.ROUTES,
    *disputes.ROUTES,
    *billing_portal.ROUTES,
    *webhook_endpoints.ROUTES,
    *events.ROUTES,
)

# Called once a request is authenticated, valid and holds its idempotency key, just before its endpoint runs: await to be
# slow, raise ApiError to be answered so, close `request.transport` to cut the connection.
Interceptor = Callable[[web.Request], Awaitable[None]]

_log = logging.getLogger(__name__)


class Api:
    """Answers /v1/ requests about one account."""

    def __init__(self, account: Account, api_key: str, faults: Faults) -> None:
        """Take the account, the one key that opens it, and what is to go wrong."""
        self._account = account
        self._faults = faults
        self._api_key = api_key
        self.keys = IdempotencyKeys(account)
        self.intercept: Interceptor | None = None

    def routes(self) -> Iterable[web.RouteDef]:
        """Give the server its routes, the last of which answers for unknown paths."""
        for route in ROUTES:
            yield web.route(route.method, route.path, functools.partial(self._answer, route))
        yield web.route("*", "/v1{tail:.*}", functools.partial(self._answer, None))

    async def _answer(self, route: Route | None, request: web.Request) -> web.Response:
        request_id = f"req_{random_text(14)}"
        headers: dict[str, str] = {}
        try:
            answer = await self._authenticated(route, request, request_id)
        except ApiError as error:
            answer = Answer(error.status, error.body(), request_id)
        finally:
            self._account.store.commit()
        if answer.request_id != request_id:
            headers = {"Idempotent-Replayed": "true", "Original-Request": answer.request_id}
        if "Idempotency-Key" in request.headers:
            headers["Idempotency-Key"] = request.headers["Idempotency-Key"]
        headers |= {
            "Date": formatdate(self._account.time(), usegmt=True),
            "Request-Id": request_id,
            "Stripe-Version": API_VERSION,
        }
        return web.json_response(answer.body, status=answer.status, headers=headers)

    async def _authenticated(self, route: Route | None, request: web.Request, request_id: str) -> Answer:
        self._check_key(request)
        _check_version(request)
        if route is None:
            raise errors.unknown_path(request.method, request.path)
        form = decode_form(await _form_text(request))
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        if key is None:
            return await self._executed(route, request, form, request_id)
        replay = self.keys.begin(key, request.method, request.path, form)
        if replay is not None:
            return replay
        try:
            answer = await self._executed(route, request, form, request_id)
            self.keys.keep(key, request.method, request.path, form, answer)
        finally:
            self.keys.end(key)
        return answer

    async def _executed(self, route: Route, request: web.Request, form: dict[str, Any], request_id: str) -> Answer:
        """Run the endpoint. What it raises is an answer too; only refusals from before it began pass through."""
        params = validate(form, route.params, route.supported)
        try:
            hidden_by = await self._faults.strike(request)
            if self.intercept is not None:
                await self.intercept(request)
            call = Call(request.match_info, params)
            with self._account.acting_for(request_id, request.headers.get("Idempotency-Key")):
                body = route.run(self._account, call)
            if hidden_by is not None:
                raise hidden_by
            return Answer(200, expand(body, params.get("expand", ()), self._account.store), request_id)
        except RefusedBeforeExecutionError:
            raise
        except ApiError as error:
            return Answer(error.status, error.body(), request_id)
        except Exception:  # noqa: BLE001  # the front door: whatever broke, Stripe's answer is an api_error
            _log.exception("%s %s failed", request.method, request.path)
            unknown = ApiError("An unknown error occurred", status=500, kind="api_error")
            return Answer(unknown.status, unknown.body(), request_id)

    def _check_key(self, request: web.Request) -> None:
        given = _given_key(request.headers.get("Authorization", ""))
        if not given:
            raise errors.key_missing()
        if not hmac.compare_digest(given.encode(), self._api_key.encode()):
            raise errors.key_invalid(given)


def _given_key(header: str) -> str:
    """Read the key: a bearer token, or the user name of basic auth."""
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(credentials, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _check_version(request: web.Request) -> None:
    version = request.headers.get("Stripe-Version", API_VERSION)
    if version != API_VERSION:
        raise RefusedBeforeExecutionError(
            f"Invalid Stripe API version: {version}. The stand-in for Stripe renders {API_VERSION} only."
        )


async def _form_text(request: web.Request) -> str:
    if request.method != "POST":
        return request.rel_url.raw_query_string
    body = await request.read()
    try:
        return body.decode("ascii")  # a form is percent-encoded
    except UnicodeDecodeError as error:
        raise RefusedBeforeExecutionError("Invalid request: the body is not a form") from error
