"""Refunds, disputes, deletions: each has its effect, also when it comes before what it belongs to."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from billing_service.domain.access import SourceState
from tests.integration.flows.catalog import CATALOG
from tests.integration.flows.conftest import Service, running
from tests.stripe_events import (
    MONTH,
    START,
    charge,
    dispute,
    event,
    export_pass,
    invoice,
    invoice_payment,
    purchase,
    refund,
    session,
    subscription,
)

SOLD = event("checkout.session.completed", export_pass("ann"))
FULL = event("refund.created", refund("ann", 2500), created=START + 10)
Effects = list[tuple[str, dict[str, Any]]]


async def end(service: Service, effects: list[bytes]) -> SourceState:
    """Fulfil one event after the other and give the state of the only thing that was bought."""
    for body in effects:
        await service.outcomes(body)
    sources = [source for source in (await service.read("ann")).sources if source.stripe_id is not None]
    assert len(sources) == 1
    return sources[0].state


@pytest.mark.parametrize(
    ("effects", "expected"),
    [
        ([("refund.created", refund("ann", 2500))], SourceState.REFUNDED),
        ([("refund.created", refund("ann", 1000))], SourceState.ENDING),
        ([("refund.created", refund("ann", 1500)), ("refund.created", refund("ann", 1000, number=2))],
         SourceState.REFUNDED),
        ([("refund.created", refund("ann", 2500)), ("refund.failed", refund("ann", 2500, "failed"))],
         SourceState.ENDING),
        ([("charge.refunded", charge("ann", 2500))], SourceState.REFUNDED),
        ([("charge.refunded", charge("ann", 2500)), ("refund.failed", refund("ann", 2500, "failed"))],
         SourceState.ENDING),
        ([("charge.dispute.created", dispute("ann"))], SourceState.DISPUTED),
        ([("charge.dispute.created", dispute("ann", "warning_needs_response"))], SourceState.ENDING),
        ([("charge.dispute.created", dispute("ann")), ("charge.dispute.closed", dispute("ann", "won"))],
         SourceState.ENDING),
        ([("charge.dispute.created", dispute("ann")), ("charge.dispute.closed", dispute("ann", "lost"))],
         SourceState.DISPUTED),
        ([("charge.dispute.closed", dispute("ann", "lost")), ("charge.dispute.updated", dispute("ann", "won"))],
         SourceState.ENDING),
        ([("customer.deleted", {"id": "cus_ann", "object": "customer"})], SourceState.ENDED),
    ],
)  # fmt: skip
async def test_what_happens_to_a_payment_has_its_effect_in_every_order(
    database_url: str, effects: Effects, expected: SourceState
) -> None:
    """Each permutation runs in a customer's life of its own; the states of one object are a second apart."""
    bodies = [SOLD, *(event(kind, data, created=START + 10 + n) for n, (kind, data) in enumerate(effects))]
    for number, order in enumerate(itertools.permutations(bodies)):
        renamed = [body.replace(b"ann", b"ann%d" % number).replace(b"evt_", b"evt_%d_" % number) for body in order]
        async with running(database_url) as service:
            for body in renamed:
                await service.outcomes(body)
            sources = (await service.read(f"ann{number}")).sources
            assert [source.state for source in sources if source.stripe_id] == [expected], order


async def test_a_refund_that_comes_before_its_session_waits_for_it(service: Service) -> None:
    assert await service.outcomes(FULL) == ["parked"]
    assert await end(service, [SOLD]) is SourceState.REFUNDED


async def test_a_refund_and_its_session_at_once_do_not_pass_each_other_unseen(database_url: str) -> None:
    async with running(database_url) as one, running(database_url) as two:
        for number in range(25):
            sold = SOLD.replace(b"ann", b"b%02d" % number).replace(b"evt_", b"evt_s%02d_" % number)
            back = FULL.replace(b"ann", b"b%02d" % number).replace(b"evt_", b"evt_r%02d_" % number)
            await asyncio.gather(one.outcomes(sold), two.outcomes(back))
            (source, _) = (await one.read(f"b{number:02}")).sources
            assert source.state is SourceState.REFUNDED


