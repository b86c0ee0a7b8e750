"""What operators ask of events, of the quarantine and of findings, over the wire."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from billing.admin.v1 import (
    event_pb2,
    finding_pb2,
)

from billing_service.storage import events as event_rows
from tests.integration.rpc.office import Office, asked

_Finding = finding_pb2.Finding


# --- Events -------------------------------------------------------------------------------------------------------------


async def every_event(office: Office, **filters: Any) -> list[event_pb2.Event]:
    """Give every event of a list, page after page."""
    found: list[event_pb2.Event] = []
    ask = event_pb2.ListEventsRequest(page_size=3, **filters)
    for _ in range(200):
        page = await office.ListEvents(ask)
        assert len(page.events) <= 3
        found += page.events
        ask.page_token = page.next_page_token
        if not page.next_page_token:
            return found
    raise AssertionError("pages without end")


async def test_events_are_listed_by_what_they_are_about(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a call looks at fewer events than there are between two that match."""
    monkeypatch.setattr(event_rows, "LOOKED_AT", 4)
    await office.bought("ann", "ben")
    world = office.world
    recorded = {row[0] for row in world.sql("SELECT event_id FROM stripe_events")}
    everything = await every_event(office)
    assert [one.event_id for one in everything] == list(dict.fromkeys(one.event_id for one in everything))
    assert {one.event_id for one in everything} == recorded
    paid = await every_event(office, type="invoice.paid")
    assert len(paid) == 2
    assert {one.body_bytes for one in paid} == {len(body) for body in await world.events("invoice.paid")}
    subscription = world.sql("SELECT object_id FROM stripe_objects WHERE kind = 'subscription' ORDER BY 1")[0][0]
    assert {one.object_id for one in await every_event(office, object_id=subscription)} == {subscription}
    anns, bens = [{one.event_id for one in await every_event(office, customer_id=name)} for name in ("ann", "ben")]
    assert anns
    assert bens
    assert not anns & bens
    ignored = await every_event(office, outcome=event_pb2.Event.OUTCOME_IGNORED)
    assert {one.outcome for one in ignored} <= {event_pb2.Event.OUTCOME_IGNORED}
    long_ago = datetime.now(UTC) - timedelta(days=1)
    assert await every_event(office, end_time=long_ago) == []
    assert len(await every_event(office, start_time=long_ago)) == len(recorded)


async def test_an_event_is_shown_with_its_body_byte_for_byte_recorded_or_in_quarantine(office: Office) -> None:
    world = office.world
    await office.bought("ann")
    body = (await world.events("invoice.paid"))[0]
    event_id = json.loads(body)["id"]
    shown = await office.GetEvent(event_pb2.GetEventRequest(event_id=event_id))
    assert (shown.body, shown.event.type, shown.event.body_bytes) == (body, "invoice.paid", len(body))
    await world.fulfill([b"{not json"])
    kept = (await office.ListQuarantinedEvents(event_pb2.ListQuarantinedEventsRequest())).quarantined_events[0]
    shown = await office.GetEvent(event_pb2.GetEventRequest(event_id=kept.event_key))
    assert (shown.body, shown.quarantined_event) == (b"{not json", kept)
    before = 'UPDATE stripe_events SET payload = \'{"as": "it came"}\''
    world.sql(f"{before} WHERE event_id = '{event_id}'")  # as an older release kept it
    shown = await office.GetEvent(event_pb2.GetEventRequest(event_id=event_id))
    assert (shown.body, shown.event.body_bytes) == (b'{"as": "it came"}', 17)
    world.sql(f"UPDATE stripe_events SET payload = '' WHERE event_id = '{event_id}'")  # noqa: S608 - of this test
    shown = await office.GetEvent(event_pb2.GetEventRequest(event_id=event_id))
    assert (shown.body, shown.event.body_bytes) == (b"", 0)
    missing = event_pb2.GetEventRequest(event_id="evt_gone")
    assert await office.refused(office.GetEvent(missing)) == "EVENT_NOT_FOUND"


async def test_quarantined_events_are_counted_listed_and_replayed_once_the_cause_is_mended(office: Office) -> None:
    world = office.world
    await world.buy("ann")
    bodies = await world.events(
        "checkout.session.completed", "customer.subscription.created", "customer.subscription.updated"
    )
    for body in bodies:  # as an older release would have left them there
        key = json.loads(body)["id"]
        values = f"('{key}', decode('{body.hex()}', 'hex'), 'unwritable', 'a bug')"
        world.sql(f"INSERT INTO quarantined_events (event_key, payload, reason, detail) VALUES {values}")  # noqa: S608
    await world.fulfill([b"{not json"])
    page = await office.ListQuarantinedEvents(
        event_pb2.ListQuarantinedEventsRequest(reason=event_pb2.QuarantinedEvent.REASON_UNWRITABLE, page_size=2)
    )
    assert [count.count for count in page.counts] == [1, len(bodies), 0]
    assert (len(page.quarantined_events), bool(page.next_page_token)) == (2, True)
    ask = event_pb2.ReplayEventsRequest(**asked(quarantine_reason=2, page_size=2))
    replayed = applied = 0
    for _ in range(5):
        answer = await office.ReplayEvents(ask)
        replayed, applied = replayed + answer.replayed, applied + answer.applied
        if not answer.next_page_token:
            break
        ask = event_pb2.ReplayEventsRequest(
            **asked(quarantine_reason=2, page_size=2, page_token=answer.next_page_token)
        )
    assert (replayed, applied) == (len(bodies), len(bodies))
    assert list((await office.customer("ann")).entitlements.plan_keys) == ["pro"]
    left = await office.ListQuarantinedEvents(event_pb2.ListQuarantinedEventsRequest())
    key = left.quarantined_events[0].event_key
    again = await office.ReplayEvents(event_pb2.ReplayEventsRequest(**asked(event_key=key)))
    assert (again.replayed, again.failed) == (1, 1)
    gone = event_pb2.ReplayEventsRequest(**asked(event_key="evt_gone"))
    assert await office.refused(office.ReplayEvents(gone)) == "EVENT_NOT_FOUND"


