"""The cursor of a watch: where in the log it was, of which customers, and with which catalog. Opaque to callers."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass

VERSION = 1
MAX_LENGTH = 500


class CursorError(ValueError):
    """A text that is no cursor of ours."""


@dataclass(frozen=True)
class WatchCursor:
    """Everything up to a place in the log has been told."""

    position: int
    stamp: int  # of the change at that position, so that a restored database is noticed
    scope: str  # which customers: a hash, or "all"
    catalog_version: str

    def encode(self) -> str:
        """Give the text that callers keep."""
        content = json.dumps([VERSION, self.position, self.stamp, self.scope, self.catalog_version])
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> WatchCursor:
        """Read what `encode` gave.

        Raises:
            CursorError: it is something else.
        """
        if len(text) > MAX_LENGTH:
            raise CursorError("too long")
        try:
            content = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except ValueError as error:
            raise CursorError("not a cursor") from error
        match content:
            case [1, int(position), int(stamp), str(scope), str(catalog_version)] if position >= 0:
                return cls(position, stamp, scope, catalog_version)
        raise CursorError("not a cursor of this release")


def scope_of(customer_ids: Collection[str] | None) -> str:
    """Give what tells one set of customers from another."""
    if customer_ids is None:
        return "all"
    return hashlib.sha256(json.dumps(sorted(customer_ids)).encode()).hexdigest()[:32]
