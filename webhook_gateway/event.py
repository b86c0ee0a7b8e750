"""As much of an event as routing needs: its id, its type, its mode and its kind. What it means is the service's business.

Only bodies whose signature was verified come here.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import msgspec


class EventKind(StrEnum):
    """Stripe's two renderings of an event, by the `object` that they carry."""

    SNAPSHOT = "event"
    THIN = (
        "v2.core.event"  # names the object that changed instead of carrying it; the id and type are in the same place
    )
    UNKNOWN = "unknown"  # one that Stripe adds one day: forwarded, so that the service keeps it


class EventFault(StrEnum):
    """Why a signed body is not an event."""

    NOT_UTF8 = "body_not_utf8"
    NOT_JSON = "body_not_json"
    NOT_AN_EVENT = "body_not_an_event"


class EventRefusedError(Exception):
    """The body is not an event; `fault` says why."""

    def __init__(self, fault: EventFault) -> None:
        """Take the fault; nothing of the body is kept."""
        self.fault = fault
        super().__init__(fault.value)


class EventHead(msgspec.Struct, frozen=True):
    """What the gateway knows of an event."""

    event_id: str
    type: str
    livemode: bool
    kind: EventKind
    created: int | None = None  # Stripe's time, in seconds since the epoch; thin events write theirs as text
    stripe_customer_id: str | None = None  # whom it is about; None: it does not say, as thin events never do


# Printable ASCII, as all of Stripe's ids and types are: it can stand in any log or column.
_Word = Annotated[str, msgspec.Meta(pattern=r"\A[\x21-\x7e]{1,255}\Z")]


class _Head(msgspec.Struct):
    id: _Word
    type: _Word
    livemode: bool
    object: str = ""
    created: Any = None  # whatever it is, it is no reason to refuse


class _Customer(msgspec.Struct):
    id: str


class _Object(msgspec.Struct):
    id: str = ""
    object: str = ""
    customer: str | _Customer | None = None  # Stripe gives the whole of it where it was asked to


class _Data(msgspec.Struct):
    object: _Object


class _Usual(_Head):
    data: _Data | None = None


class _Whole(_Head):
    data: msgspec.Raw = msgspec.Raw()  # looked into by itself


_usual_decoder = msgspec.json.Decoder(_Usual)
_decoder = msgspec.json.Decoder(_Whole)
_data_decoder = msgspec.json.Decoder(_Data)
_KINDS = {kind.value: kind for kind in EventKind}


def decode_head(body: bytes) -> EventHead:
    """Read the head of an event from the raw body.

    Raises:
        EventRefusedError: the body is not UTF-8, not JSON, or not an object with an `id`, a `type` and a `livemode`.
    """
    if not body.isascii():
        _check_utf8(body)
    head, stripe_customer_id = _decode(body)
    return EventHead(
        head.id,
        head.type,
        head.livemode,
        _KINDS.get(head.object, EventKind.UNKNOWN),
        head.created if isinstance(head.created, int) else None,
        stripe_customer_id,
    )


def _check_utf8(body: bytes) -> None:
    try:
        body.decode()  # msgspec does not look into the strings that it skips
    except UnicodeDecodeError:
        raise EventRefusedError(EventFault.NOT_UTF8) from None


def _decode(body: bytes) -> tuple[_Head, str | None]:
    """Give the head and whom the event is about: in one pass where `data` is as it nearly always is, else in as many as it takes."""
    try:
        usual = _usual_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError):  # of which a ValidationError is one
        return _decode_in_parts(body)
    return usual, _customer_of(usual.data)


def _decode_in_parts(body: bytes) -> tuple[_Head, str | None]:
    try:
        whole = _decoder.decode(body)
    except msgspec.ValidationError:
        raise EventRefusedError(EventFault.NOT_AN_EVENT) from None
    except (msgspec.DecodeError, RecursionError):
        return _decode_leniently(body.decode()), None
    return whole, _stripe_customer_id(whole.data)


def _decode_leniently(text: str) -> _Head:
    r"""Take what is JSON by its grammar although msgspec refuses it: a lone surrogate, written as `\ud800`, in metadata.

    Such an event must reach the service, which keeps it in quarantine; a 400 would lose it after Stripe's last retry.
    """
    try:
        return msgspec.convert(json.loads(text), _Head)
    except msgspec.ValidationError:
        raise EventRefusedError(EventFault.NOT_AN_EVENT) from None
    except (ValueError, RecursionError):
        raise EventRefusedError(EventFault.NOT_JSON) from None


def _stripe_customer_id(data: msgspec.Raw) -> str | None:
    """Give whom an event is about. It only decides which events travel together: what cannot be read here is no fault."""
    try:
        return _customer_of(_data_decoder.decode(data))
    except (msgspec.DecodeError, RecursionError):
        return None


def _customer_of(data: _Data | None) -> str | None:
    if data is None:
        return None
    found = data.object
    if found.object == "customer":
        return found.id
    return found.customer.id if isinstance(found.customer, _Customer) else found.customer
