"""What a person is to look at of what a transaction saw: noted as findings, in the transaction itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import structlog

from billing_service.domain.bought_twice import bought_twice
from billing_service.domain.merge import ObjectState
from billing_service.domain.observation import Fact
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.views import InvoiceStatus, InvoiceView
from billing_service.storage import findings
from billing_service.storage.customers import CustomerRow
from billing_service.storage.database import Connection
from billing_service.storage.findings import FindingKind

log = structlog.get_logger(__name__)


def note_contradictions(connection: Connection, bound: Mapping[str, str], claims: Mapping[str, Sequence[str]]) -> None:
    """Tell a person of Stripe customers for whom our metadata names another than the one to whom they are bound, or just were."""
    for stripe_id, owner in bound.items():
        for claimed in claims.get(stripe_id, ()):
            if claimed != owner:
                log.warning("binding_contradicted", stripe_customer_id=stripe_id)
                detail = {"stripe_customer_id": stripe_id, "claimed_customer_id": claimed}
                findings.note(connection, FindingKind.BINDING_CONTRADICTED, stripe_id, owner, detail)


def note_bought_twice(connection: Connection, rows: Iterable[CustomerRow], plans: PlanIndex) -> None:
    """Tell a person of customers who hold two of one plan group: one of them is paid for nothing."""
    for row in rows:
        for twice in bought_twice(row.facts, plans):
            subject = f"{row.customer_id}/{twice.plan_group}"
            detail: dict[str, str | Sequence[str]] = {"plan_group": twice.plan_group}
            if twice.subscription_ids:
                detail["stripe_subscription_ids"] = twice.subscription_ids
            if twice.checkout_session_ids:
                detail["checkout_session_ids"] = twice.checkout_session_ids
            findings.note(connection, FindingKind.BOUGHT_TWICE, subject, row.customer_id, detail)


async def note_finalization(connection: Connection, states: Iterable[ObjectState], owners: Mapping[str, str]) -> None:
    """Tell a person of invoices that Stripe could not finalise: nobody is asked to pay them. Mended ones are closed."""
    failed = [s for s in states if isinstance(s.view, InvoiceView) and Fact.FINALIZATION_FAILED in s.facts]
    mended = [state.object_id for state in failed if state.view.status is not InvoiceStatus.DRAFT]
    for state in failed:
        detail = {"stripe_invoice_id": state.object_id, "failed_time": state.facts[Fact.FINALIZATION_FAILED]}
        owner = owners.get(state.object_id)
        findings.note(connection, FindingKind.FINALIZATION_FAILED, state.object_id, owner, detail)
    if mended:
        await findings.close(connection, FindingKind.FINALIZATION_FAILED, mended)
