"""Requests of operators: protobuf -> domain, every rule of the contract's comments checked, every violation reported at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, Protocol, TypeAlias

from billing.admin.v1 import customer_pb2, event_pb2, finding_pb2, grant_pb2, operator_request_pb2, reconcile_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from structlog.contextvars import bind_contextvars

from billing_service.domain.operator import GrantWish, Order
from billing_service.flows.link_stripe_customer import LinkWish
from billing_service.flows.reconcile_on_request import ReconcileWish, Wanted
from billing_service.flows.replay_on_request import ReplayWish
from billing_service.rpc import field_rules, pages
from billing_service.rpc.guard import caller
from billing_service.rpc.requests import Problems, refuse
from billing_service.storage import findings
from billing_service.storage.events import Filter, Place, RecordedOutcome
from billing_service.storage.findings import FindingKind
from billing_service.storage.quarantine import Reason
from billing_service.storage.reconcile_runs import Scope

MAX_CHANGES: Final = 100  # a change has the whole of what a customer had, twice
DEFAULT_CHANGES: Final = 20
MAX_DAYS_AHEAD: Final = 3_653  # days ahead: ten years
_LOGGED_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")  # no e-mail address has this form, nor a sentence
_Kind = finding_pb2.Finding
_Reason = event_pb2.QuarantinedEvent
_Run = reconcile_pb2.ReconcileRun

FINDING_KINDS: Final[Mapping[int, FindingKind]] = {
    _Kind.KIND_BOUGHT_TWICE: FindingKind.BOUGHT_TWICE,
    _Kind.KIND_BINDING_CONTRADICTED: FindingKind.BINDING_CONTRADICTED,
    _Kind.KIND_DRIFT: FindingKind.DRIFT,
    _Kind.KIND_DENIED_BY_STRIPE: FindingKind.DENIED_BY_STRIPE,
    _Kind.KIND_FINALIZATION_FAILED: FindingKind.FINALIZATION_FAILED,
}
REASONS: Final[Mapping[int, Reason]] = {
    _Reason.REASON_MALFORMED: Reason.MALFORMED,
    _Reason.REASON_UNWRITABLE: Reason.UNWRITABLE,
    _Reason.REASON_IGNORED: Reason.IGNORED,
}
OUTCOMES: Final[Mapping[int, RecordedOutcome]] = {
    event_pb2.Event.OUTCOME_APPLIED: RecordedOutcome.APPLIED,
    event_pb2.Event.OUTCOME_IGNORED: RecordedOutcome.IGNORED,
    event_pb2.Event.OUTCOME_NOT_OURS: RecordedOutcome.NOT_OURS,
}
SCOPES: Final[Mapping[int, Scope]] = {
    _Run.SCOPE_EVENTS: Scope.EVENTS,
    _Run.SCOPE_SUBSCRIPTIONS: Scope.SUBSCRIPTIONS,
    _Run.SCOPE_PURCHASES: Scope.PURCHASES,
    _Run.SCOPE_CUSTOMER: Scope.CUSTOMER,
}
WANTED: Final[Mapping[int, Wanted]] = {
    _Run.SCOPE_EVENTS: Wanted.EVENTS,
    _Run.SCOPE_SUBSCRIPTIONS: Wanted.SUBSCRIPTIONS,
    _Run.SCOPE_PURCHASES: Wanted.PURCHASES,
    _Run.SCOPE_CUSTOMER: Wanted.CUSTOMER,
    _Run.SCOPE_EVERYTHING: Wanted.EVERYTHING,
}


class Ordered(Protocol):
    """A mutation: it says who asks, and why."""

    request_id: str
    actor: str
    reason: str


def order(message: Ordered) -> Order:
    """Give who asks and why; checked with the rest of the request. The log line of the call has the request's id."""
    if _LOGGED_ID.fullmatch(message.request_id):
        bind_contextvars(request_id=message.request_id)
    return Order(message.request_id, message.actor, message.reason, caller())


def _order_problems(message: Ordered) -> Problems:
    yield "request_id", field_rules.request_id_problem(message.request_id)
    yield "actor", field_rules.actor_problem(message.actor)
    yield "reason", field_rules.reason_problem(message.reason)


def customer_id(message: customer_pb2.GetCustomerRequest) -> str:
    """Read a GetCustomerRequest. Raises InvalidFieldsError with every field that breaks a rule, as all of these do."""
    refuse(iter([("customer_id", field_rules.customer_id_problem(message.customer_id))]))
    return message.customer_id


