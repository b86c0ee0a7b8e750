"""Where a watch goes on when its stream broke, and when."""

from __future__ import annotations

import random

import grpc
from billing.v1.watch_pb2 import WatchEntitlementsRequest, WatchEntitlementsResponse

from billing_client.errors import BillingError

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0
# Coming again as one is cannot help.
FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class Following:
    """What one watch has heard so far."""

    def __init__(self, request: WatchEntitlementsRequest) -> None:
        """Take the first request; its cursor is kept as it moves."""
        self._customer_ids = list(request.customer_ids)
        self._cursor = request.cursor
        self._failures = 0

    def request(self) -> WatchEntitlementsRequest:
        """Give the request that goes on."""
        return WatchEntitlementsRequest(customer_ids=self._customer_ids, cursor=self._cursor)

    def heard(self, message: WatchEntitlementsResponse) -> None:
        """Note a message. What a snapshot takes the place of must not be gone on from."""
        self._failures = 0
        begins = message.kind == WatchEntitlementsResponse.KIND_SNAPSHOT_BEGIN
        self._cursor = "" if begins else message.cursor or self._cursor

    def pause_after(self, error: BillingError) -> float:
        """Say how long to wait after a failure.

        Raises:
            BillingError: coming again cannot help.
        """
        if error.code in FINAL:
            raise error
        return self.pause_s()

    def pause_s(self) -> float:
        """Say how long to wait: longer each time, and never all at once."""
        self._failures += 1
        most = min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
        return random.uniform(most / 2, most)  # noqa: S311 - to spread callers, not to keep a secret
