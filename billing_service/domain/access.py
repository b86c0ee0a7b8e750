"""Facts + policy -> access: what each source gives, in which state, and in which window of time.

Rules of this file:
- A window is `[start, end)`; open-ended where `end` is absent. It ends by itself: no event and no timer is needed.
- Windows are per subscription item, from the item's own period; invoices never extend one. Leeway is added only where a
  renewal is expected.
- Grace is counted once, from the first failure of an invoice that is still open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from billing_service.domain.catalog import Plan, Policy
from billing_service.domain.facts import CustomerFacts, PurchaseFacts, SubscriptionFacts
from billing_service.domain.frozen import frozen
from billing_service.domain.grant import GrantFacts
from billing_service.domain.payments import DisputeStanding
from billing_service.domain.views import InvoiceStatus, ItemView, SubscriptionStatus


class SourceType(StrEnum):
    """What kind of thing gives access."""

    DEFAULT_PLAN = "default_plan"
    SUBSCRIPTION = "subscription"
    PURCHASE = "purchase"
    GRANT = "grant"


class SourceState(StrEnum):
    """Why a source gives access now, or why not; the contract's Source.State says each in words."""

    ACTIVE = "active"
    TRIALING = "trialing"
    GRACE = "grace"
    ENDING = "ending"
    PENDING_PAYMENT = "pending_payment"
    PAYMENT_OVERDUE = "payment_overdue"
    PAUSED = "paused"
    ENDED = "ended"
    UNRESOLVED = "unresolved"
    REFUNDED = "refunded"
    DISPUTED = "disputed"
    SCHEDULED = "scheduled"


GIVING = frozenset({SourceState.ACTIVE, SourceState.TRIALING, SourceState.GRACE, SourceState.ENDING})


@frozen
class Source:
    """What gives a customer access to a plan, as it stands at one moment."""

    type: SourceType
    state: SourceState
    plan_key: str | None  # None while unresolved
    quantity: int
    stripe_id: str | None  # "si_..." or "cs_..."; None for the default plan and for grants
    stripe_subscription_id: str | None
    start_time: datetime | None
    end_time: datetime | None  # None: open-ended
    grant_id: str | None = None  # these two of a grant; sources are kept in the log, so they have defaults
    override: bool = False

    @property
    def gives(self) -> bool:
        """Whether it gives its plan at the moment for which it was made."""
        return self.state in GIVING


@frozen
class Access:
    """What a source gives over time: `state` within `[start, end)`, `after` from `end` on."""

    type: SourceType
    plan: Plan | None
    quantity: int
    stripe_id: str | None  # None for a grant
    stripe_subscription_id: str | None
    state: SourceState
    start: datetime
    end: datetime | None
    after: SourceState = SourceState.ENDED
    grant: GrantFacts | None = None

    def at(self, now: datetime) -> Source:
        """Give the source as it stands at `now`. A grant that has not begun gives nothing yet."""
        if self.grant is not None:
            return self._granted_at(self.grant, now)
        over = self.end is not None and now >= self.end
        return Source(
            type=self.type,
            state=self.after if over else self.state,
            plan_key=self.plan.plan_key if self.plan else None,
            quantity=self.quantity,
            stripe_id=self.stripe_id,
            stripe_subscription_id=self.stripe_subscription_id,
            start_time=self.start,
            end_time=self.end,
        )

    def _granted_at(self, grant: GrantFacts, now: datetime) -> Source:
        state = self.after if grant.is_over(now) else self.state
        return Source(
            type=self.type,
            state=SourceState.SCHEDULED if now < self.start and state in GIVING else state,
            plan_key=self.plan.plan_key if self.plan else None,
            quantity=self.quantity,
            stripe_id=None,
            stripe_subscription_id=None,
            start_time=self.start,
            end_time=self.end,
            grant_id=grant.grant_id,
            override=grant.override,
        )

    def next_change(self, now: datetime) -> datetime | None:
        """Say when time alone changes what it gives; None where it never does."""
        if self.grant is not None and now < self.start:
            return self.start if self.state in GIVING else None
        return self.end if self.state in GIVING and self.end is not None and now < self.end else None


