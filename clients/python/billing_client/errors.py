"""What calls raise: one class per reason of the contract, and one for what carries no reason of ours.

The reasons and what they mean stand in `billing/v1/error_reason.proto`. Catch the class of the one that you handle, or
`BillingError` for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships stubs, but no py.typed
from grpc_status import rpc_status  # type: ignore[import-untyped]  # ships no types

DOMAIN = "billing.v1"


@dataclass
class BillingError(Exception):
    """A call that failed."""

    code: grpc.StatusCode
    message: str
    reason: str = ""  # of the contract, without its prefix; empty where no service answered
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after: timedelta | None = None  # when to come again, where the service says so
    violations: Mapping[str, str] = field(default_factory=dict)  # field -> what does not hold

    by_reason: ClassVar[dict[str, type[BillingError]]] = {}
    handles: ClassVar[str] = ""

    def __init_subclass__(cls, reason: str = "") -> None:
        """Register the class of a reason."""
        super().__init_subclass__()
        cls.handles = reason
        if reason:
            BillingError.by_reason[reason] = cls

    def __str__(self) -> str:
        """Say what happened; messages of the service carry neither secrets nor personal data."""
        return f"{self.reason or self.code.name}: {self.message}"


class UnavailableError(BillingError):
    """The service, or something that it needs, did not answer. The same call is safe to make again."""


class TransportError(UnavailableError):
    """No service answered: a refused or broken connection, a deadline that passed on the way."""


class InvalidFieldsError(BillingError, reason="INVALID_FIELDS"):
    """Fields of the request do not hold; `violations` names each."""


class PlanNotFoundError(BillingError, reason="PLAN_NOT_FOUND"):
    """No plan has this key."""


class PriceNotFoundError(BillingError, reason="PRICE_NOT_FOUND"):
    """The plan has no price of this key."""


class CheckoutSessionNotFoundError(BillingError, reason="CHECKOUT_SESSION_NOT_FOUND"):
    """No checkout session has this id, or it is somebody else's."""


class RequestIdReusedError(BillingError, reason="REQUEST_ID_REUSED"):
    """The request id was used for a call with other parameters."""


class AlreadySubscribedError(BillingError, reason="ALREADY_SUBSCRIBED"):
    """The customer holds a live subscription of the plan's group: change that one instead."""


class PlanNotForSaleError(BillingError, reason="PLAN_NOT_FOR_SALE"):
    """The plan has no price."""


class PriceNotAvailableError(BillingError, reason="PRICE_NOT_AVAILABLE"):
    """Stripe knows no active price with the lookup key: the operator's business."""


class CheckoutSupersededError(BillingError, reason="CHECKOUT_SUPERSEDED"):
    """A later request of the customer took this one's place."""


class SubscriptionNotFoundError(BillingError, reason="SUBSCRIPTION_NOT_FOUND"):
    """The customer has no subscription of this id, or it is somebody else's."""


class SubscriptionNotLiveError(BillingError, reason="SUBSCRIPTION_NOT_LIVE"):
    """The subscription is over, or its first payment was never made: sell a new one."""


class SubscriptionEndingError(BillingError, reason="SUBSCRIPTION_ENDING"):
    """The subscription is to end with its period: resume it first."""


class SubscriptionPausedError(BillingError, reason="SUBSCRIPTION_PAUSED"):
    """The subscription is paused: resume it first."""


class SubscriptionUnpaidError(BillingError, reason="SUBSCRIPTION_UNPAID"):
    """The period that runs is not paid: pay first, or change at its end."""


class SubscriptionChangePendingError(BillingError, reason="SUBSCRIPTION_CHANGE_PENDING"):
    """Something set up elsewhere waits to change the subscription at Stripe: the operator's business."""


class SubscriptionChangeSupersededError(BillingError, reason="SUBSCRIPTION_CHANGE_SUPERSEDED"):
    """A later request changed the same subscription."""


class PlanGroupMismatchError(BillingError, reason="PLAN_GROUP_MISMATCH"):
    """The subscription holds no plan that could be changed to this one."""


class CustomerUnknownToStripeError(BillingError, reason="CUSTOMER_UNKNOWN_TO_STRIPE"):
    """The customer has never begun to buy."""


class PaymentFailedError(BillingError, reason="PAYMENT_FAILED"):
    """The payment failed and nothing was changed; the same request id may be used again."""


