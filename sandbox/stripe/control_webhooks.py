"""Controls of deliveries, of what goes wrong on purpose, and the truth to compare with."""

from __future__ import annotations

from pydantic import Field

from sandbox.stripe.account import Account
from sandbox.stripe.control_route import Body, Control, Nothing, Surroundings
from sandbox.stripe.errors import ApiError
from sandbox.stripe.faults import FaultPlan
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.truth import truth_of

DELIVERIES_SHOWN = 100


class _Webhooks(Body):
    paused: bool | None = None
    longest_pause_s: float | None = Field(default=None, gt=0, le=3600)


def _require_endpoint(around: Surroundings) -> None:
    if not around.deliveries.has_endpoint:
        raise ApiError("No webhook endpoint is set; start the stand-in with one, or make one.")


def _resend(around: Surroundings, event_id: str, _: Nothing) -> Object:
    event = around.account.find(Kind.EVENT, event_id)
    _require_endpoint(around)
    around.deliveries.resend(event["id"])
    return event


def _resend_failed(around: Surroundings, _: str, __: Nothing) -> Object:
    _require_endpoint(around)
    failed = [record["event"] for record in around.account.store.all(Kind.DELIVERY) if record["status"] == "failed"]
    for event_id in failed:
        around.deliveries.resend(event_id)
    return {"resent": len(failed)}


def _change_webhooks(around: Surroundings, _: str, body: _Webhooks) -> Object:
    if body.paused is not None:
        around.deliveries.pause(paused=body.paused)
    if body.longest_pause_s is not None:
        around.deliveries.limit_pauses(body.longest_pause_s)
    return _webhooks(around, "", Nothing())


def _webhooks(around: Surroundings, _: str, __: Nothing) -> Object:
    records = around.account.store.newest_first(Kind.DELIVERY)
    return {
        "url": around.deliveries.webhook.url if around.deliveries.webhook else None,
        "paused": around.deliveries.paused,
        "pending": sum(record["status"] == "pending" for record in records),
        "failed": sum(record["status"] == "failed" for record in records),
        "deliveries": [_with_type(around.account, record) for record in records[:DELIVERIES_SHOWN]],
    }


def _with_type(account: Account, record: Object) -> Object:
    event = account.store.get(Kind.EVENT, record["event"]) or {}
    return {**record, "type": event.get("type"), "created": event.get("created")}


def _answered(around: Surroundings, _: str, __: Nothing) -> Object:
    records = [record for record in around.account.store.all(Kind.DELIVERY) if record["status"] == "failed"]
    failed = {record["event"]: _with_type(around.account, record)["type"] for record in records}
    taken = list(around.deliveries.taken)
    return {"attempts": around.deliveries.attempts, "event_ids": taken, "failed_events": failed}


def _show_faults(around: Surroundings, _: str, __: Nothing) -> Object:
    return {**around.faults.plan.model_dump(), "counts": dict(around.faults.counts)}


def _begin_faults(around: Surroundings, _: str, body: FaultPlan) -> Object:
    around.faults.begin(body)
    return _show_faults(around, "", Nothing())


def _truth(around: Surroundings, customer_id: str, _: Nothing) -> Object:
    return truth_of(around.account, customer_id or None)


CONTROLS = (
    Control("POST", "/_control/events/{id}/resend", "deliver an event once more", Nothing, _resend),
    Control("GET", "/_control/webhooks", "deliveries, the latest first", Nothing, _webhooks),
    Control(
        "POST", "/_control/webhooks", "hold deliveries back, let them go, set the pace", _Webhooks, _change_webhooks
    ),
    Control(
        "GET",
        "/_control/webhooks/taken",
        "ids of the events that were answered 2xx in this run, and of those given up",
        Nothing,
        _answered,
    ),
    Control("POST", "/_control/webhooks/resend", "deliver everything that failed once more", Nothing, _resend_failed),
    Control("GET", "/_control/faults", "what goes wrong on purpose, and how often it did", Nothing, _show_faults),
    Control("POST", "/_control/faults", "have things go wrong on purpose; {} ends it", FaultPlan, _begin_faults),
    Control("GET", "/_control/truth", "every object of every customer, as it is now", Nothing, _truth),
    Control("GET", "/_control/truth/{id}", "every object of one customer of ours, as it is now", Nothing, _truth),
)
