"""The rules that the contract's comments state for single fields: a text in, what is wrong with it out.

Every rule gives None where the value holds, or a description that says what the field must be. A description never
repeats the value: it ends up in errors and logs, and some fields hold personal data.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

MAX_REQUEST_ID_CHARS = 128
MAX_CUSTOMER_ID_CHARS = 200  # Stripe's limit for client_reference_id, which carries it
MAX_KEY_CHARS = 200  # plan_key and price_key: longer than any catalog's, and short enough to name in an error
MAX_QUANTITY = 1_000_000
MAX_URL_CHARS = 2_048
MAX_EMAIL_CHARS = 254  # RFC 5321: what fits a path of 256 octets
MAX_METADATA_ENTRIES = 20  # Stripe takes 50; the rest is ours
MAX_METADATA_KEY_CHARS = 40  # Stripe's limit
MAX_METADATA_VALUE_CHARS = 500  # Stripe's limit
MAX_ACTOR_CHARS = 200
MAX_REASON_CHARS = 1_000
MAX_TEXT_VALUE_CHARS = 200
MAX_EVENT_KEY_CHARS = 255
MAX_SUBJECT_CHARS = 500
RESERVED_METADATA_PREFIX = "billing_"

_CHECKOUT_SESSION_ID = re.compile(r"cs_[A-Za-z0-9_]{1,255}")
_SUBSCRIPTION_ID = re.compile(r"sub_[A-Za-z0-9_]{1,255}")
_STRIPE_CUSTOMER_ID = re.compile(r"cus_[A-Za-z0-9_]{1,255}")
_GRANT_ID = re.compile(r"grant_[0-9a-f]{32}")
_HOST_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
_EMAIL = re.compile(r"[^@\s]+@[\w-]+(\.[\w-]+)+")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc

_NEEDED = "is required"


def _has_control(text: str) -> bool:
    return _CONTROL.search(text) is not None


def request_id_problem(value: str) -> str | None:
    """Check a request_id: 1 to 128 printable ASCII characters."""
    if not value:
        return _NEEDED
    if len(value) > MAX_REQUEST_ID_CHARS or not value.isascii() or not value.isprintable():
        return f"must be 1 to {MAX_REQUEST_ID_CHARS} printable ASCII characters"
    return None


def customer_id_problem(value: str) -> str | None:
    """Check a customer_id: 1 to 200 characters, no control characters, no spaces at either end."""
    if not value:
        return _NEEDED
    if len(value) > MAX_CUSTOMER_ID_CHARS:
        return f"must be at most {MAX_CUSTOMER_ID_CHARS} characters long"
    if _has_control(value):
        return "must not contain control characters"
    if value != value.strip():
        return "must not begin or end with a space"
    return None


def key_problem(value: str) -> str | None:
    """Check a plan_key or price_key for being a possible one; whether it exists is the catalog's to say."""
    if not value:
        return _NEEDED
    if len(value) > MAX_KEY_CHARS or _has_control(value):
        return f"must be at most {MAX_KEY_CHARS} characters long, without control characters"
    return None


def quantity_problem(value: int) -> str | None:
    """Check a quantity: 1 to 1,000,000."""
    return None if 1 <= value <= MAX_QUANTITY else f"must be from 1 to {MAX_QUANTITY}"


def url_problem(value: str, hosts: Collection[str] = ()) -> str | None:
    """Check a URL that a person's browser is sent to: absolute, https (http for a loopback host), <= 2,048 characters.

    Where `hosts` are given (in lower case), it must lead to one of them, on whichever port.

    A backslash is refused because browsers read it as a slash, so that the host they go to is another than the one
    that we read; userinfo for the same reason ("https://shop.example@evil.example").
    """
    if not value:
        return _NEEDED
    if len(value) > MAX_URL_CHARS:
        return f"must be at most {MAX_URL_CHARS} characters long"
    if _has_control(value) or "\\" in value or any(char.isspace() for char in value):
        return "must not contain spaces, control characters or backslashes"
    try:
        parts = urlsplit(value)
        _ = parts.port  # parsed, and refused, only when asked for
    except ValueError:
        return "must be a valid absolute URL"
    return _url_parts_problem(parts) or _redirect_problem(parts, hosts)


def _url_parts_problem(parts: SplitResult) -> str | None:
    host = parts.hostname or ""
    if parts.scheme not in {"https", "http"} or not host:
        return "must be an absolute URL that begins with https://"
    if "@" in parts.netloc:
        return "must not contain a user name or password"
    if not _is_host(host, bracketed="[" in parts.netloc):
        return "must name a valid host"
    if parts.scheme == "http" and not is_loopback(host):
        return "must begin with https:// (http:// only for a loopback host)"
    return None