class Invoice(StrEnum):
    """How the latest invoice stands, as far as access is concerned."""

    SETTLED = "paid, or there is none"
    UNKNOWN = "not known yet"
    OPEN = "open or draft"
    FAILED = "void or uncollectible after a failed payment"
    WAIVED = "void or uncollectible without a failed payment"


class Verdict(StrEnum):
    """What a row of the table says."""

    PERIOD = "until the item's period ends"
    TRIAL = "until the trial ends"
    GRACE = "for the plan's grace, from the first failure"
    POLICY = "only if the plan gives access before the payment has settled"
    PENDING = "no: the first payment is awaited"
    OVERDUE = "no: unpaid"
    PAUSED = "no: paused"
    ENDED = "no: over"


_ACTIVE: Mapping[tuple[Invoice, bool], Verdict] = {  # (the latest invoice, whether it is the first)
    (Invoice.SETTLED, True): Verdict.PERIOD,
    (Invoice.SETTLED, False): Verdict.PERIOD,
    (Invoice.UNKNOWN, True): Verdict.POLICY,
    (Invoice.UNKNOWN, False): Verdict.PERIOD,
    (Invoice.OPEN, True): Verdict.POLICY,
    (Invoice.OPEN, False): Verdict.PERIOD,
    (Invoice.FAILED, True): Verdict.OVERDUE,
    (Invoice.FAILED, False): Verdict.GRACE,
    (Invoice.WAIVED, True): Verdict.OVERDUE,
    (Invoice.WAIVED, False): Verdict.PERIOD,
}
_BY_STATUS: Mapping[SubscriptionStatus, Verdict] = {
    SubscriptionStatus.TRIALING: Verdict.TRIAL,
    SubscriptionStatus.INCOMPLETE: Verdict.PENDING,
    SubscriptionStatus.INCOMPLETE_EXPIRED: Verdict.ENDED,
    SubscriptionStatus.UNPAID: Verdict.OVERDUE,
    SubscriptionStatus.CANCELED: Verdict.ENDED,
    SubscriptionStatus.PAUSED: Verdict.PAUSED,
}


# What nearly every fold asks for, named once: see `observation`.
_SUBSCRIPTION: Final = SourceType.SUBSCRIPTION
_PURCHASE: Final = SourceType.PURCHASE
_GIVES: Final = SourceState.ACTIVE
_GIVES_UNTIL: Final = SourceState.ENDING
_OVER: Final = SourceState.ENDED
_SETTLED: Final = Invoice.SETTLED
_UNTIL_PERIOD_END: Final = Verdict.PERIOD
_IS_ACTIVE: Final = SubscriptionStatus.ACTIVE
_IS_PAID: Final = InvoiceStatus.PAID
_DEFAULT_POLICY: Final = Policy()


def verdict(status: SubscriptionStatus, invoice: Invoice, *, first: bool) -> Verdict:
    """Look up the one table: subscription status x latest invoice x first payment or renewal.

    Grace is for who has paid before: a first payment that failed gives nothing. What was overdue and is paid gives its period at
    once: the subscription's own word of it comes with another event.
    """
    if status is SubscriptionStatus.PAST_DUE:
        if invoice is _SETTLED:
            return _UNTIL_PERIOD_END
        return Verdict.OVERDUE if first else Verdict.GRACE
    return _ACTIVE[invoice, first] if status is _IS_ACTIVE else _BY_STATUS[status]


_MAY_GIVE = frozenset({Verdict.PERIOD, Verdict.TRIAL, Verdict.GRACE, Verdict.POLICY})

ResolvePlan = Callable[[str, str | None], Plan | None]  # (price id, lookup key) -> the plan that sells at it
FindPlan = Callable[[str], Plan | None]  # plan key -> plan


