"""The typed client of the billing service: async (`BillingClient`) and for threads (`SyncBillingClient`).

Errors that are not named here are in `billing_client.errors`, one per reason of the contract.
"""

from billing_client.aio import BillingClient
from billing_client.cache import Check, Closed, EntitlementCache, LastKnown, Open
from billing_client.errors import AlreadySubscribedError, BillingError, TransportError, UnavailableError
from billing_client.options import TLS, Options
from billing_client.sync import SyncBillingClient
from billing_client.sync_cache import SyncEntitlementCache

__all__ = [
    "TLS",
    "AlreadySubscribedError",
    "BillingClient",
    "BillingError",
    "Check",
    "Closed",
    "EntitlementCache",
    "LastKnown",
    "Open",
    "Options",
    "SyncBillingClient",
    "SyncEntitlementCache",
    "TransportError",
    "UnavailableError",
]
