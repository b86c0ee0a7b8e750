"""The stand-in's own controls, for tests and for trying things: `GET /_control` lists them.

They do what at Stripe time, a bank or a person in the dashboard does. Loopback only, so without a key.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

from aiohttp import web
from pydantic import BaseModel, ValidationError

from sandbox.stripe import control_payments, control_subscriptions, control_time, control_webhooks
from sandbox.stripe.control_route import Control, Nothing, Surroundings
from sandbox.stripe.errors import ApiError
from sandbox.stripe.identifiers import random_text
from sandbox.stripe.objects import Object
from sandbox.stripe.rendering import shown


def _list(_: Surroundings, __: str, ___: Nothing) -> Object:
    return {
        "about": "Controls of the stand-in for Stripe: what time, banks and people do at Stripe. No money moves.",
        "endpoints": [
            {"method": control.method, "path": control.path, "purpose": control.purpose, "body": _fields(control.body)}
            for control in CONTROLS
        ],
    }


def _fields(body: type[BaseModel]) -> Object:
    """Describe a body by example: each field's possible values, or its type."""
    schema = body.model_json_schema()
    described: Object = {}
    for name, field in schema.get("properties", {}).items():
        kind = schema.get("$defs", {}).get(field.get("$ref", "").rpartition("/")[2], field)
        described[name] = " | ".join(kind["enum"]) if "enum" in kind else kind.get("type", "integer (optional)")
    return described


CONTROLS: tuple[Control, ...] = (
    Control("GET", "/_control", "this list", Nothing, _list),
    *control_payments.CONTROLS,
    *control_subscriptions.CONTROLS,
    *control_webhooks.CONTROLS,
    *control_time.CONTROLS,
)


class ControlApi:
    """Serves the controls."""

    def __init__(self, around: Surroundings) -> None:
        """Take what the controls work on."""
        self._around = around

    def routes(self) -> Iterable[web.RouteDef]:
        """Give the server the controls' routes."""
        for control in CONTROLS:
            yield web.route(control.method, control.path, functools.partial(self._answer, control))
        yield web.route("*", "/_control{tail:.*}", self._unknown)

    async def _answer(self, control: Control, request: web.Request) -> web.Response:
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


def _validated(body: type[BaseModel], raw: bytes) -> BaseModel:
    """Read a JSON body; none at all stands for {}. Raises ApiError that names every fault."""
    try:
        return body.model_validate_json(raw or b"{}")
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ApiError("; ".join(faults), code="parameter_invalid") from None
