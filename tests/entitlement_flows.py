"""The reads of a service put together as the program does it, over parts that a test has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from billing_service.flows.asked_reads import AskedReads
from billing_service.flows.await_checkout import AwaitCheckout
from billing_service.flows.get_entitlements import GetEntitlements
from billing_service.flows.prices import Prices
from billing_service.flows.read_entitlements import ReadEntitlements
from billing_service.flows.read_past import ReadPast
from billing_service.flows.reads import Reads
from billing_service.storage.database import Database


def get_entitlements(
    database: Database, prices: Prices, read: ReadEntitlements, reads: Reads, now: Callable[[], datetime]
) -> GetEntitlements:
    """Give the flow behind GetEntitlements."""
    after = AwaitCheckout(database, read, AskedReads(database, reads, now), now)
    return GetEntitlements(prices, read, ReadPast(database, prices, now), after)
