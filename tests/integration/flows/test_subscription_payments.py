"""What becomes of the payments of a subscription's invoices, in whichever order and however late it is heard."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import psycopg
import pytest

from billing_service.domain.access import Source, SourceState
from tests.integration.flows.conftest import Service
from tests.stripe_events import MONTH, START, dispute, event, invoice, invoice_payment, purchase, subscription

DISPUTED = import_module("billing_service.storage.migrations.versions.0022_disputed_invoices_are_not_past")
DAY = 86_400
YEAR = 365 * DAY
RENEWED = START + MONTH


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def standing(status: str, begin: int, length: int = MONTH, **more: Any) -> dict[str, Any]:
    """Give a subscription whose period begins and lasts so."""
    one = subscription("ann", status, **more)
    one["items"]["data"][0] |= {"current_period_start": begin, "current_period_end": begin + length}
    return one


def bill(status: str, created: int, reason: str = "subscription_cycle") -> dict[str, Any]:
    """Give the subscription's second invoice."""
    transitions = {"finalized_at": created}
    return invoice("ann", status, id="in_2", billing_reason=reason, created=created, status_transitions=transitions)


def renewal(status: str = "paid") -> list[bytes]:
    """Give the events of a renewal; one that is not paid yet is a draft of which nobody tells."""
    renewed = event(
        "customer.subscription.updated", standing("active", RENEWED, latest_invoice="in_2"), created=RENEWED
    )
    return [renewed, *([event("invoice.paid", bill("paid", RENEWED), created=RENEWED)] if status == "paid" else [])]


async def sold(service: Service) -> Source:
    """Give the source that was paid for."""
    (one,) = [source for source in (await service.read("ann")).sources if source.stripe_id]
    return one


TIED = event("invoice_payment.paid", invoice_payment("ann"), created=START + 1)


@pytest.mark.parametrize("status", ["void", "uncollectible", "draft"])
async def test_paused_collection_keeps_access_whatever_becomes_of_its_invoices(service: Service, status: str) -> None:
    await service.outcomes(*purchase("ann"))
    held = standing("active", RENEWED, latest_invoice="in_2", pause_collection={"behavior": "any", "resumes_at": None})
    await service.outcomes(event("customer.subscription.updated", held, created=RENEWED))
    if status != "draft":
        kind = {"void": "invoice.voided", "uncollectible": "invoice.marked_uncollectible"}[status]
        await service.outcomes(event(kind, bill(status, RENEWED), created=RENEWED + 3600))
    service.now = at(RENEWED + 10 * DAY)
    assert (await sold(service)).state is SourceState.ACTIVE


async def test_who_pays_in_the_grace_of_a_change_is_not_cut_off_by_it(service: Service) -> None:
    """Nothing is owed then, and the subscription's own word is on its way: its period is a year old, and no grace."""
    changed = START + 100 * DAY
    await service.outcomes(*purchase("ann"))
    owed = bill("open", changed, "subscription_update")
    await service.outcomes(
        event("invoice.payment_failed", owed, created=changed + 1),
        event(
            "customer.subscription.updated",
            standing("past_due", START, YEAR, latest_invoice="in_2"),
            created=changed + 1,
        ),
    )
    service.now = at(changed + 2 * DAY)
    assert (await sold(service)).state is SourceState.GRACE
    await service.outcomes(event("invoice.paid", owed | {"status": "paid"}, created=changed + 2 * DAY))
    assert (await sold(service)).state is SourceState.ACTIVE