class RequestInProgressError(BillingError, reason="REQUEST_IN_PROGRESS"):
    """Another call with the same effect is under way; call again with the same request id."""


class StripeRefusedError(BillingError, reason="STRIPE_REFUSED"):
    """Stripe refused for a reason that calling again does not change."""


class StripeUnavailableError(UnavailableError, reason="STRIPE_UNAVAILABLE"):
    """Stripe did not answer in time."""


class DatabaseUnavailableError(UnavailableError, reason="DATABASE_UNAVAILABLE"):
    """The service's database did not answer in time."""


class WatcherTooSlowError(BillingError, reason="WATCHER_TOO_SLOW"):
    """A watch was read more slowly than changes come."""


class RevisionNotReachedError(UnavailableError, reason="REVISION_NOT_REACHED"):
    """The customer stayed below the min_revision that was asked for; `metadata["revision"]` has the one that is known."""


class OverloadedError(UnavailableError, reason="OVERLOADED"):
    """A bounded queue is full."""


class FeatureNotFoundError(BillingError, reason="FEATURE_NOT_FOUND"):
    """The catalog has no feature of this key, which `metadata["feature_key"]` has."""


class AsOfNotKeptError(BillingError, reason="AS_OF_NOT_KEPT"):
    """What was answered then is not kept; `metadata["kept_since"]` says since when it is."""


class CustomerNotFoundError(BillingError, reason="CUSTOMER_NOT_FOUND"):
    """Nothing is known of this customer. Of the operators' API, as are the others up to `TooManyGrantsError`."""


class EventNotFoundError(BillingError, reason="EVENT_NOT_FOUND"):
    """No event of this id was recorded or is in quarantine."""


class GrantNotFoundError(BillingError, reason="GRANT_NOT_FOUND"):
    """No grant has this id."""


class FindingNotFoundError(BillingError, reason="FINDING_NOT_FOUND"):
    """Nothing of this kind was found about this subject."""


class ReconcileRunNotFoundError(BillingError, reason="RECONCILE_RUN_NOT_FOUND"):
    """No run of the reconciliation has this number."""


class StripeCustomerNotFoundError(BillingError, reason="STRIPE_CUSTOMER_NOT_FOUND"):
    """Stripe has no customer of this id in this mode."""


class BindingContradictedError(BillingError, reason="BINDING_CONTRADICTED"):
    """The Stripe customer is another customer's, or another deployment's; `metadata` says whose."""


class TooManyGrantsError(BillingError, reason="TOO_MANY_GRANTS"):
    """The customer has as many grants as one may have at once."""


class UnauthenticatedError(BillingError, reason="UNAUTHENTICATED"):
    """The call carries no valid credential."""


class PermissionDeniedError(BillingError, reason="PERMISSION_DENIED"):
    """The credential is known, and the method is for another role."""


class InternalError(BillingError, reason="INTERNAL"):
    """A defect of the service; its log has the details under `metadata["call_id"]`."""


class DeadlineExceededError(UnavailableError, reason="DEADLINE_EXCEEDED"):
    """The deadline passed before the work was done; the same request id is safe."""


_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


def error_of(raised: grpc.RpcError) -> BillingError:
    """Give the typed error of a failed call, sync or async."""
    code, message = _code(raised), _message(raised)
    status = rpc_status.from_call(raised) if isinstance(raised, grpc.Call | grpc.aio.AioRpcError) else None
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    for detail in status.details if status else ():
        any(detail.Unpack(known) for known in (info, retry, bad) if detail.Is(known.DESCRIPTOR))
    ours = info.domain == DOMAIN
    without = TransportError if code in _AWAY else BillingError
    made = BillingError.by_reason.get(info.reason, UnavailableError if code in _AWAY else BillingError)
    return (made if ours else without)(
        code=code,
        message=message,
        reason=info.reason if ours else "",
        metadata=dict(info.metadata),
        retry_after=retry.retry_delay.ToTimedelta() if retry.HasField("retry_delay") else None,
        violations={violation.field: violation.description for violation in bad.field_violations},
    )


def _code(raised: grpc.RpcError) -> grpc.StatusCode:
    code = raised.code() if hasattr(raised, "code") else None
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN


def _message(raised: grpc.RpcError) -> str:
    return str(raised.details() or "") if hasattr(raised, "details") else ""