async def test_a_dispute_of_a_subscription_is_found_through_its_invoice_in_every_order(service: Service) -> None:
    for number, order in enumerate(itertools.permutations(range(3))):
        name = f"sub{number}"
        await service.outcomes(*purchase(name))
        bodies = [
            event("invoice_payment.paid", invoice_payment(name)),
            event("charge.dispute.created", dispute(name), created=START + 5),
            event("invoice.paid", invoice(name), created=START + 6),
        ]
        for index in order:
            await service.outcomes(bodies[index])
        assert (await service.read(name)).sources[0].state is SourceState.DISPUTED
        won = dispute(name, "won")
        await service.outcomes(event("charge.dispute.closed", won, created=START + 9))
        assert (await service.read(name)).plan_keys == ("pro",)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("customer.subscription.paused", {"status": "paused"}, SourceState.PAUSED),
        ("customer.subscription.updated", {"pause_collection": {"behavior": "void"}}, SourceState.ACTIVE),
        ("customer.subscription.pending_update_applied", {"quantity": 3}, SourceState.ACTIVE),
        ("customer.subscription.trial_will_end", {"status": "trialing", "trial_end": START + MONTH},
         SourceState.TRIALING),
        ("customer.subscription.updated", {"status": "unpaid"}, SourceState.PAYMENT_OVERDUE),
    ],
)  # fmt: skip
async def test_every_change_of_a_subscription_is_followed(
    service: Service, kind: str, changes: dict[str, Any], expected: SourceState
) -> None:
    await service.outcomes(*purchase("ann"))
    await service.outcomes(event(kind, subscription("ann", **changes), created=START + 30))
    assert (await service.read("ann")).sources[0].state is expected


async def test_an_action_that_a_payment_requires_starts_the_grace(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    due = invoice("ann", "open", id="in_2", billing_reason="subscription_cycle")
    late = subscription("ann", "past_due", latest_invoice="in_2")
    await service.outcomes(
        event("customer.subscription.updated", late, created=START + 200),
        event("invoice.payment_action_required", due, created=START + 100),
    )
    source = (await service.read("ann")).sources[0]
    assert source.state is SourceState.GRACE
    assert source.end_time is not None
    assert int((source.end_time - timedelta(days=7)).timestamp()) == START + 100


@pytest.mark.parametrize("kind", ["invoice.voided", "invoice.marked_uncollectible"])
async def test_a_renewal_that_failed_and_was_given_up_does_not_stay_free(service: Service, kind: str) -> None:
    """Stripe leaves the subscription active."""
    await service.outcomes(*purchase("ann"))
    status = "void" if kind == "invoice.voided" else "uncollectible"
    renewal = invoice("ann", "open", id="in_2", billing_reason="subscription_cycle")
    await service.outcomes(
        event("customer.subscription.updated", subscription("ann", latest_invoice="in_2"), created=START + 90),
        event("invoice.payment_failed", renewal, created=START + 100),
        event(kind, renewal | {"status": status}, created=START + 200),
    )
    assert (await service.read("ann")).sources[0].state is SourceState.GRACE


async def test_two_live_subscriptions_of_one_group_become_a_finding(service: Service, database_url: str) -> None:
    await service.outcomes(*purchase("ann"))
    second = subscription("ann", lookup_key="team_monthly", id="sub_second")
    await service.outcomes(event("customer.subscription.created", second, created=START + 9))
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT kind, subject, detail FROM findings").fetchall()
    ids = ["sub_ann", "sub_second"]
    assert found == [("bought_twice", "ann/base", {"plan_group": "base", "stripe_subscription_ids": ids})]


async def test_two_paid_sessions_of_one_group_become_a_finding(database_url: str) -> None:
    """Two tabs: what was paid twice is named. One that was refunded before is none."""
    grouped = replace(CATALOG.plans["export_pass"], group="passes")
    catalog = replace(CATALOG, plans={**CATALOG.plans, "export_pass": grouped})
    async with running(database_url, catalog) as service:
        await service.outcomes(
            event("checkout.session.completed", export_pass("ann")),
            event("refund.created", refund("ann", 2500), created=START + 1),
        )
        second, third = (export_pass("ann", id=f"cs_test_{n}") | {"payment_intent": f"pi_{n}"} for n in (2, 3))
        await service.outcomes(event("checkout.session.completed", second))
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT subject FROM findings").fetchall() == []
        await service.outcomes(event("checkout.session.completed", third))
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT kind, subject, detail FROM findings").fetchall()
    ids = ["cs_test_2", "cs_test_3"]
    assert found == [("bought_twice", "ann/passes", {"plan_group": "passes", "checkout_session_ids": ids})]


async def test_a_purchase_beside_one_whose_debit_is_on_its_way_is_a_finding_once_both_are_paid(
    database_url: str,
) -> None:
    """Not before: a debit may fail, and then nothing was bought twice."""
    catalog = replace(
        CATALOG, plans={**CATALOG.plans, "export_pass": replace(CATALOG.plans["export_pass"], group="passes")}
    )
    awaited = export_pass("ann") | {"payment_status": "unpaid"}
    by_card = export_pass("ann", id="cs_test_2") | {"payment_intent": "pi_2"}
    async with running(database_url, catalog) as service:
        await service.outcomes(event("checkout.session.completed", awaited))
        (source,) = (one for one in (await service.read("ann")).sources if one.stripe_id)
        assert source.state is SourceState.PENDING_PAYMENT
        await service.outcomes(event("checkout.session.completed", by_card, created=START + 1))
        with psycopg.connect(database_url) as connection:
            assert connection.execute("SELECT subject FROM findings").fetchall() == []
        paid = export_pass("ann")
        await service.outcomes(event("checkout.session.async_payment_succeeded", paid, created=START + 30))
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT kind, subject FROM findings").fetchall() == [("bought_twice", "ann/passes")]


async def test_a_contradicted_binding_becomes_a_finding(service: Service, database_url: str) -> None:
    await service.outcomes(*purchase("ann"))
    stolen = session("eve", customer="cus_ann", id="cs_test_2")
    await service.outcomes(event("checkout.session.completed", stolen, created=START + 9))
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT kind, subject FROM findings").fetchall() == [
            ("binding_contradicted", "cus_ann")
        ]


