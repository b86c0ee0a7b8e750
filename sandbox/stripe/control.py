"""The stand-in's own controls, for tests and for trying things: `GET /_control` lists them.

They do what at Stripe time, a bank or a person in the dashboard does. Loopback only, so without a key.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sandbox.stripe import checkout_sessions, invoices, purchase, refunds, subscriptions
from sandbox.stripe.account import Account
from sandbox.stripe.deliveries import Deliveries
from sandbox.stripe.errors import ApiError
from sandbox.stripe.identifiers import random_text
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.rendering import shown

DELIVERIES_SHOWN = 100


class _Body(BaseModel):
    """A control's body: nothing beside its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Nothing(_Body):
    """No body, or {}."""


class _Completion(_Body):
    outcome: purchase.Outcome


class _Settlement(_Body):
    outcome: purchase.Settlement


class _Collected(StrEnum):
    PAID = "paid"
    FAILED = "failed"


class _Collection(_Body):
    outcome: _Collected


class _Cancellation(_Body):
    at_period_end: bool = False


class _Refund(_Body):
    payment_intent: str
    amount: int | None = Field(default=None, ge=1)


class _Pause(_Body):
    paused: bool


@dataclass(frozen=True)
class _Surroundings:
    """What a control works on."""

    account: Account
    deliveries: Deliveries


# Takes the path's id ("" where the path has none) and the validated body; returns what is answered.
_Run = Callable[[_Surroundings, str, Any], Object]


@dataclass(frozen=True)
class _Control:
    method: str
    path: str
    purpose: str
    body: type[_Body]
    run: _Run


def _complete(around: _Surroundings, session_id: str, body: _Completion) -> Object:
    session = checkout_sessions.find(around.account, session_id)
    purchase.complete(around.account, session, body.outcome)
    return session


def _settle(around: _Surroundings, session_id: str, body: _Settlement) -> Object:
    session = checkout_sessions.find(around.account, session_id)
    purchase.settle(around.account, session, body.outcome)
    return session


def _expire(around: _Surroundings, session_id: str, _: _Nothing) -> Object:
    session = checkout_sessions.find(around.account, session_id)
    checkout_sessions.expire(around.account, session)
    return session


def _renew(around: _Surroundings, subscription_id: str, body: _Collection) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    subscriptions.renew(around.account, subscription, paid=body.outcome is _Collected.PAID)
    return subscription


def _cancel(around: _Surroundings, subscription_id: str, body: _Cancellation) -> Object:
    subscription = around.account.find(Kind.SUBSCRIPTION, subscription_id)
    if body.at_period_end:
        subscriptions.cancel_at_period_end(around.account, subscription, wanted=True)
    else:
        subscriptions.cancel(around.account, subscription)
    return subscription


def _collect(around: _Surroundings, invoice_id: str, body: _Collection) -> Object:
    invoice = around.account.find(Kind.INVOICE, invoice_id)
    named = invoice["parent"]["subscription_details"]["subscription"]
    subscription = around.account.find(Kind.SUBSCRIPTION, named)
    subscriptions.collect(around.account, invoice, subscription, paid=body.outcome is _Collected.PAID)
    return invoice


def _void(around: _Surroundings, invoice_id: str, _: _Nothing) -> Object:
    invoice = around.account.find(Kind.INVOICE, invoice_id)
    invoices.void(around.account, invoice)
    return invoice


def _write_off(around: _Surroundings, invoice_id: str, _: _Nothing) -> Object:
    invoice = around.account.find(Kind.INVOICE, invoice_id)
    invoices.mark_uncollectible(around.account, invoice)
    return invoice


def _refund(around: _Surroundings, _: str, body: _Refund) -> Object:
    return refunds.create(around.account, body.model_dump(exclude_none=True))


def _resend(around: _Surroundings, event_id: str, _: _Nothing) -> Object:
    event = around.account.find(Kind.EVENT, event_id)
    if around.deliveries.webhook is None:
        raise ApiError("No webhook endpoint is set; start the stand-in with one.")
    around.deliveries.resend(event["id"])
    return event


def _pause(around: _Surroundings, _: str, body: _Pause) -> Object:
    around.deliveries.pause(paused=body.paused)
    return _webhooks(around, "", _Nothing())


