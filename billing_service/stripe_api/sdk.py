"""One call through the SDK: bounded in time, and ending in a plain value or in an error of our own."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import Any, TypeVar

import stripe

from billing_service import tracing
from billing_service.deadline import remaining_s
from billing_service.stripe_api.errors import (
    StripeBusy,
    StripeCallError,
    StripeDefinite,
    StripeDenied,
    StripeKeyConflict,
    StripeNoAnswer,
)

# The shapes that we send and read. Fixed here, so that a newer SDK of the same major version does not move it.
API_VERSION = "2026-10-28.endive"

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Read:
    """One Stripe object as an answer of Stripe gave it."""

    object: dict[str, Any]  # plain JSON
    server_time: int  # Unix seconds by Stripe's clock (the answer's Date header); 0 where it gave none
    # Whether Stripe gave its first answer to the idempotency key once more: what the object was then, not what it is now.
    # https://docs.stripe.com/error-low-level#idempotency
    replayed: bool = False


def open_client(api_key: str, api_base: str, *, timeout_s: float) -> tuple[stripe.StripeClient, stripe.HTTPXClient]:
    """Make a client of the SDK and the HTTP client beneath it, which is the caller's to close.

    The SDK retries nothing: which key the next try carries is for the flow to decide.
    """
    _keep_quiet()
    _remember_what_is_missing()
    http_client = stripe.HTTPXClient(timeout=timeout_s)
    client = stripe.StripeClient(
        api_key,
        stripe_version=API_VERSION,
        base_addresses={"api": api_base.rstrip("/")},
        max_network_retries=0,
        http_client=http_client,
    )
    return client, http_client


def _keep_quiet() -> None:
    """Keep personal data and the API key out of files and logs: the libraries' own, and ours that gather theirs."""
    stripe.enable_telemetry = False  # writes an id into the home folder
    # Stripe's messages at INFO, request bodies at DEBUG; httpcore writes the headers, the API key among them, at DEBUG.
    for name in ("stripe", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))


def _remember_what_is_missing() -> None:
    """Spare each call the search for a module that is not there: httpcore 1.0 imports it anew four times a call, half a millisecond in all."""
    if "sniffio" not in sys.modules and find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # as Python's import system has it for "not there"


Before = Callable[[], None]
After = Callable[[str, str, float], None]  # the operation, how it ended, and how long it took in seconds


@dataclass(frozen=True)
class Bounds:
    """What holds for every call: the longest that it may take, and who is told before it leaves."""

    timeout_s: float
    before: Before | None = None
    after: After | None = None


_OUTCOMES = {
    StripeBusy: "busy",
    StripeDefinite: "refused",
    StripeDenied: "denied",
    StripeKeyConflict: "key_conflict",
    StripeNoAnswer: "no_answer",
}


async def bounded(operation: str, call: Awaitable[_Answer], bounds: Bounds) -> _Answer:
    """Run one call of the SDK for at most the bound's time, and tell how it ended.

    Raises:
        StripeCallError: for whatever the SDK raises; never chained to it, since its errors carry whole bodies.
    """
    started, outcome = time.monotonic(), "cancelled"
    span = tracing.begin(f"stripe {operation}", tracing.SpanKind.CLIENT)  # nothing of what is sent or answered
    try:
        answer = await _bounded(operation, call, bounds)
        outcome = "answered"
    except StripeCallError as error:
        outcome = _OUTCOMES[type(error)]
        raise
    finally:
        tracing.end(span, None if outcome == "answered" else outcome, **{"billing.stripe.outcome": outcome})
        if bounds.after is not None:
            bounds.after(operation, outcome, time.monotonic() - started)
    return answer


async def _bounded(operation: str, call: Awaitable[_Answer], bounds: Bounds) -> _Answer:
    """Run it for at most the bound's time, or what the caller's deadline leaves of it."""
    limit_s = remaining_s(bounds.timeout_s)
    try:
        async with asyncio.timeout(limit_s):
            if bounds.before is not None:
                bounds.before()
            return await call
    except stripe.StripeError as error:
        failure = _translated(operation, error)
    except TimeoutError:
        failure = StripeNoAnswer(operation, f"no answer within {limit_s:.1f} s")
    except (AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
        # What the SDK stumbles over when an answer is no UTF-8, or is JSON but none of Stripe's objects (a list, null).
        failure = StripeNoAnswer(operation, f"an answer that is not Stripe's ({type(error).__name__})")
    raise failure


def _translated(operation: str, error: stripe.StripeError) -> StripeCallError:
    status, request_id = error.http_status, error.request_id
    if isinstance(error, stripe.APIConnectionError) or status is None:
        cause = error.__cause__
        return StripeNoAnswer(operation, f"no answer ({type(cause or error).__name__})")
    if status in {409, 429}:
        return StripeBusy(operation, status, request_id=request_id)
    if status in {401, 403}:
        return StripeDenied(operation, status, request_id=request_id)
    if isinstance(error, stripe.IdempotencyError):
        return StripeKeyConflict(operation, request_id=request_id)
    details = _error_object(error)
    if details is None:
        # A proxy's page, or a body that broke off: Stripe itself always sends an error object. What it did is not known.
        return StripeNoAnswer(operation, f"an answer {status} that is not Stripe's", request_id=request_id)
    return StripeDefinite(
        operation,
        status,
        code=_text(details.get("code")),
        param=_text(details.get("param")),
        message=_text(details.get("message")),
        request_id=request_id,
    )


def _error_object(error: stripe.StripeError) -> dict[str, object] | None:
    details = error.json_body.get("error") if isinstance(error.json_body, dict) else None
    return details if isinstance(details, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def read_of(operation: str, answer: stripe.StripeObject) -> Read:
    """Give the JSON of an answer as it came, and its time.

    Raises:
        StripeNoAnswer: the answer is JSON without an id, so none of Stripe's objects.
    """
    response = answer.last_response
    content = json.loads(response.body) if response else None
    if response is None or not isinstance(content, dict) or not isinstance(content.get("id"), str):
        raise StripeNoAnswer(operation, "an answer that is not Stripe's")
    replayed = response.headers.get("idempotent-replayed") == "true"
    return Read(content, server_time_s(response.headers.get("date")), replayed)


def server_time_s(date_header: str | None) -> int:
    """Give the Unix seconds of an HTTP Date header; 0 when there is none that can be read."""
    try:
        return int(parsedate_to_datetime(date_header or "").timestamp())
    except (ValueError, OverflowError):
        return 0
