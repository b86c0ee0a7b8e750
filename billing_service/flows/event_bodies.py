"""The body of an event: what it says, or what is wrong with it and by which key it is put aside."""

from __future__ import annotations

import hashlib
import json
import re

import msgspec

from billing_service.domain.frozen import frozen
from billing_service.domain.json_fields import MalformedError, is_mapping
from billing_service.domain.observation import Event, read_event

_EVENT_ID = re.compile(r"evt_[A-Za-z0-9_]{1,250}")


@frozen
class ParsedEvent:
    """One event of a batch: understood, or malformed with what is wrong."""

    key: str
    payload: bytes
    event: Event | None
    problem: str = ""


def parse(payload: bytes) -> ParsedEvent:
    """Understand one body; one that cannot be is malformed, and its key is its id, or the hash of its bytes where it tells none."""
    body: object = None
    try:
        body = _decode(payload)
        event = read_event(body)
        _check_key(event.event_id)
    except MalformedError as error:
        return ParsedEvent(_told_id(body) or hash_key(payload), payload, None, str(error))
    return ParsedEvent(event.event_id, payload, event)


def _told_id(body: object) -> str | None:
    """Give the id that a malformed event tells: whoever brings it, in whichever bytes, it is one event."""
    event_id = body.get("id") if is_mapping(body) else None
    return event_id if isinstance(event_id, str) and _EVENT_ID.fullmatch(event_id) else None


def _decode(payload: bytes) -> object:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # the standard library reads more: lone surrogates, which Stripe passes on from whoever wrote the metadata
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise MalformedError("the body is not JSON") from error


def _check_key(event_id: str) -> None:
    """A key must be writable whatever else is wrong, or the event could not even be quarantined."""
    if not event_id.isascii() or not event_id.isprintable() or len(event_id) > 255:
        raise MalformedError("id is not an event id")


def hash_key(payload: bytes) -> str:
    """Give the key by which bytes are in quarantine that tell no event's id."""
    return f"sha256:{hashlib.sha256(payload).hexdigest()}"
