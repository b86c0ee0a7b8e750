"""Idempotency keys: https://docs.stripe.com/api/idempotent_requests.

The first answer to a key is kept for 24 hours and replayed, an error of ours included; the same key with other parameters is
refused, and so is a key whose first request is still running. Nothing is kept of a request that never began to execute.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sandbox.stripe.account import Account
from sandbox.stripe.errors import RefusedBeforeExecutionError
from sandbox.stripe.objects import Kind

KEPT_S = 24 * 3600
KEY_CHARS = 255


@dataclass(frozen=True)
class Answer:
    """What a request was answered."""

    status: int
    body: dict[str, Any]
    request_id: str


class IdempotencyKeys:
    """The keys of the last 24 hours, and those in use now."""

    def __init__(self, account: Account) -> None:
        """Keep them with the account's objects: a restart forgets none."""
        self._account = account
        self._in_use: set[str] = set()

    def begin(self, key: str, method: str, path: str, form: dict[str, Any]) -> Answer | None:
        """Take the key, or return the answer to replay. `end` must follow when None is returned.

        Raises RefusedBeforeExecutionError: 400 for a key of other parameters, 409 for one in use.
        """
        if len(key) > KEY_CHARS:
            raise _refused(f"Idempotency keys can have up to {KEY_CHARS} characters.", status=400)
        if key in self._in_use:
            raise _refused(
                "There is currently another in-progress request using this Stripe-Idempotency-Key (that probably means you"
                f" submitted twice, and the other request is still going through): {key}. Please try again later.",
                status=409,
                code="idempotency_key_in_use",
            )
        kept = self._account.store.get(Kind.IDEMPOTENCY_KEY, key)
        if kept is None or kept["created"] <= self._account.time() - KEPT_S:
            self._in_use.add(key)
            return None
        if kept["fingerprint"] != _fingerprint(method, path, form):
            raise _refused(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. Try using"
                f" a key other than '{key}' if you meant to execute a different request.",
                status=400,
            )
        return Answer(kept["status"], kept["body"], kept["request_id"])

    def keep(self, key: str, method: str, path: str, form: dict[str, Any], answer: Answer) -> None:
        """Keep an answer for replay."""
        record = {
            "created": self._account.time(),
            "fingerprint": _fingerprint(method, path, form),
            "status": answer.status,
            "body": answer.body,
            "request_id": answer.request_id,
        }
        self._account.store.put(Kind.IDEMPOTENCY_KEY, key, record)

    def end(self, key: str) -> None:
        """Let go of a key that `begin` took."""
        self._in_use.discard(key)

    def forget_old(self) -> None:
        """Drop the keys that are older than Stripe keeps them."""
        oldest = self._account.time() - KEPT_S
        old = [key for key, kept in self._account.store.items(Kind.IDEMPOTENCY_KEY) if kept["created"] <= oldest]
        for key in old:
            self._account.store.delete(Kind.IDEMPOTENCY_KEY, key)


def _refused(message: str, *, status: int, code: str | None = None) -> RefusedBeforeExecutionError:
    return RefusedBeforeExecutionError(message, status=status, kind="idempotency_error", code=code)


def _fingerprint(method: str, path: str, form: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([method, path, form], sort_keys=True).encode()).hexdigest()
