"""The join: what is known of one Stripe object, and how an observation is merged into it.

Rules of this file:
- `join` is commutative, associative and idempotent: every register only moves up in a total order, facts only move to
  earlier times, and so does since when a subscription is overdue by an invoice. So neither order nor duplicates of arrival can change where an object ends.
- Two registers: the latest payload (what an event carried) and the latest read (what Stripe answered when asked).
- Absorbing states order above everything else: nothing leads out of them.
- Facts may be known before either register: a thin event carries nothing but its type. Such an object says nothing until it is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from billing_service.domain.frozen import frozen
from billing_service.domain.observation import Event, Fact, Notice, Observation, facts_of_read
from billing_service.domain.views import (
    ChargeView,
    CustomerStatus,
    DisputeStatus,
    DisputeView,
    InvoicePaymentView,
    InvoiceStatus,
    InvoiceView,
    ObjectKind,
    PaymentStatus,
    RefundStatus,
    RefundView,
    SessionStatus,
    SessionView,
    SubscriptionStatus,
    SubscriptionView,
    View,
)

# Initial states first, terminal ones last: two payloads of one second are told apart by how far along they are.
SUBSCRIPTION_RANK: Mapping[SubscriptionStatus, int] = {
    SubscriptionStatus.INCOMPLETE: 0,
    SubscriptionStatus.TRIALING: 1,
    SubscriptionStatus.ACTIVE: 1,
    SubscriptionStatus.PAST_DUE: 1,
    SubscriptionStatus.UNPAID: 1,
    SubscriptionStatus.PAUSED: 1,
    SubscriptionStatus.INCOMPLETE_EXPIRED: 2,
    SubscriptionStatus.CANCELED: 2,
}
INVOICE_RANK: Mapping[InvoiceStatus, int] = {
    InvoiceStatus.DRAFT: 0,
    InvoiceStatus.OPEN: 1,
    InvoiceStatus.UNCOLLECTIBLE: 2,
    InvoiceStatus.PAID: 3,
    InvoiceStatus.VOID: 4,
}
REFUND_RANK: Mapping[RefundStatus, int] = {
    RefundStatus.PENDING: 0,
    RefundStatus.REQUIRES_ACTION: 0,
    RefundStatus.SUCCEEDED: 1,  # and can still fail
    RefundStatus.FAILED: 2,
    RefundStatus.CANCELED: 2,
}
DISPUTE_RANK: Mapping[DisputeStatus, int] = {
    DisputeStatus.WARNING_NEEDS_RESPONSE: 0,
    DisputeStatus.WARNING_UNDER_REVIEW: 1,
    DisputeStatus.WARNING_CLOSED: 2,
    DisputeStatus.NEEDS_RESPONSE: 3,
    DisputeStatus.UNDER_REVIEW: 4,
    DisputeStatus.PREVENTED: 5,
    DisputeStatus.LOST: 5,
    DisputeStatus.APPEAL_NEEDS_RESPONSE: 6,
    DisputeStatus.APPEAL_UNDER_REVIEW: 7,
    DisputeStatus.WON: 8,
}
ABSORBING = frozenset(
    {
        SubscriptionStatus.CANCELED,
        SubscriptionStatus.INCOMPLETE_EXPIRED,
        SessionStatus.EXPIRED,
        InvoiceStatus.VOID,  # uncollectible is not: it can still be paid
        RefundStatus.FAILED,  # succeeded is not: it can fail later
        RefundStatus.CANCELED,
        CustomerStatus.DELETED,
        # Of a dispute nothing is: a lost one may be appealed.
    }
)


_PAST_DUE = SubscriptionStatus.PAST_DUE
_Register = TypeVar("_Register")
_Key = TypeVar("_Key", bound=str)


@frozen
class Payload:
    """The payload register: what the event that orders highest carried."""

    created: int
    event_id: str
    receipt: int  # drawn from the fence sequence when the event was recorded
    view: View

    @property
    def order(self) -> tuple[bool, int, int, str]:
        """The total order in which the register moves up."""
        return (is_absorbing(self.view), self.created, lifecycle_rank(self.view), self.event_id)


@frozen
class Read:
    """The read register: what Stripe answered to the request whose fence is the highest."""

    fence: int  # drawn from the sequence before the request left
    request_time: int  # the second in which the request left, by our clock
    read_time: (
        int  # the later of Stripe's clock in the answer and the payload's `created` known when the fence was drawn
    )
    view: View

    @property
    def order(self) -> tuple[bool, int]:
        """The total order in which the register moves up."""
        return (is_absorbing(self.view), self.fence)


@frozen
class ObjectState:
    """All that is known of one Stripe object."""

    object_id: str
    kind: ObjectKind
    stripe_customer_id: str | None
    payload: Payload | None
    read: Read | None
    facts: Mapping[Fact, int]
    # Of a subscription: when past due was first told while this or that invoice, by its id, was the latest.
    overdue: Mapping[str, int] | None = None

    @property
    def is_seen(self) -> bool:
        """Whether anything is known of it but facts; what is not seen has no view."""
        return self.payload is not None or self.read is not None

    @property
    def tells_of_completion(self) -> bool:
        """Whether it tells that a checkout session was completed, or what became of its payment."""
        if not self.is_seen:
            return bool(self.facts)
        return isinstance(self.view, SessionView) and self.view.status is SessionStatus.COMPLETE

    @property
    def view(self) -> View:
        """What the object is held to be, by the rule over the two registers. Raises ValueError for one that is not seen."""
        payload, read = self.payload, self.read
        if read is None:
            if payload is None:
                raise ValueError("an object that is not seen has no view")
            return payload.view
        return payload.view if payload is not None and _payload_wins(payload, read) else read.view

    @property
    def told_time(self) -> int:
        """When Stripe said what `view` says."""
        payload, read = self.payload, self.read
        if payload is None or (read is not None and not _payload_wins(payload, read)):
            return read.read_time if read is not None else 0
        return payload.created


def of_event(event: Event, observation: Observation, receipt: int) -> ObjectState:
    """Give the state that this one event would make by itself."""
    return ObjectState(
        object_id=observation.object_id,
        kind=observation.kind,
        stripe_customer_id=observation.stripe_customer_id,
        payload=Payload(created=event.created, event_id=event.event_id, receipt=receipt, view=observation.view),
        read=None,
        facts=event.facts,
        overdue=_overdue(observation.view, event.created),
    )


def of_notice(event: Event, notice: Notice) -> ObjectState:
    """Give the state that this one thin event would make by itself: facts, where its type says any, and nothing seen."""
    return ObjectState(notice.object_id, notice.kind, None, None, None, event.facts)


def of_read(
    observation: Observation,
    *,
    fence: int,
    request_time: int,
    server_time: int,
    known_created: int | None,
    was_told: bool = False,
) -> ObjectState:
    """Give the state that this one read would make by itself.

    `server_time` is the answer's Date header (0: it had none, and our own clock stands in); `known_created` the `created` of the payload known when the fence was drawn,
    and `was_told` whether anything had told by then that a checkout session was completed.
    """
    read_time = max(server_time or request_time, known_created or 0)
    return ObjectState(
        object_id=observation.object_id,
        kind=observation.kind,
        stripe_customer_id=observation.stripe_customer_id,
        payload=None,
        read=Read(fence=fence, request_time=request_time, read_time=read_time, view=observation.view),
        facts=facts_of_read(observation, read_time, was_told=was_told),
        overdue=_overdue(observation.view, read_time),
    )


def join(one: ObjectState, other: ObjectState) -> ObjectState:
    """Merge two states of one object: commutative, associative, idempotent.

    Raises:
        ValueError: they are of two objects.
    """
    if one.object_id != other.object_id or one.kind is not other.kind:
        raise ValueError("only states of one object can be joined")
    customers = [c for c in (one.stripe_customer_id, other.stripe_customer_id) if c is not None]
    return ObjectState(
        object_id=one.object_id,
        kind=one.kind,
        stripe_customer_id=min(customers, default=None),
        # The receipt breaks ties between two records of one event id, so that the order is total.
        payload=_highest(one.payload, other.payload, lambda p: (p.order, -p.receipt)),
        read=_highest(one.read, other.read, lambda r: (r.order, r.read_time)),
        facts=_earliest(one.facts, other.facts),
        overdue=_earliest(one.overdue or {}, other.overdue or {}) or None,
    )


def _overdue(view: View, time: int) -> Mapping[str, int] | None:
    if not isinstance(view, SubscriptionView) or view.status is not _PAST_DUE or view.latest_invoice_id is None:
        return None
    return {view.latest_invoice_id: time}


def _highest(one: _Register | None, other: _Register | None, order: Callable[[_Register], Any]) -> _Register | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other, key=order)


def is_absorbing(view: View) -> bool:
    """Say whether nothing leads out of the state that the view is in."""
    return view.status in ABSORBING


def lifecycle_rank(view: View) -> int:
    """Say how far along its life the object is; higher is later."""
    match view:
        case SubscriptionView():
            rank = SUBSCRIPTION_RANK[view.status]
        case InvoiceView():
            rank = INVOICE_RANK[view.status]
        case RefundView():
            rank = REFUND_RANK[view.status]
        case DisputeView():
            rank = DISPUTE_RANK[view.status]
        case SessionView():
            rank = _session_rank(view)
        case ChargeView():
            rank = int(view.amount_refunded > 0)
        case InvoicePaymentView():
            rank = int(view.status == "paid")
        case _:
            rank = int(view.status is CustomerStatus.DELETED)
    return rank


def _session_rank(view: SessionView) -> int:
    if view.status is SessionStatus.COMPLETE:
        return 1 if view.payment_status is PaymentStatus.UNPAID else 2
    return 0 if view.status is SessionStatus.OPEN else 3


def _payload_wins(payload: Payload, read: Read) -> bool:
    if is_absorbing(payload.view) or is_absorbing(read.view):
        return is_absorbing(payload.view)
    # By our own clock, which may run ahead of Stripe's; the answer's Date does not, and no request left after its answer was made.
    left = min(read.request_time, read.read_time)
    return payload.created > read.read_time or (payload.created >= left and payload.receipt > read.fence)


def _earliest(one: Mapping[_Key, int], other: Mapping[_Key, int]) -> Mapping[_Key, int]:
    if not one or not other:  # as it is for nearly every object
        return one or other
    return {key: min(times[key] for times in (one, other) if key in times) for key in sorted(one.keys() | other.keys())}
