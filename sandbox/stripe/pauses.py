"""`pause_collection`: a subscription goes on, and its invoices are not collected.

https://docs.stripe.com/billing/subscriptions/pause-payment
"""

from __future__ import annotations

from typing import Any

from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.objects import Object


def pause_collection(account: Account, given: Any) -> Object:
    """Tell the changes that a `pause_collection` parameter makes. Raises ApiError for what Stripe refuses."""
    if not given:
        return {"pause_collection": None}
    if "behavior" not in given:
        raise missing_param("pause_collection[behavior]")
    resumes_at = given.get("resumes_at") or None
    if resumes_at is not None and resumes_at <= account.time():
        raise ApiError("`resumes_at` must be in the future.", param="pause_collection[resumes_at]")
    return {"pause_collection": {"behavior": given["behavior"], "resumes_at": resumes_at}}