@pytest.mark.parametrize("together", [True, False])
async def test_two_claims_on_one_stripe_customer_are_a_finding_however_they_come(
    service: Service, database_url: str, together: bool
) -> None:
    """The first one stands: a later one takes nobody's purchases away, but a person is told."""
    bodies = [
        event(
            "checkout.session.completed",
            session(name, id=f"cs_test_{n}", customer="cus_shared", subscription=f"sub_{n}"),
        )
        for n, name in enumerate(("ann", "bob"))
    ]
    with capture_logs() as lines:
        for batch in [bodies] if together else [[body] for body in bodies]:
            await service.outcomes(*batch)
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT kind, subject, customer_id, detail FROM findings").fetchall()
        bound = connection.execute("SELECT stripe_customer_id, customer_id FROM stripe_customers").fetchall()
    detail = {"stripe_customer_id": "cus_shared", "claimed_customer_id": "bob"}
    assert found == [("binding_contradicted", "cus_shared", "ann", detail)]
    assert bound == [("cus_shared", "ann")]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["binding_contradicted"]


async def test_a_claim_against_a_binding_is_a_finding_also_behind_one_that_agrees(
    service: Service, database_url: str
) -> None:
    await service.outcomes(*purchase("ann"))
    agrees = session("ann", id="cs_test_1")
    stolen = session("eve", customer="cus_ann", id="cs_test_2")
    await service.outcomes(*(event("checkout.session.completed", one, created=START + 9) for one in (agrees, stolen)))
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT subject, detail ->> 'claimed_customer_id' FROM findings").fetchall()
    assert found == [("cus_ann", "eve")]


async def test_every_change_is_kept_with_its_cause_and_the_state_before_and_after(
    service: Service, database_url: str
) -> None:
    await service.outcomes(event("checkout.session.completed", export_pass("ann"), event_id="evt_sold"))
    await service.outcomes(event("refund.created", refund("ann", 2500), event_id="evt_back", created=START + 3))
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("""
            SELECT revision, cause, cause_id,
                   jsonb_path_query_first(before, '$.lines[*] ? (@.feature_key == "export").value'),
                   jsonb_path_query_first(after, '$.lines[*] ? (@.feature_key == "export").value')
            FROM entitlement_changes WHERE customer_id = 'ann' ORDER BY revision
        """).fetchall()
    assert rows == [(1, "event", "evt_sold", False, True), (2, "event", "evt_back", True, False)]