async def test_who_pays_after_the_grace_has_access_at_once(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    await service.outcomes(
        event("invoice.payment_failed", bill("open", RENEWED), created=RENEWED + 1),
        event(
            "customer.subscription.updated", standing("past_due", RENEWED, latest_invoice="in_2"), created=RENEWED + 1
        ),
    )
    service.now = at(RENEWED + 9 * DAY)
    assert (await sold(service)).state is SourceState.PAYMENT_OVERDUE
    await service.outcomes(event("invoice.paid", bill("paid", RENEWED), created=RENEWED + 9 * DAY))
    assert (await sold(service)).state is SourceState.ACTIVE


async def test_a_card_that_fails_in_mid_period_gives_its_grace_whatever_is_heard_first(service: Service) -> None:
    failed = START + 100 * DAY
    await service.outcomes(*purchase("ann"))
    service.now = at(failed + 10)
    late = standing("past_due", START, YEAR, latest_invoice="in_2")
    await service.outcomes(event("customer.subscription.updated", late, created=failed + 1))
    source = await sold(service)
    assert (source.state, source.end_time) == (SourceState.GRACE, at(failed + 1 + 7 * DAY))
    owed = bill("open", failed, "subscription_update")
    await service.outcomes(event("invoice.payment_failed", owed, created=failed))
    assert (await sold(service)).end_time == at(failed + 7 * DAY)


@pytest.mark.parametrize("status", ["needs_response", "lost"])
async def test_a_dispute_is_not_lifted_by_a_paid_change_in_mid_period(service: Service, status: str) -> None:
    await service.outcomes(*purchase("ann"), TIED)
    await service.outcomes(event("charge.dispute.closed", dispute("ann", status), created=START + DAY))
    changed = bill("paid", START + 2 * DAY, "subscription_update")
    await service.outcomes(
        event("invoice.paid", changed, created=START + 2 * DAY),
        event("customer.subscription.updated", subscription("ann", latest_invoice="in_2"), created=START + 2 * DAY),
    )
    service.now = at(START + 3 * DAY)
    assert (await sold(service)).state is SourceState.DISPUTED


@pytest.mark.parametrize("status", ["needs_response", "lost"])
async def test_a_dispute_is_not_lifted_by_a_renewal_that_nobody_has_paid(service: Service, status: str) -> None:
    await service.outcomes(*purchase("ann"), TIED)
    await service.outcomes(event("charge.dispute.closed", dispute("ann", status), created=START + DAY))
    await service.outcomes(*renewal("draft"))
    service.now = at(RENEWED + 60)
    assert (await sold(service)).state is SourceState.DISPUTED


@pytest.mark.parametrize(
    ("status", "state"),
    [("needs_response", SourceState.DISPUTED), ("lost", SourceState.ACTIVE), ("won", SourceState.ACTIVE)],
)
async def test_a_dispute_of_an_earlier_period_suspends_while_it_is_open(
    service: Service, status: str, state: SourceState
) -> None:
    """Customers dispute what was charged weeks ago. One that was lost takes away what it was of, and not what was paid since."""
    await service.outcomes(*purchase("ann"), TIED, *renewal())
    await service.outcomes(event("charge.dispute.created", dispute("ann"), created=RENEWED + DAY))
    service.now = at(RENEWED + 2 * DAY)
    assert (await sold(service)).state is SourceState.DISPUTED
    await service.outcomes(event("charge.dispute.closed", dispute("ann", status), created=RENEWED + 2 * DAY))
    # Its invoice was paid and is past, and no event names it any more.
    await service.outcomes(
        event(
            "customer.subscription.updated",
            standing("active", RENEWED, latest_invoice="in_2"),
            created=RENEWED + 3 * DAY,
        )
    )
    assert (await sold(service)).state is state


async def test_a_dispute_that_was_known_before_an_upgrade_counts_after_it(service: Service, database_url: str) -> None:
    """Releases before this one put its invoice away as past."""
    await service.outcomes(*purchase("ann"), TIED, *renewal())
    await service.outcomes(event("charge.dispute.created", dispute("ann"), created=RENEWED + DAY))
    with psycopg.connect(database_url) as connection:
        connection.execute("""
            UPDATE stripe_objects SET past = true, past_subscription_id = 'sub_ann', past_paid = true, past_created = 1
            WHERE kind = 'invoice'
        """)
        connection.execute(DISPUTED.DISPUTED)
    again = standing("active", RENEWED, latest_invoice="in_2", metadata={})
    await service.outcomes(event("customer.subscription.updated", again, created=RENEWED + 3 * DAY))
    service.now = at(RENEWED + 4 * DAY)
    assert (await sold(service)).state is SourceState.DISPUTED


async def test_a_disputed_invoice_that_a_release_before_put_away_is_found_again_with_its_dispute(
    service: Service, database_url: str
) -> None:
    await service.outcomes(*purchase("ann"), TIED, *renewal())
    await service.outcomes(event("charge.dispute.created", dispute("ann"), created=RENEWED + DAY))
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE stripe_objects SET past = true WHERE object_id = 'in_ann'")
    await service.outcomes(
        event("charge.dispute.updated", dispute("ann", "under_review"), created=RENEWED + 2 * DAY),
    )
    again = standing("active", RENEWED, latest_invoice="in_2")
    await service.outcomes(event("customer.subscription.updated", again, created=RENEWED + 3 * DAY))
    service.now = at(RENEWED + 4 * DAY)
    assert (await sold(service)).state is SourceState.DISPUTED


async def test_grace_does_not_restart_while_stripe_is_away_and_the_invoice_is_not_known(service: Service) -> None:
    """The time of the first word is kept with the subscription, across events and processes."""
    failed = START + 100 * DAY
    await service.outcomes(*purchase("ann"))
    late = standing("past_due", START, YEAR, latest_invoice="in_2")
    for later in (0, 3, 6):
        await service.outcomes(event("customer.subscription.updated", late, created=failed + later * DAY))
    service.now = at(failed + 6 * DAY)
    source = await sold(service)
    assert (source.state, source.end_time) == (SourceState.GRACE, at(failed + 7 * DAY))


async def test_of_what_a_subscription_was_ever_overdue_by_the_latest_is_kept(
    service: Service, database_url: str
) -> None:
    """One that is left past due by each of its invoices for years costs no more for it."""
    await service.outcomes(*purchase("ann"))
    for number in range(20):
        late = standing("past_due", START, YEAR, latest_invoice=f"in_{number}")
        await service.outcomes(event("customer.subscription.updated", late, created=START + (number + 1) * DAY))
    with psycopg.connect(database_url) as connection:
        ((kept,),) = connection.execute("SELECT overdue FROM stripe_objects WHERE object_id = 'sub_ann'").fetchall()
    assert kept == {f"in_{number}": START + (number + 1) * DAY for number in range(8, 20)}