def _webhooks(around: _Surroundings, _: str, __: _Nothing) -> Object:
    records = around.account.store.newest_first(Kind.DELIVERY)
    return {
        "url": around.deliveries.webhook.url if around.deliveries.webhook else None,
        "paused": around.deliveries.paused,
        "pending": sum(record["status"] == "pending" for record in records),
        "deliveries": [_with_type(around.account, record) for record in records[:DELIVERIES_SHOWN]],
    }


def _with_type(account: Account, record: Object) -> Object:
    event = account.store.get(Kind.EVENT, record["event"]) or {}
    return {**record, "type": event.get("type"), "created": event.get("created")}


def _list(_: _Surroundings, __: str, ___: _Nothing) -> Object:
    return {
        "about": "Controls of the stand-in for Stripe: what time, banks and people do at Stripe. No money moves.",
        "endpoints": [
            {"method": control.method, "path": control.path, "purpose": control.purpose, "body": _fields(control.body)}
            for control in CONTROLS
        ],
    }


def _fields(body: type[_Body]) -> Object:
    """Describe a body by example: each field's possible values, or its type."""
    schema = body.model_json_schema()
    described: Object = {}
    for name, field in schema.get("properties", {}).items():
        kind = schema.get("$defs", {}).get(field.get("$ref", "").rpartition("/")[2], field)
        described[name] = " | ".join(kind["enum"]) if "enum" in kind else kind.get("type", "integer (optional)")
    return described


CONTROLS: tuple[_Control, ...] = (
    _Control("GET", "/_control", "this list", _Nothing, _list),
    _Control("POST", "/_control/checkout/sessions/{id}/complete", "pay an open session", _Completion, _complete),
    _Control(
        "POST", "/_control/checkout/sessions/{id}/settle", "end a payment that is processing", _Settlement, _settle
    ),
    _Control("POST", "/_control/checkout/sessions/{id}/expire", "expire an open session", _Nothing, _expire),
    _Control(
        "POST",
        "/_control/subscriptions/{id}/renew",
        "begin the next period and collect, or fail to",
        _Collection,
        _renew,
    ),
    _Control(
        "POST",
        "/_control/subscriptions/{id}/cancel",
        "end a subscription, now or with its period",
        _Cancellation,
        _cancel,
    ),
    _Control("POST", "/_control/invoices/{id}/collect", "try again to collect an open invoice", _Collection, _collect),
    _Control("POST", "/_control/invoices/{id}/void", "take an open invoice back", _Nothing, _void),
    _Control("POST", "/_control/invoices/{id}/mark_uncollectible", "write an open invoice off", _Nothing, _write_off),
    _Control("POST", "/_control/refunds", "refund a payment, wholly or by amount (minor units)", _Refund, _refund),
    _Control("POST", "/_control/events/{id}/resend", "deliver an event once more", _Nothing, _resend),
    _Control("GET", "/_control/webhooks", "deliveries, the latest first", _Nothing, _webhooks),
    _Control("POST", "/_control/webhooks", "hold deliveries back, or let them go", _Pause, _pause),
)


class ControlApi:
    """Serves the controls."""

    def __init__(self, account: Account, deliveries: Deliveries) -> None:
        """Take what the controls work on."""
        self._around = _Surroundings(account, deliveries)

    def routes(self) -> Iterable[web.RouteDef]:
        """Give the server the controls' routes."""
        for control in CONTROLS:
            yield web.route(control.method, control.path, functools.partial(self._answer, control))
        yield web.route("*", "/_control{tail:.*}", self._unknown)

    async def _answer(self, control: _Control, request: web.Request) -> web.Response:
        account = self._around.account
        try:
            body = _validated(control.body, await request.read())
            with account.acting_for(f"req_{random_text(14)}", None):
                answer = control.run(self._around, request.match_info.get("id", ""), body)
            return web.json_response(shown(answer))
        except ApiError as error:
            return web.json_response(error.body(), status=error.status)
        finally:
            account.store.commit()

    async def _unknown(self, request: web.Request) -> web.Response:
        error = ApiError(f"No control answers {request.method} {request.path}; GET /_control lists them.", status=404)
        return web.json_response(error.body(), status=error.status)


def _validated(body: type[_Body], raw: bytes) -> _Body:
    """Read a JSON body; none at all stands for {}. Raises ApiError that names every fault."""
    try:
        return body.model_validate_json(raw or b"{}")
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ApiError("; ".join(faults), code="parameter_invalid") from None
