"""The way back from a refund or dispute to what was paid for: Stripe is asked to which session or invoice its payment belongs.

Asked only where nothing that is known ties the payment. Of one that belongs to neither, made by hand in the dashboard, nothing is
found, which is normal.
"""

from __future__ import annotations

from billing_service.domain.json_fields import reference
from billing_service.domain.observation import Observation
from billing_service.domain.views import DisputeView, ObjectKind, RefundView
from billing_service.storage import links, objects
from billing_service.storage.database import Database
from billing_service.stripe_api.listing import StripeListing

Tie = tuple[ObjectKind, str]  # an object that is to be read


async def ties_of(seen: Observation, database: Database, listing: StripeListing) -> list[Tie]:
    """Give what is to be read so that a refund or dispute counts; nothing where it is tied, or is neither.

    Two requests at the most, as long as their lists have one page. Raises StripeCallError, MalformedError.
    """
    payment = seen.view.payment_intent_id if isinstance(seen.view, RefundView | DisputeView) else None
    if payment is None or await database.run(lambda c: links.is_tied(c, payment)):
        return []
    async for page in listing.sessions_of_payment(payment):
        if page.data:
            return [(ObjectKind.CHECKOUT_SESSION, str(session["id"])) for session in page.data]
    ties: list[Tie] = []
    invoices: set[str] = set()
    async for page in listing.invoice_payments_of(payment):
        ties += [(ObjectKind.INVOICE_PAYMENT, str(link["id"])) for link in page.data]
        invoices.update(invoice for link in page.data if (invoice := reference(link, "invoice")) is not None)
    unknown = invoices - await database.run(lambda c: objects.known(c, invoices)) if invoices else invoices
    return ties + [(ObjectKind.INVOICE, invoice_id) for invoice_id in sorted(unknown)]
