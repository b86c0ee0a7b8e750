"""Answers to operators: domain -> protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from billing.admin.v1 import customer_pb2, event_pb2, finding_pb2, grant_pb2, reconcile_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from billing_service.domain.access import Verdict
from billing_service.domain.catalog import Policy
from billing_service.domain.explanation import Explanation, ItemFacts
from billing_service.domain.facts import PurchaseFacts
from billing_service.domain.operator import Grant, StandingGrant
from billing_service.domain.payments import DisputeStanding
from billing_service.flows.describe_customer import CustomerDescription
from billing_service.flows.fulfill import Outcome
from billing_service.flows.link_stripe_customer import Linked
from billing_service.flows.replay_on_request import ReplayedPage
from billing_service.rpc.admin_requests import FINDING_KINDS, OUTCOMES, REASONS, SCOPES
from billing_service.rpc.entitlement_wire import SOURCE_STATES, feature_value
from billing_service.rpc.responses import CAUSES, get_entitlements_response, timestamp
from billing_service.rpc.responses import source_message as source_message_of
from billing_service.storage.checkouts import Intent
from billing_service.storage.erasures import Erasure
from billing_service.storage.events import RecordedEvent
from billing_service.storage.findings import Finding
from billing_service.storage.history import RecordedChange
from billing_service.storage.quarantine import QuarantinedEvent, Reason
from billing_service.storage.reconcile_runs import RecordedRun, Run, RunState, Scope
from billing_service.storage.stripe_customers import Binding
from billing_service.storage.subscription_requests import Change

_Run = reconcile_pb2.ReconcileRun
_KINDS: Final = {kind: number for number, kind in FINDING_KINDS.items()}
_REASONS: Final = {reason: number for number, reason in REASONS.items()}
_OUTCOMES: Final = {outcome: number for number, outcome in OUTCOMES.items()}
_SCOPES: Final = {scope: number for number, scope in SCOPES.items()}
RUN_STATES: Final[Mapping[RunState, reconcile_pb2.ReconcileRun.State.ValueType]] = {
    RunState.RUNNING: _Run.STATE_RUNNING,
    RunState.STOPPED: _Run.STATE_STOPPED,
    RunState.FAILED: _Run.STATE_FAILED,
    RunState.COMPLETE: _Run.STATE_COMPLETE,
}
RULINGS: Final[Mapping[Verdict, customer_pb2.Ruling.ValueType]] = {
    Verdict.PERIOD: customer_pb2.RULING_PERIOD,
    Verdict.TRIAL: customer_pb2.RULING_TRIAL,
    Verdict.GRACE: customer_pb2.RULING_GRACE,
    Verdict.POLICY: customer_pb2.RULING_POLICY,
    Verdict.PENDING: customer_pb2.RULING_PENDING,
    Verdict.OVERDUE: customer_pb2.RULING_OVERDUE,
    Verdict.PAUSED: customer_pb2.RULING_PAUSED,
    Verdict.ENDED: customer_pb2.RULING_ENDED,
}
DISPUTES: Final[Mapping[DisputeStanding | None, customer_pb2.DisputeStanding.ValueType]] = {
    None: customer_pb2.DISPUTE_STANDING_UNSPECIFIED,
    DisputeStanding.OPEN: customer_pb2.DISPUTE_STANDING_OPEN,
    DisputeStanding.LOST: customer_pb2.DISPUTE_STANDING_LOST,
}


def customer_response(known: CustomerDescription) -> customer_pb2.GetCustomerResponse:
    """Convert all that is known of a customer."""
    grants = {grant.facts.grant_id: grant for grant in known.grants}
    intents = [*map(_checkout, known.intents), *map(_change, known.changes)]
    customer = customer_pb2.Customer(
        customer_id=known.entitlements.customer_id,
        entitlements=get_entitlements_response(known.entitlements),
        explanations=[_explanation(one, grants) for one in known.explanations],
        stripe_bindings=[_binding(one) for one in known.bindings],
        open_intents=sorted(intents, key=lambda one: one.create_time.ToNanoseconds(), reverse=True),
        findings=[finding(one) for one in known.findings],
        erase_time=timestamp(known.erasure.request_time if known.erasure else None),
        create_time=timestamp(known.create_time),
    )
    return customer_pb2.GetCustomerResponse(customer=customer)


def _explanation(one: Explanation, grants: Mapping[str, Grant]) -> customer_pb2.SourceExplanation:
    message = customer_pb2.SourceExplanation(
        source=source_message_of(one.source),
        ruling=customer_pb2.RULING_UNSPECIFIED if one.ruling is None else RULINGS[one.ruling],
        policy=None if one.policy is None else _policy(one.policy),
    )
    if isinstance(one.facts, ItemFacts):
        message.subscription_item.CopyFrom(_item(one.facts))
    elif isinstance(one.facts, PurchaseFacts):
        message.purchase.CopyFrom(_purchase(one.facts))
    elif (found := grants.get(one.facts.grant_id)) is not None:
        message.grant.CopyFrom(grant(StandingGrant(found, one.source.state)))
    return message


def _policy(policy: Policy) -> customer_pb2.Policy:
    return customer_pb2.Policy(
        past_due_grace=_duration(policy.past_due_grace),
        period_end_leeway=_duration(policy.period_end_leeway),
        access_before_settled=policy.access_before_settled,
        access_while_paused=policy.access_while_paused,
        access_while_collection_paused=policy.access_while_collection_paused,
        partial_refund_revokes=policy.partial_refund_revokes,
        open_dispute_suspends=policy.open_dispute_suspends,
        lost_dispute_revokes=policy.lost_dispute_revokes,
    )


def _duration(span: timedelta) -> Duration:
    message = Duration()
    message.FromTimedelta(span)
    return message


def _item(facts: ItemFacts) -> customer_pb2.SubscriptionItemFacts:
    subscription, item = facts.subscription, facts.item
    return customer_pb2.SubscriptionItemFacts(
        stripe_subscription_id=subscription.subscription_id,
        status=subscription.status.value,
        start_time=_seconds(subscription.start),
        cancel_time=_seconds(subscription.cancel_at),
        cancel_at_period_end=subscription.cancel_at_period_end,
        ended_time=_seconds(subscription.ended_at),
        trial_end_time=_seconds(subscription.trial_end),
        latest_invoice_status=subscription.invoice_status.value if subscription.invoice_status else "",
        latest_invoice_known=subscription.invoice_known,
        first_payment=subscription.first_payment,
        first_failure_time=_seconds(subscription.failed_time),
        due_time=_seconds(subscription.due_time),
        collection_paused=subscription.collection_paused,
        dispute=DISPUTES[subscription.dispute],
        stripe_customer_deleted=subscription.customer_deleted,
        stripe_item_id=item.item_id,
        stripe_price_id=item.price_id,
        lookup_key=item.lookup_key or "",
        quantity=item.quantity,
        period_start_time=_seconds(item.period_start),
        period_end_time=_seconds(item.period_end),
    )


def _purchase(facts: PurchaseFacts) -> customer_pb2.PurchaseFacts:
    return customer_pb2.PurchaseFacts(
        checkout_session_id=facts.checkout_session_id,
        plan_key=facts.plan_key,
        quantity=facts.quantity,
        session_create_time=_seconds(facts.created),
        paid_time=_seconds(facts.paid_time),
        refunded_amount_minor=facts.refunded,
        fully_refunded=facts.fully_refunded,
        dispute=DISPUTES[facts.dispute],
        stripe_customer_deleted=facts.customer_deleted,
    )


def _binding(binding: Binding) -> customer_pb2.StripeBinding:
    return customer_pb2.StripeBinding(
        stripe_customer_id=binding.stripe_customer_id,
        bind_time=timestamp(binding.bind_time),
        current=binding.current,
    )


def _checkout(intent: Intent) -> customer_pb2.OpenIntent:
    return customer_pb2.OpenIntent(
        kind=customer_pb2.OpenIntent.KIND_CHECKOUT,
        intent_id=str(intent.intent_id),
        state=intent.state.value,
        plan_key=intent.plan_key,
        checkout_session_id=intent.checkout_session_id or "",
        create_time=timestamp(intent.create_time),
        expire_time=timestamp(intent.expire_time),
    )


def _change(change: Change) -> customer_pb2.OpenIntent:
    return customer_pb2.OpenIntent(
        kind=customer_pb2.OpenIntent.KIND_SUBSCRIPTION_CHANGE,
        intent_id=str(change.intent_id),
        state=change.state.value,
        stripe_subscription_id=change.subscription_id,
        operation=change.operation.value,
        create_time=timestamp(change.create_time),
    )


def changes_response(
    changes: Iterable[RecordedChange], next_page_token: str
) -> customer_pb2.ListEntitlementChangesResponse:
    """Convert a page of changes."""
    return customer_pb2.ListEntitlementChangesResponse(
        changes=[
            customer_pb2.EntitlementChange(
                revision=one.after.revision,
                change_time=timestamp(one.change_time),
                cause=CAUSES[one.cause.kind],
                cause_id=one.cause.cause_id or "",
                before=get_entitlements_response(one.before),
                after=get_entitlements_response(one.after),
            )
            for one in changes
        ],
        next_page_token=next_page_token,
    )


def grant(standing: StandingGrant) -> grant_pb2.Grant:
    """Convert a grant as it stands."""
    one, facts = standing.grant, standing.grant.facts
    message = grant_pb2.Grant(
        grant_id=facts.grant_id,
        customer_id=one.customer_id,
        mode=grant_pb2.Grant.MODE_OVERRIDE if facts.override else grant_pb2.Grant.MODE_ADD,
        start_time=timestamp(facts.start),
        expire_time=timestamp(facts.end),
        actor=one.actor,
        reason=one.reason,
        create_time=timestamp(one.create_time),
        revoke_time=timestamp(one.revoke_time),
        revoke_actor=one.revoke_actor or "",
        revoke_reason=one.revoke_reason or "",
        identity=one.identity or "",
        revoke_identity=one.revoke_identity or "",
        state=SOURCE_STATES[standing.state],
    )
    if facts.plan_key is not None:
        message.plan.plan_key, message.plan.quantity = facts.plan_key, facts.quantity
    else:
        message.feature.feature_key = facts.feature_key or ""
        message.feature.value.CopyFrom(feature_value(facts.feature_value))
    return message


def link_response(linked: Linked) -> customer_pb2.LinkStripeCustomerResponse:
    """Convert the binding that was made."""
    return customer_pb2.LinkStripeCustomerResponse(
        stripe_binding=_binding(Binding(linked.stripe_customer_id, linked.bind_time, linked.current)),
        revision=linked.revision,
        replaced_customer_id=linked.replaced_customer_id or "",
    )


def erasure_response(erasure: Erasure) -> customer_pb2.EraseCustomerResponse:
    """Convert how far an erasing has come."""
    kinds = customer_pb2.Erasure
    return customer_pb2.EraseCustomerResponse(
        erasure=customer_pb2.Erasure(
            customer_id=erasure.customer_id,
            state=kinds.STATE_RUNNING if erasure.done_time is None else kinds.STATE_DONE,
            request_time=timestamp(erasure.request_time),
            done_time=timestamp(erasure.done_time),
            event_bodies=erasure.event_bodies,
            quarantined_events=erasure.quarantined_events,
            checkout_bodies=erasure.checkout_bodies,
            stripe_customer_body=erasure.stripe_customer_body,
            reasons=erasure.reasons,
        )
    )


def event(one: RecordedEvent) -> event_pb2.Event:
    """Convert a recorded event."""
    return event_pb2.Event(
        event_id=one.event_id,
        type=one.type,
        event_create_time=_seconds(one.created),
        api_version=one.api_version or "",
        object_id=one.object_id or "",
        livemode=one.livemode,
        outcome=event_pb2.Event.Outcome.ValueType(_OUTCOMES[one.outcome]),
        receive_time=timestamp(one.receive_time),
        body_bytes=one.body_bytes,
    )


def quarantined(one: QuarantinedEvent) -> event_pb2.QuarantinedEvent:
    """Convert an event in quarantine."""
    return event_pb2.QuarantinedEvent(
        event_key=one.event_key,
        reason=event_pb2.QuarantinedEvent.Reason.ValueType(_REASONS[one.reason]),
        detail=one.detail,
        attempts=one.attempts,
        create_time=timestamp(one.create_time),
        update_time=timestamp(one.update_time),
        discard_time=timestamp(one.discard_time),
    )


def event_response(one: RecordedEvent | QuarantinedEvent, body: bytes) -> event_pb2.GetEventResponse:
    """Convert one event with its body."""
    if isinstance(one, RecordedEvent):
        return event_pb2.GetEventResponse(event=event(one), body=body)
    return event_pb2.GetEventResponse(quarantined_event=quarantined(one), body=body)


def quarantine_response(
    found: Iterable[QuarantinedEvent], next_page_token: str, counts: Mapping[Reason, int]
) -> event_pb2.ListQuarantinedEventsResponse:
    """Convert a page of the quarantine, and how many there are of each reason."""
    return event_pb2.ListQuarantinedEventsResponse(
        quarantined_events=[quarantined(one) for one in found],
        next_page_token=next_page_token,
        counts=[
            event_pb2.QuarantineCount(
                reason=event_pb2.QuarantinedEvent.Reason.ValueType(number), count=counts.get(reason, 0)
            )
            for number, reason in sorted(REASONS.items())
        ],
    )


def replay_response(page: ReplayedPage, next_page_token: str) -> event_pb2.ReplayEventsResponse:
    """Convert what became of events that were replayed."""
    outcomes = page.outcomes
    return event_pb2.ReplayEventsResponse(
        replayed=sum(outcomes.values()),
        applied=outcomes.get(Outcome.APPLIED, 0),
        parked=outcomes.get(Outcome.PARKED, 0),
        duplicate=outcomes.get(Outcome.DUPLICATE, 0),
        ignored=outcomes.get(Outcome.IGNORED, 0),
        not_ours=outcomes.get(Outcome.NOT_OURS, 0),
        failed=outcomes.get(Outcome.QUARANTINED, 0),
        next_page_token=next_page_token,
    )


def finding(one: Finding) -> finding_pb2.Finding:
    """Convert a finding."""
    message = finding_pb2.Finding(
        kind=finding_pb2.Finding.Kind.ValueType(_KINDS[one.kind]),
        subject=one.subject,
        customer_id=one.customer_id or "",
        create_time=timestamp(one.create_time),
        update_time=timestamp(one.update_time),
        close_time=timestamp(one.close_time),
    )
    message.detail.update(dict(one.detail))
    return message


def run(one: Run, recorded: RecordedRun | None = None) -> reconcile_pb2.ReconcileRun:
    """Convert a run; when it was recorded, where that was asked."""
    of_events = one.scope is Scope.EVENTS
    return reconcile_pb2.ReconcileRun(
        run_id=one.run_id,
        scope=reconcile_pb2.ReconcileRun.Scope.ValueType(_SCOPES[one.scope]),
        state=RUN_STATES[one.state],
        start_time=_seconds(one.since) if of_events else None,
        end_time=_seconds(one.until),
        done_until_time=_seconds(one.done_until) if of_events else None,
        position=one.position,
        found=one.found,
        repaired=one.repaired,
        failed=one.failed,
        drift=one.drift,
        denied=one.denied,
        create_time=timestamp(recorded.create_time) if recorded else None,
        update_time=timestamp(recorded.update_time) if recorded else None,
    )


def runs_response(found: Sequence[RecordedRun], next_page_token: str) -> reconcile_pb2.ListReconcileRunsResponse:
    """Convert a page of runs."""
    return reconcile_pb2.ListReconcileRunsResponse(
        runs=[run(one.run, one) for one in found], next_page_token=next_page_token
    )


def _seconds(moment: int | None) -> Timestamp | None:
    return None if moment is None else timestamp(datetime.fromtimestamp(moment, UTC))