def changes_page(message: customer_pb2.ListEntitlementChangesRequest) -> tuple[str, int | None, int]:
    """Read a ListEntitlementChangesRequest: the customer, the place, and how many."""

    def problems() -> Problems:
        yield "customer_id", field_rules.customer_id_problem(message.customer_id)
        yield from pages.problems(message, int, MAX_CHANGES)

    refuse(problems())
    return message.customer_id, pages.place(message, int), pages.size(message, DEFAULT_CHANGES)


def grant_wish(message: grant_pb2.CreateGrantRequest, now: datetime) -> GrantWish:
    """Read a CreateGrantRequest. Whether plan, feature and value are the catalog's is not looked at here."""
    refuse(_grant_problems(message, now))
    is_plan = message.HasField("plan")
    return GrantWish(
        customer_id=message.customer_id,
        override=message.mode == grant_pb2.Grant.MODE_OVERRIDE,
        start=time_of(message.start_time) if message.HasField("start_time") else None,
        end=time_of(message.expire_time) if message.HasField("expire_time") else None,
        plan_key=message.plan.plan_key if is_plan else None,
        quantity=message.plan.quantity if is_plan and message.plan.HasField("quantity") else 1,
        feature_key=None if is_plan else message.feature.feature_key,
        value=None if is_plan else _value(message.feature),
    )


def _grant_problems(message: grant_pb2.CreateGrantRequest, now: datetime) -> Problems:
    yield from _order_problems(message)
    yield "customer_id", field_rules.customer_id_problem(message.customer_id)
    known = {grant_pb2.Grant.MODE_ADD, grant_pb2.Grant.MODE_OVERRIDE}
    yield "mode", None if message.mode in known else "must be MODE_ADD or MODE_OVERRIDE"
    match message.WhichOneof("given"):
        case "plan":
            yield "plan.plan_key", field_rules.key_problem(message.plan.plan_key)
            if message.plan.HasField("quantity"):
                yield "plan.quantity", field_rules.quantity_problem(message.plan.quantity)
        case "feature":
            yield "feature.feature_key", field_rules.key_problem(message.feature.feature_key)
            yield "feature.value", _value_problem(message.feature)
        case _:
            yield "given", "must have a plan or a feature"
    yield from time_problems(message, "start_time", "expire_time")
    start = time_of(message.start_time) if message.HasField("start_time") else None
    if start is not None and (start - now).days >= MAX_DAYS_AHEAD:
        yield "start_time", "must be at most ten years ahead"


def _value_problem(feature: grant_pb2.GrantedFeature) -> str | None:
    match feature.value.WhichOneof("kind"):
        case None:
            return "must have a value"
        case "unlimited":
            return None if feature.value.unlimited else "must be true where it is there"
        case "integer_value":
            return None if feature.value.integer_value >= 0 else "must not be negative"
        case "text_value":
            return field_rules.text_value_problem(feature.value.text_value)
        case _:
            return None


def _value(feature: grant_pb2.GrantedFeature) -> bool | int | str | None:
    match feature.value.WhichOneof("kind"):
        case "bool_value":
            return feature.value.bool_value
        case "integer_value":
            return feature.value.integer_value
        case "text_value":
            return feature.value.text_value
        case _:
            return None


def revoked_grant(message: grant_pb2.RevokeGrantRequest) -> str:
    """Read a RevokeGrantRequest: the grant."""

    def problems() -> Problems:
        yield from _order_problems(message)
        yield "grant_id", field_rules.grant_id_problem(message.grant_id)

    refuse(problems())
    return message.grant_id


def grants_page(message: grant_pb2.ListGrantsRequest) -> tuple[str | None, tuple[datetime, str] | None, int]:
    """Read a ListGrantsRequest: whose, the place, and how many."""

    def problems() -> Problems:
        if message.HasField("customer_id"):
            yield "customer_id", field_rules.customer_id_problem(message.customer_id)
        yield from pages.problems(message, tuple[datetime, str])

    refuse(problems())
    whose = message.customer_id if message.HasField("customer_id") else None
    return whose, pages.place(message, tuple[datetime, str]), pages.size(message)


