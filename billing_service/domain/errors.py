"""The one tree of errors that callers can meet: each class has one reason of the contract.

`rpc/status.py` is the only place that turns them into gRPC statuses. A message here is read by callers: it says what to
do, and carries neither secrets, nor personal data, nor anything of our insides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self


class BillingError(Exception):
    """The service could not do what was asked; see the reason."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str | None = None, *, metadata: Mapping[str, str] | None = None) -> None:
        """Take a message (default: the class's docstring) and what ErrorInfo.metadata is to carry."""
        self.message = message or (type(self).__doc__ or "").strip()
        self.metadata: dict[str, str] = dict(metadata or {})
        super().__init__(self.message)

    def with_metadata(self, **more: str) -> Self:
        """Give the same error with more to carry. This one stays as it is: many callers may have been given it."""
        other = type(self).__new__(type(self), *self.args)
        other.__dict__.update({**self.__dict__, "metadata": {**self.metadata, **more}})
        return other


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that does not hold, and what to do about it."""

    field: str
    description: str


class InvalidFieldsError(BillingError):
    """Fields of the request do not hold."""

    reason = "INVALID_FIELDS"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        """Take every violation at once, so that a caller can mend them in one go."""
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))


class FeatureNotFoundError(InvalidFieldsError):
    """The catalog has no feature of this key."""

    reason = "FEATURE_NOT_FOUND"

    def __init__(self, field: str, feature_key: str) -> None:
        """Take the field of the request, and the key in it."""
        super().__init__(
            [FieldViolation(field, "is not a feature of the catalog; ListPlans names those that plans give")]
        )
        self.metadata["feature_key"] = feature_key


class AsOfNotKeptError(BillingError):
    """What was answered then is not kept; the history begins later."""

    reason = "AS_OF_NOT_KEPT"


class NotFoundError(BillingError):
    """A named resource does not exist."""

    resource_type: ClassVar[str] = "resource"

    def __init__(self, resource_name: str, message: str | None = None) -> None:
        """Take the name by which the caller asked."""
        self.resource_name = resource_name
        super().__init__(message or f"{self.resource_type} {resource_name!r} does not exist")


class PlanNotFoundError(NotFoundError):
    """No plan has this key."""

    reason = "PLAN_NOT_FOUND"
    resource_type = "plan"


class PriceNotFoundError(NotFoundError):
    """The plan has no price of this key."""

    reason = "PRICE_NOT_FOUND"
    resource_type = "price"


class CheckoutSessionNotFoundError(NotFoundError):
    """No checkout session of ours has this id."""

    reason = "CHECKOUT_SESSION_NOT_FOUND"
    resource_type = "checkout_session"


class SubscriptionNotFoundError(NotFoundError):
    """The customer has no subscription of this id."""

    reason = "SUBSCRIPTION_NOT_FOUND"
    resource_type = "subscription"


class EventNotFoundError(NotFoundError):
    """No event of this id was recorded or is in quarantine."""

    reason = "EVENT_NOT_FOUND"
    resource_type = "event"


class GrantNotFoundError(NotFoundError):
    """No grant has this id."""

    reason = "GRANT_NOT_FOUND"
    resource_type = "grant"


class FindingNotFoundError(NotFoundError):
    """Nothing of this kind was found about this subject."""

    reason = "FINDING_NOT_FOUND"
    resource_type = "finding"


class ReconcileRunNotFoundError(NotFoundError):
    """No run of the reconciliation has this number."""

    reason = "RECONCILE_RUN_NOT_FOUND"
    resource_type = "reconcile_run"


class CustomerNotFoundError(NotFoundError):
    """Nothing is known of this customer."""

    reason = "CUSTOMER_NOT_FOUND"
    resource_type = "customer"


class StripeCustomerNotFoundError(NotFoundError):
    """Stripe has no customer of this id."""

    reason = "STRIPE_CUSTOMER_NOT_FOUND"
    resource_type = "stripe_customer"


class BindingContradictedError(BillingError):
    """The Stripe customer is somebody else's, as far as is known; look at it, and replace the binding where it is wrong."""

    reason = "BINDING_CONTRADICTED"


