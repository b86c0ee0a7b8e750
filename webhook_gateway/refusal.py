"""What the gateway answers when it does not take an event: status, code, and what the sender should check.

The codes are for machines and stay; the messages are for the person who reads Stripe's delivery log, and say nothing of
what is behind the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from webhook_gateway.event import EventFault
from webhook_gateway.fulfillment import Failure
from webhook_gateway.signature import TOLERANCE_S, SignatureFault

RETRY_AFTER_S: Final = 5
MAX_BODY_BYTES: Final = 1024 * 1024  # Stripe's events are 4 to 100 KB


@dataclass(frozen=True)
class Refusal:
    """An answer other than 200."""

    status: int
    code: str
    message: str
    # The sender should come again after RETRY_AFTER_S.
    retry: bool = False
    # The rest of the body was not read: the connection cannot be used again.
    close: bool = False


LENGTH_REQUIRED = Refusal(411, "length_required", "Send a Content-Length, or use chunked transfer encoding.")
BODY_TOO_LARGE = Refusal(413, "body_too_large", f"The body may have {MAX_BODY_BYTES} bytes at most.", close=True)
NOT_JSON_TYPE = Refusal(415, "content_type_not_json", "The Content-Type must be application/json.", close=True)
ENCODED = Refusal(
    415,
    "content_encoding_not_supported",
    "The body must not be compressed: the signature is of the plain bytes. Check the proxies on the way.",
    close=True,
)
BODY_TIMEOUT = Refusal(408, "body_timeout", "The body did not arrive in time.", close=True)
NOT_HTTP = Refusal(400, "not_http", "This could not be read as an HTTP request.", close=True)
EXPECTATION = Refusal(
    417, "expectation_unknown", "Of what Expect may ask for, only 100-continue is known here.", close=True
)
NOT_FOUND = Refusal(404, "not_found", "There is nothing here. Stripe's events go to /webhooks/stripe.", close=True)
METHOD_NOT_ALLOWED = Refusal(405, "method_not_allowed", "Use the method that the Allow header names.", close=True)
INTERNAL = Refusal(500, "internal", "Something went wrong here. Send the event again.", retry=True, close=True)
TOO_BUSY = Refusal(503, "overloaded", "Too many events at once. Send this one again.", retry=True, close=True)
LIVE_EVENT_IN_TEST_MODE = Refusal(
    400,
    "livemode_mismatch",
    "This is a live event and the endpoint takes test events. Register the live endpoint's URL in live mode.",
)
TEST_EVENT_IN_LIVE_MODE = Refusal(
    400,
    "livemode_mismatch",
    "This is a test event and the endpoint takes live events. Register the test endpoint's URL in the sandbox.",
)

OF_SIGNATURE: Final = {
    SignatureFault.MISSING: "There is no Stripe-Signature header. Only Stripe posts here; check that no proxy drops it.",
    SignatureFault.MALFORMED: "The Stripe-Signature header is not of the form t=<seconds>,v1=<hex>. Check the proxies on the way.",
    SignatureFault.MISMATCH: (
        "No configured secret made this signature. Check that the endpoint's signing secret (whsec_...) is the one of "
        "this URL and mode, and that no proxy alters the raw body."
    ),
    SignatureFault.STALE: f"The signature is more than {TOLERANCE_S} s old. Check this host's clock, and for a replayed request.",
    SignatureFault.FUTURE: f"The signature is more than {TOLERANCE_S} s in the future. Check the clocks of both sides.",
}
OF_EVENT: Final = {
    EventFault.NOT_UTF8: "The body is signed, but is not UTF-8.",
    EventFault.NOT_JSON: "The body is signed, but is not JSON.",
    EventFault.NOT_AN_EVENT: "The body is signed, but is not an event: an object with id, type and livemode.",
}


def of_signature(fault: SignatureFault) -> Refusal:
    """Refuse what is not proven to be Stripe's."""
    return Refusal(400, fault.value, OF_SIGNATURE[fault])


def of_event(fault: EventFault) -> Refusal:
    """Refuse what is signed and still no event."""
    return Refusal(400, fault.value, OF_EVENT[fault])


def of_livemode(*, event_is_live: bool) -> Refusal:
    """Refuse an event of the other mode. Sending it again cannot help, and the refusals show in Stripe's dashboard."""
    return LIVE_EVENT_IN_TEST_MODE if event_is_live else TEST_EVENT_IN_LIVE_MODE


def of_failure(failure: Failure) -> Refusal:
    """Have Stripe send again what was not committed. Which part of us failed is for the log, not for the answer."""
    if failure is Failure.OVERLOADED:
        return TOO_BUSY
    return Refusal(503, "not_available", "The event could not be recorded now. Send it again.", retry=True)
