"""Findings: what a person should look at is noted once, closed when it is mended, and comes back when it is news."""

from __future__ import annotations

from billing_service.storage import findings
from billing_service.storage.findings import FindingKind
from tests.integration.flows.conftest import Service
from tests.stripe_events import START, event, invoice, purchase

KIND = FindingKind.FINALIZATION_FAILED


async def open_ones(service: Service) -> list[tuple[str, str | None]]:
    found = await service.database.run(lambda c: findings.newest(c, 10, closed=False))
    return [(one.subject, one.customer_id) for one in found if one.kind is KIND]


async def test_an_invoice_that_stripe_cannot_finalise_is_told_to_a_person_until_it_is_final(service: Service) -> None:
    """In whichever order the two events come."""
    await service.outcomes(*purchase("ann"))
    draft = invoice("ann", "draft", id="in_next")
    failed = event("invoice.finalization_failed", draft, created=START + 5)
    paid = event("invoice.paid", invoice("ann", "paid", id="in_next"), created=START + 9)
    await service.outcomes(failed)
    assert await open_ones(service) == [("in_next", "ann")]
    await service.outcomes(paid)
    assert await open_ones(service) == []


async def test_what_came_after_the_mend_does_not_bring_the_finding_back(service: Service) -> None:
    await service.outcomes(*purchase("ann"))
    failed = event("invoice.finalization_failed", invoice("ann", "draft", id="in_next"), created=START + 5)
    await service.outcomes(event("invoice.paid", invoice("ann", "paid", id="in_next"), created=START + 9))
    await service.outcomes(failed)
    assert await open_ones(service) == []


async def test_a_finding_that_was_closed_stays_closed_until_it_says_something_else(service: Service) -> None:
    async def note(detail: dict[str, str]) -> None:
        await service.database.run(lambda c: findings.note(c, FindingKind.DRIFT, "sub_1", None, detail))

    await note({"run": "1"})
    assert await service.database.run(lambda c: findings.close(c, FindingKind.DRIFT, ["sub_1"])) == 1
    await note({"run": "1"})
    assert await service.database.run(lambda c: findings.newest(c, 10, closed=False)) == []
    await note({"run": "2"})
    (again,) = await service.database.run(lambda c: findings.newest(c, 10, closed=False))
    assert (again.subject, again.close_time) == ("sub_1", None)