async def test_an_event_is_discarded_counts_no_more_and_is_listed_where_that_is_asked(office: Office) -> None:
    """Whole, by its key; and passed over by a replay that does not name it."""
    world = office.world
    await world.fulfill([b"{not json", b"[not json"])
    ask = event_pb2.ListQuarantinedEventsRequest(page_size=1)
    key = (await office.ListQuarantinedEvents(ask)).quarantined_events[0].event_key
    discard = event_pb2.DiscardQuarantinedEventRequest(**asked(event_key=key))
    discarded = (await office.DiscardQuarantinedEvent(discard)).quarantined_event
    assert (discarded.event_key, discarded.attempts, discarded.HasField("discard_time")) == (key, 1, True)
    again = event_pb2.DiscardQuarantinedEventRequest(**asked(event_key=key))
    assert (await office.DiscardQuarantinedEvent(again)).quarantined_event == discarded
    page = await office.ListQuarantinedEvents(ask)
    (other,) = page.quarantined_events
    assert (other.event_key == key, other.HasField("discard_time")) == (False, False)
    assert ([count.count for count in page.counts], page.next_page_token) == ([1, 0, 0], "")
    found: list[event_pb2.QuarantinedEvent] = []
    ask.include_discarded = True
    for _ in range(2):
        page = await office.ListQuarantinedEvents(ask)
        assert [count.count for count in page.counts] == [1, 0, 0]
        found += page.quarantined_events
        ask.page_token = page.next_page_token
    assert (found, ask.page_token) == ([discarded, other], "")
    shown = await office.GetEvent(event_pb2.GetEventRequest(event_id=key))
    assert (shown.quarantined_event, shown.body in {b"{not json", b"[not json"}) == (discarded, True)
    everything = event_pb2.ReplayEventsRequest(**asked(quarantine_reason=1))
    assert (await office.ReplayEvents(everything)).replayed == 1
    alone = event_pb2.ReplayEventsRequest(**asked(event_key=key))
    assert (await office.ReplayEvents(alone)).failed == 1
    gone = event_pb2.DiscardQuarantinedEventRequest(**asked(event_key="evt_gone"))
    assert await office.refused(office.DiscardQuarantinedEvent(gone)) == "EVENT_NOT_FOUND"


# --- Findings -----------------------------------------------------------------------------------------------------------


async def test_findings_are_listed_by_kind_and_customer_and_closed(office: Office) -> None:
    world = office.world
    for number, (kind, name) in enumerate((("drift", "ann"), ("bought_twice", "ann"), ("drift", "ben"))):
        world.sql(
            "INSERT INTO findings (kind, subject, customer_id, detail, update_time) VALUES"  # noqa: S608 - of this test
            f" ('{kind}', 's{number}', '{name}', '{{\"ids\": [\"sub_1\"], \"n\": 1}}', now() + interval '{number} s')"
        )
    ask = finding_pb2.ListFindingsRequest(page_size=2)
    first = await office.ListFindings(ask)
    ask.page_token = first.next_page_token
    second = await office.ListFindings(ask)
    assert [one.subject for one in (*first.findings, *second.findings)] == ["s2", "s1", "s0"]
    assert dict(first.findings[0].detail)["n"] == 1
    drift = await office.ListFindings(finding_pb2.ListFindingsRequest(kind=_Finding.KIND_DRIFT, customer_id="ann"))
    assert [one.subject for one in drift.findings] == ["s0"]
    close = finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="s0"))
    closed = (await office.CloseFinding(close)).finding
    assert closed.HasField("close_time")
    again = finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="s0"))
    assert (await office.CloseFinding(again)).finding == closed
    assert [one.subject for one in (await office.customer("ann")).findings] == ["s1"]
    everything = await office.ListFindings(finding_pb2.ListFindingsRequest(include_closed=True))
    assert len(everything.findings) == 3
    other = finding_pb2.CloseFindingRequest(**asked(kind=_Finding.KIND_DRIFT, subject="s1"))
    assert await office.refused(office.CloseFinding(other)) == "FINDING_NOT_FOUND"