def accesses(facts: CustomerFacts, resolve: ResolvePlan, find: FindPlan) -> tuple[Access, ...]:
    """Give what every source of a customer gives, whatever the time is, in the order in which they began."""
    items = [
        _item_access(subscription, item, resolve(item.price_id, item.lookup_key))
        for subscription in facts.subscriptions
        for item in subscription.items
    ]
    purchases = [_purchase_access(purchase, find(purchase.plan_key)) for purchase in facts.purchases]
    grants = [_grant_access(grant, find(grant.plan_key) if grant.plan_key else None) for grant in facts.grants]
    found = [*items, *purchases, *grants]
    return tuple(found if len(found) == 1 else sorted(found, key=_order))


def _order(access: Access) -> tuple[datetime, str]:
    return access.start, access.stripe_id or (access.grant.grant_id if access.grant else "")


def _invoice(subscription: SubscriptionFacts) -> Invoice:
    if subscription.first_payment and subscription.first_payment_settled:
        return _SETTLED
    if subscription.invoice_status is _IS_PAID:
        return _SETTLED
    match subscription.invoice_status:
        case None:
            return Invoice.UNKNOWN if not subscription.invoice_known else _SETTLED
        case InvoiceStatus.DRAFT | InvoiceStatus.OPEN:
            return Invoice.OPEN
        case InvoiceStatus.VOID | InvoiceStatus.UNCOLLECTIBLE:
            has_failed = subscription.invoice_failed
            has_failed = subscription.failed_time is not None if has_failed is None else has_failed
            return Invoice.FAILED if has_failed else Invoice.WAIVED


def _item_access(subscription: SubscriptionFacts, item: ItemView, plan: Plan | None) -> Access:
    policy = plan.policy if plan else _DEFAULT_POLICY
    state, end, after = _item_window(subscription, item, policy)
    withheld = _withheld(subscription, policy)
    if withheld is not None and state in GIVING:
        state, end, after = withheld, None, withheld
    return Access(
        type=_SUBSCRIPTION,
        plan=plan,
        quantity=item.quantity,
        stripe_id=item.item_id,
        stripe_subscription_id=subscription.subscription_id,
        state=state if plan else SourceState.UNRESOLVED,
        start=_time(subscription.start),
        end=_capped(end, subscription.ended_at) if plan else None,
        after=after,
    )


def ruling_of(subscription: SubscriptionFacts, item: ItemView, policy: Policy) -> Verdict:
    """Say what the table and the plan's policy about pauses make of an item of a subscription."""
    invoice, first = _invoice(subscription), subscription.first_payment
    ruling = verdict(subscription.status, invoice, first=first)
    if ruling is Verdict.GRACE and item.item_id in subscription.paid_apart:
        ruling = _UNTIL_PERIOD_END
    if policy.access_while_paused and ruling is Verdict.PAUSED and not subscription.paused_unpaid:
        # Who never paid had nothing to pause.
        ruling = verdict(_IS_ACTIVE, invoice, first=first) if first else Verdict.PERIOD
    if subscription.collection_paused and not policy.access_while_collection_paused and ruling in _MAY_GIVE:
        ruling = Verdict.PAUSED
    return ruling


def _item_window(
    subscription: SubscriptionFacts, item: ItemView, policy: Policy
) -> tuple[SourceState, datetime | None, SourceState]:
    ruling = ruling_of(subscription, item, policy)
    if ruling is _UNTIL_PERIOD_END:
        if subscription.status is SubscriptionStatus.PAUSED and not subscription.cancel_at_period_end:
            # No period of it runs: what ends it is an event, or a cancellation.
            state = _GIVES if subscription.cancel_at is None else _GIVES_UNTIL
            return state, _capped(None, subscription.cancel_at), _OVER
        return _period(subscription, item.period_end, policy, _GIVES)
    match ruling:
        case Verdict.POLICY if policy.access_before_settled:
            return _period(subscription, item.period_end, policy, _GIVES)
        case Verdict.TRIAL:
            return _period(subscription, subscription.trial_end or item.period_end, policy, SourceState.TRIALING)
        case Verdict.GRACE:
            anchor = subscription.failed_time or subscription.due_time or item.period_start
            end = _capped(_later(_time(anchor), policy.past_due_grace), subscription.cancel_at)
            if subscription.cancel_at_period_end:
                end = _capped(end, item.period_end)
            return SourceState.GRACE, end, SourceState.PAYMENT_OVERDUE
        case _:
            state = _REFUSED[ruling]
            return state, None, state