class TooManyGrantsError(BillingError):
    """The customer has as many grants as one may have at once; revoke those that are not needed."""

    reason = "TOO_MANY_GRANTS"


class RequestIdReusedError(BillingError):
    """The request_id was used before with other parameters; use a new one for a new request."""

    reason = "REQUEST_ID_REUSED"


class AlreadySubscribedError(BillingError):
    """The customer holds a live subscription of this plan group; change that one instead of buying a second."""

    reason = "ALREADY_SUBSCRIBED"


class PlanNotForSaleError(BillingError):
    """The plan costs nothing and cannot be bought."""

    reason = "PLAN_NOT_FOR_SALE"


class PriceNotAvailableError(BillingError):
    """Stripe has no active price with the plan's lookup key; the operator must create or activate one."""

    reason = "PRICE_NOT_AVAILABLE"


class CheckoutSupersededError(BillingError):
    """A later request for the same plan group replaced this one; use a new request_id if it is still wanted."""

    reason = "CHECKOUT_SUPERSEDED"


class SubscriptionNotLiveError(BillingError):
    """The subscription is over, or never began; sell a new one."""

    reason = "SUBSCRIPTION_NOT_LIVE"


class SubscriptionEndingError(BillingError):
    """The subscription is to end with its period; resume it first."""

    reason = "SUBSCRIPTION_ENDING"


class SubscriptionPausedError(BillingError):
    """The subscription is paused; resume it first."""

    reason = "SUBSCRIPTION_PAUSED"


class SubscriptionUnpaidError(BillingError):
    """The period that runs is not paid; a change now would credit what was never paid. Pay first, or change at its end."""

    reason = "SUBSCRIPTION_UNPAID"


class SubscriptionChangePendingError(BillingError):
    """Something that was set up elsewhere waits to change the subscription at Stripe; it has to be settled there first."""

    reason = "SUBSCRIPTION_CHANGE_PENDING"


class PlanGroupMismatchError(BillingError):
    """The subscription holds no plan that can be changed to this one."""

    reason = "PLAN_GROUP_MISMATCH"


class CustomerUnknownToStripeError(BillingError):
    """Stripe knows of no such customer; they have never begun to buy."""

    reason = "CUSTOMER_UNKNOWN_TO_STRIPE"


class PaymentFailedError(BillingError):
    """The payment failed and nothing was changed; have the person replace the payment method."""

    reason = "PAYMENT_FAILED"


class SubscriptionChangeSupersededError(BillingError):
    """A later request changed the same subscription; use a new request_id if this change is still wanted."""

    reason = "SUBSCRIPTION_CHANGE_SUPERSEDED"


class RequestInProgressError(BillingError):
    """A call with the same effect is being carried out right now; call again with the same request_id."""

    reason = "REQUEST_IN_PROGRESS"


class StripeRefusedError(BillingError):
    """Stripe refused the request; calling again does not change that, and the operator's log says why."""

    reason = "STRIPE_REFUSED"


class UnavailableError(BillingError):
    """Something that the service needs is away; come again."""

    retry_after_s: float = 1.0


class StripeUnavailableError(UnavailableError):
    """Stripe does not answer; call again, with the same request_id where the call has one."""

    reason = "STRIPE_UNAVAILABLE"
    retry_after_s = 2.0


class DatabaseUnavailableError(UnavailableError):
    """The database does not answer; call again, with the same request_id where the call has one."""

    reason = "DATABASE_UNAVAILABLE"


class RevisionNotReachedError(UnavailableError):
    """The customer has not reached this revision here; come again, or ask without it."""

    reason = "REVISION_NOT_REACHED"


class OverloadedError(UnavailableError):
    """A bounded queue is full; come again a little later."""

    reason = "OVERLOADED"


class WatcherTooSlowError(BillingError):
    """The caller reads a watch more slowly than changes come; open it again with the last cursor."""

    reason = "WATCHER_TOO_SLOW"


class UnauthenticatedError(BillingError):
    """The call shows nothing by which the caller is known; send "authorization: Bearer <token>", or use your certificate."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(BillingError):
    """The caller is known, and this method is for another role; the operator decides who has which."""

    reason = "PERMISSION_DENIED"