def link_wish(message: customer_pb2.LinkStripeCustomerRequest) -> LinkWish:
    """Read a LinkStripeCustomerRequest."""

    def problems() -> Problems:
        yield from _order_problems(message)
        yield "customer_id", field_rules.customer_id_problem(message.customer_id)
        yield "stripe_customer_id", field_rules.stripe_customer_id_problem(message.stripe_customer_id)

    refuse(problems())
    return LinkWish(message.customer_id, message.stripe_customer_id, message.replace)


def erased_customer(message: customer_pb2.EraseCustomerRequest) -> str:
    """Read an EraseCustomerRequest: the customer."""

    def problems() -> Problems:
        yield from _order_problems(message)
        yield "customer_id", field_rules.customer_id_problem(message.customer_id)

    refuse(problems())
    return message.customer_id


def events_page(message: event_pb2.ListEventsRequest) -> tuple[Filter, str | None, Place | None, int]:
    """Read a ListEventsRequest: the filter, whose, the place, and how many."""
    refuse(_events_problems(message))
    chosen = Filter(
        object_ids=frozenset({message.object_id}) if message.HasField("object_id") else None,
        type=message.type if message.HasField("type") else None,
        outcome=OUTCOMES.get(message.outcome),
        start=time_of(message.start_time) if message.HasField("start_time") else None,
        end=time_of(message.end_time) if message.HasField("end_time") else None,
    )
    whose = message.customer_id if message.HasField("customer_id") else None
    return chosen, whose, pages.place(message, tuple[datetime, str]), pages.size(message)


def _events_problems(message: event_pb2.ListEventsRequest) -> Problems:
    if message.HasField("customer_id"):
        yield "customer_id", field_rules.customer_id_problem(message.customer_id)
    for name in ("type", "object_id"):
        if message.HasField(name):
            yield name, field_rules.key_problem(getattr(message, name))
    yield "outcome", None if message.outcome in {0, *OUTCOMES} else "must be an outcome of the contract"
    yield from time_problems(message, "start_time", "end_time")
    yield from pages.problems(message, tuple[datetime, str])


def event_id(message: event_pb2.GetEventRequest) -> str:
    """Read a GetEventRequest: the event."""
    refuse(iter([("event_id", field_rules.event_key_problem(message.event_id))]))
    return message.event_id


def quarantine_page(
    message: event_pb2.ListQuarantinedEventsRequest,
) -> tuple[frozenset[Reason], tuple[datetime, str] | None, int]:
    """Read a ListQuarantinedEventsRequest: the reasons, the place, and how many."""

    def problems() -> Problems:
        yield "reason", None if message.reason in {0, *REASONS} else "must be a reason of the contract"
        yield from pages.problems(message, tuple[datetime, str])

    refuse(problems())
    reasons = frozenset({REASONS[message.reason]}) if message.reason else frozenset(Reason)
    return reasons, pages.place(message, tuple[datetime, str]), pages.size(message)


def replay_wish(message: event_pb2.ReplayEventsRequest) -> ReplayWish:
    """Read a ReplayEventsRequest."""

    def problems() -> Problems:
        yield from _order_problems(message)
        yield from _which_problems(message)

    refuse(problems())
    one = message.HasField("event_key")
    return ReplayWish(
        event_key=message.event_key if one else None,
        reason=None if one else REASONS[message.quarantine_reason],
        after=_replay_place(message) or "",
        most=pages.size(message, pages.MAX_PAGE),
    )


def _which_problems(message: event_pb2.ReplayEventsRequest) -> Problems:
    match message.WhichOneof("which"):
        case "event_key":
            yield "event_key", field_rules.event_key_problem(message.event_key)
        case "quarantine_reason":
            known = message.quarantine_reason in REASONS
            yield "quarantine_reason", None if known else "must be a reason of the contract"
        case _:
            yield "which", "must have an event_key or a quarantine_reason"
    yield from pages.problems(_asked_again(message), str)


def _replay_place(message: event_pb2.ReplayEventsRequest) -> str | None:
    return pages.place(_asked_again(message), str)


def _asked_again(message: event_pb2.ReplayEventsRequest) -> event_pb2.ReplayEventsRequest:
    """Give the request without what is another in each page: its id, and who asks and why."""
    copy = event_pb2.ReplayEventsRequest()
    copy.CopyFrom(message)
    copy.ClearField("request_id")
    copy.ClearField("actor")
    copy.ClearField("reason")
    return copy


def replay_token(message: event_pb2.ReplayEventsRequest, last: str | None) -> str:
    """Give the token that leads on from the last key that was tried."""
    return pages.token(_asked_again(message), last)


