"""Pages of a list: how many are wanted, and a token that leads on from the place where the page before ended.

A token is good for the list and the filters that it was made for, and says nothing that the list did not show. It is no secret and no
credential: whoever makes one up sees another part of the list that they may see anyway.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final, Protocol, TypeVar

import msgspec
from google.protobuf.message import Message

from billing_service.rpc.requests import Problems

MAX_PAGE: Final = 500
DEFAULT_PAGE: Final = 50
MAX_TOKEN_CHARS: Final = 2_000

_Place = TypeVar("_Place")


class Paged(Protocol):
    """A request for a page of a list."""

    page_size: int
    page_token: str


def size(message: Paged, default: int = DEFAULT_PAGE) -> int:
    """Say how many are wanted."""
    return message.page_size or default


def problems(message: Paged, kind: type[_Place], most: int = MAX_PAGE) -> Problems:
    """Check the size, and that the token is one of this list and these filters, with a place of this kind."""
    if not 0 <= message.page_size <= most:
        yield "page_size", f"must be from 1 to {most}, or 0 for as many as is usual"
    try:
        place(message, kind)
    except ValueError:
        yield "page_token", "must be the next_page_token of a page with the same filters, or empty"


def place(message: Paged, kind: type[_Place]) -> _Place | None:
    """Give the place that the token stands for; None where there is none.

    Raises:
        ValueError: it is no token of this list and these filters.
    """
    if not message.page_token:
        return None
    if len(message.page_token) > MAX_TOKEN_CHARS:
        raise ValueError("too long")
    try:
        raw = base64.b64decode(message.page_token.encode(), altchars=b"-_", validate=True)
        made_for, found = msgspec.json.decode(raw, type=tuple[str, kind])  # type: ignore[valid-type]  # of this call
    except (binascii.Error, msgspec.DecodeError, UnicodeError):
        raise ValueError("not a token") from None
    if made_for != _filters(message):
        raise ValueError("of another list")
    return found  # msgspec has checked it


def token(message: Paged, place: object | None) -> str:
    """Give the token that leads on from a place; empty where there is none."""
    if place is None:
        return ""
    return base64.urlsafe_b64encode(msgspec.json.encode((_filters(message), place))).decode()


def _filters(message: Paged) -> str:
    if not isinstance(message, Message):
        raise TypeError("a request of the contract")
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField("page_size")
    copy.ClearField("page_token")
    name = message.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\0" + copy.SerializeToString(deterministic=True)).hexdigest()[:16]