def _redirect_problem(parts: SplitResult, hosts: Collection[str]) -> str | None:
    host = (parts.hostname or "").lower().rstrip(".")
    return "must lead to a host that the operator has named" if hosts and host not in hosts else None


def _is_host(host: str, *, bracketed: bool) -> bool:
    if bracketed:  # urlsplit has taken the brackets of an IPv6 address
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            return False
        return True
    return _HOST_NAME.fullmatch(host) is not None


def is_loopback(host: str) -> bool:
    """Say whether a host names this machine alone: localhost (RFC 6761), 127.0.0.0/8 or ::1."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def email_problem(value: str) -> str | None:
    """Check that an e-mail address is plausible; whether it is anybody's, only a mail can tell."""
    if len(value) > MAX_EMAIL_CHARS:
        return f"must be at most {MAX_EMAIL_CHARS} characters long"
    if _has_control(value) or _EMAIL.fullmatch(value) is None:
        return "must be an e-mail address, for example person@example.com; leave it out where there is none"
    return None


def metadata_entry_problem(key: str, value: str) -> str | None:
    """Check one entry of the caller's metadata.

    Square brackets in keys are refused by Stripe (https://docs.stripe.com/api/metadata), and in a form body they would
    name another parameter.
    """
    if not 1 <= len(key) <= MAX_METADATA_KEY_CHARS or _has_control(key):
        return f"the key must be 1 to {MAX_METADATA_KEY_CHARS} characters long, without control characters"
    if key.startswith(RESERVED_METADATA_PREFIX):
        return f'the key must not begin with "{RESERVED_METADATA_PREFIX}", which is ours'
    if "[" in key or "]" in key:
        return "the key must not contain square brackets"
    if len(value) > MAX_METADATA_VALUE_CHARS:
        return f"the value must be at most {MAX_METADATA_VALUE_CHARS} characters long"
    if "\0" in value:
        return "the value must not contain the NUL character"
    return None


def checkout_session_id_problem(value: str) -> str | None:
    """Check a checkout_session_id for being one of Stripe's: "cs_" and letters, digits or underscores."""
    if not value:
        return _NEEDED
    if _CHECKOUT_SESSION_ID.fullmatch(value) is None:
        return 'must be the id of a Stripe checkout session, "cs_..."'
    return None


def subscription_id_problem(value: str) -> str | None:
    """Check a stripe_subscription_id for being one of Stripe's: "sub_" and letters, digits or underscores."""
    if not value:
        return _NEEDED
    if _SUBSCRIPTION_ID.fullmatch(value) is None:
        return 'must be the id of a Stripe subscription, "sub_..."'
    return None


def stripe_customer_id_problem(value: str) -> str | None:
    """Check a stripe_customer_id for being one of Stripe's: "cus_" and letters, digits or underscores."""
    if not value:
        return _NEEDED
    return None if _STRIPE_CUSTOMER_ID.fullmatch(value) else 'must be the id of a Stripe customer, "cus_..."'


def grant_id_problem(value: str) -> str | None:
    """Check a grant_id for being one of ours."""
    if not value:
        return _NEEDED
    return None if _GRANT_ID.fullmatch(value) else 'must be the id of a grant, "grant_..."'


def event_key_problem(value: str) -> str | None:
    """Check the id of an event, or the key of one in quarantine."""
    if not value:
        return _NEEDED
    if len(value) > MAX_EVENT_KEY_CHARS or not value.isascii() or not value.isprintable():
        return f"must be 1 to {MAX_EVENT_KEY_CHARS} printable ASCII characters"
    return None


def actor_problem(value: str) -> str | None:
    """Check who asks: 1 to 200 characters without control characters."""
    return _text_problem(value, MAX_ACTOR_CHARS)


def subject_problem(value: str) -> str | None:
    """Check the subject of a finding."""
    return _text_problem(value, MAX_SUBJECT_CHARS)


def reason_problem(value: str) -> str | None:
    """Check why it is asked: 1 to 1,000 characters; lines may be broken."""
    if not value.strip():
        return _NEEDED
    if len(value) > MAX_REASON_CHARS or "\0" in value:
        return f"must be at most {MAX_REASON_CHARS} characters long, without NUL"
    return None


def text_value_problem(value: str) -> str | None:
    """Check a feature's text: at most 200 characters, without control characters."""
    if len(value) > MAX_TEXT_VALUE_CHARS or _has_control(value):
        return f"must be at most {MAX_TEXT_VALUE_CHARS} characters long, without control characters"
    return None


def _text_problem(value: str, most: int) -> str | None:
    if not value.strip():
        return _NEEDED
    if len(value) > most or _has_control(value):
        return f"must be at most {most} characters long, without control characters"
    return None