def discarded_event(message: event_pb2.DiscardQuarantinedEventRequest) -> str:
    """Read a DiscardQuarantinedEventRequest: the event's key."""

    def problems() -> Problems:
        yield from _order_problems(message)
        yield "event_key", field_rules.event_key_problem(message.event_key)

    refuse(problems())
    return message.event_key


def findings_page(
    message: finding_pb2.ListFindingsRequest,
) -> tuple[FindingKind | None, str | None, findings.Place | None, int]:
    """Read a ListFindingsRequest: the kind, whose, the place, and how many."""

    def problems() -> Problems:
        yield "kind", None if message.kind in {0, *FINDING_KINDS} else "must be a kind of the contract"
        if message.HasField("customer_id"):
            yield "customer_id", field_rules.customer_id_problem(message.customer_id)
        yield from pages.problems(message, findings.Place)

    refuse(problems())
    whose = message.customer_id if message.HasField("customer_id") else None
    return FINDING_KINDS.get(message.kind), whose, pages.place(message, findings.Place), pages.size(message)


def closed_finding(message: finding_pb2.CloseFindingRequest) -> tuple[FindingKind, str]:
    """Read a CloseFindingRequest: what names the finding."""

    def problems() -> Problems:
        yield from _order_problems(message)
        yield "kind", None if message.kind in FINDING_KINDS else "must be a kind of the contract"
        yield "subject", field_rules.subject_problem(message.subject)

    refuse(problems())
    return FINDING_KINDS[message.kind], message.subject


def reconcile_wish(message: reconcile_pb2.ReconcileRequest, now: datetime) -> ReconcileWish:
    """Read a ReconcileRequest."""
    refuse(_reconcile_problems(message, now))
    since = time_of(message.since_time) if message.HasField("since_time") else None
    return ReconcileWish(
        WANTED[message.scope],
        message.customer_id if message.HasField("customer_id") else None,
        None if since is None else int(since.timestamp()),
    )


def _reconcile_problems(message: reconcile_pb2.ReconcileRequest, now: datetime) -> Problems:
    yield from _order_problems(message)
    yield "scope", None if message.scope in WANTED else "must be a scope of the contract"
    if message.scope == _Run.SCOPE_CUSTOMER:
        yield "customer_id", field_rules.customer_id_problem(message.customer_id)
    elif message.HasField("customer_id"):
        yield "customer_id", "must be absent but for SCOPE_CUSTOMER"
    if message.HasField("since_time"):
        since = time_of(message.since_time)
        if message.scope != _Run.SCOPE_EVENTS:
            yield "since_time", "must be absent but for SCOPE_EVENTS"
        elif since is None or not 0 <= (now - since).total_seconds() <= 30 * 86_400:
            yield "since_time", "must be in the past, and at most 30 days ago: Stripe keeps no more"


def run_id(message: reconcile_pb2.GetReconcileRunRequest) -> int:
    """Read a GetReconcileRunRequest: the number."""
    refuse(iter([("run_id", None if message.run_id > 0 else "is required: a number above 0")]))
    return message.run_id


def runs_page(message: reconcile_pb2.ListReconcileRunsRequest) -> tuple[Scope | None, int | None, int]:
    """Read a ListReconcileRunsRequest: the scope, the place, and how many."""

    def problems() -> Problems:
        known = message.scope in {0, *SCOPES}
        yield "scope", None if known else "must be the scope of a run; SCOPE_EVERYTHING makes three"
        yield from pages.problems(message, int)

    refuse(problems())
    return SCOPES.get(message.scope), pages.place(message, int), pages.size(message)


Spanning: TypeAlias = (
    grant_pb2.CreateGrantRequest | event_pb2.ListEventsRequest | operator_request_pb2.ListOperatorRequestsRequest
)


def time_problems(message: Spanning, first: str, last: str) -> Problems:
    """Check two times of a request, of which both may be absent."""
    given = [name for name in (first, last) if message.HasField(name)]  # type: ignore[arg-type]  # both are messages
    times = {name: time_of(getattr(message, name)) for name in given}
    for name, time in times.items():
        yield name, None if time is not None else "must be a valid Timestamp, from the year 1 to 9999"
    start, end = times.get(first), times.get(last)
    if start is not None and end is not None and end <= start:
        yield last, f"must be after {first}"


def time_of(stamp: Timestamp) -> datetime | None:
    """Give a time; None where it is none."""
    try:
        return stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