_REFUSED: Mapping[Verdict, SourceState] = {
    Verdict.POLICY: SourceState.PENDING_PAYMENT,
    Verdict.PENDING: SourceState.PENDING_PAYMENT,
    Verdict.OVERDUE: SourceState.PAYMENT_OVERDUE,
    Verdict.PAUSED: SourceState.PAUSED,
    Verdict.ENDED: SourceState.ENDED,
}


def _withheld(facts: SubscriptionFacts | PurchaseFacts, policy: Policy) -> SourceState | None:
    """Say in which state a source gives nothing although it is paid: disputed, refunded, or its Stripe customer deleted."""
    if facts.customer_deleted:
        return SourceState.ENDED
    if isinstance(facts, PurchaseFacts) and _is_refunded(facts, policy):
        return SourceState.REFUNDED
    if facts.dispute is None:
        return None
    match facts.dispute:
        case DisputeStanding.OPEN if policy.open_dispute_suspends:
            return SourceState.DISPUTED
        case DisputeStanding.LOST if policy.lost_dispute_revokes:
            return SourceState.DISPUTED
        case _:
            return None


def _is_refunded(facts: PurchaseFacts, policy: Policy) -> bool:
    return facts.fully_refunded or (facts.refunded > 0 and policy.partial_refund_revokes)


def _period(
    subscription: SubscriptionFacts, period_end: int, policy: Policy, state: SourceState
) -> tuple[SourceState, datetime | None, SourceState]:
    """Give the window of a period or trial; flexible billing cancels by `cancel_at` alone, so both marks are read."""
    ends_with_period = subscription.cancel_at_period_end
    cancel_at = subscription.cancel_at
    if ends_with_period or (cancel_at is not None and cancel_at <= period_end):
        end = period_end if cancel_at is None else min(period_end, cancel_at)
        ending = state if state is SourceState.TRIALING else SourceState.ENDING
        return ending, _time(end), _OVER
    end_time = _capped(_later(_time(period_end), policy.period_end_leeway), cancel_at)
    return state, end_time, _OVER


def _purchase_access(purchase: PurchaseFacts, plan: Plan | None) -> Access:
    begin = purchase.paid_time
    if begin is None and plan and plan.policy.access_before_settled:
        begin = purchase.created
    duration = plan.duration if plan else None
    given = _GIVES_UNTIL if duration else _GIVES
    state = SourceState.PENDING_PAYMENT if begin is None else given
    withheld = _withheld(purchase, plan.policy) if plan else None
    state = withheld if withheld is not None and state in GIVING else state
    start = _time(purchase.created if begin is None else begin)
    return Access(
        type=_PURCHASE,
        plan=plan,
        quantity=purchase.quantity,
        stripe_id=purchase.checkout_session_id,
        stripe_subscription_id=None,
        state=state if plan else SourceState.UNRESOLVED,
        start=start,
        end=_later(start, duration) if duration and state in GIVING else None,
    )


def _grant_access(grant: GrantFacts, plan: Plan | None) -> Access:
    """Give the window of a grant. Whether the catalog has the feature of one is for the fold to say, which has the catalog."""
    given = SourceState.ACTIVE if grant.end is None else SourceState.ENDING
    return Access(
        type=SourceType.GRANT,
        plan=plan,
        quantity=grant.quantity,
        stripe_id=None,
        stripe_subscription_id=None,
        state=SourceState.UNRESOLVED if grant.plan_key and plan is None else given,
        start=grant.start,
        end=grant.end,
        grant=grant,
    )


LAST_TIME = datetime(9999, 12, 31, tzinfo=UTC)  # what the contract's Timestamp can still say


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _later(start: datetime, duration: timedelta) -> datetime:
    return start + duration if duration < LAST_TIME - start else LAST_TIME


def _capped(end: datetime | None, limit: int | None) -> datetime | None:
    if limit is None:
        return end
    return _time(limit) if end is None else min(end, _time(limit))
