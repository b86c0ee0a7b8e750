"""What became of the money of a payment intent: refunds in their present status, and disputes.

The refunded amount is a sum over refunds, not a maximum that was once seen: a refund that fails later restores.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from billing_service.domain.merge import ObjectState
from billing_service.domain.views import (
    ChargeView,
    DisputeStatus,
    DisputeView,
    InvoicePaymentView,
    RefundStatus,
    RefundView,
)


class DisputeStanding(StrEnum):
    """How a dispute stands, as far as access is concerned; inquiries (warnings) and won ones do not stand at all."""

    OPEN = "open"
    LOST = "lost"


_STANDING = {
    DisputeStatus.NEEDS_RESPONSE: DisputeStanding.OPEN,
    DisputeStatus.UNDER_REVIEW: DisputeStanding.OPEN,
    DisputeStatus.LOST: DisputeStanding.LOST,
    # The money is gone until the appeal is won.
    DisputeStatus.APPEAL_NEEDS_RESPONSE: DisputeStanding.LOST,
    DisputeStatus.APPEAL_UNDER_REVIEW: DisputeStanding.LOST,
}
_RETURNED = frozenset({RefundStatus.FAILED, RefundStatus.CANCELED})  # the customer did not get the money


PaymentView = ChargeView | RefundView | DisputeView | InvoicePaymentView


@dataclass
class Payments:
    """Refunds, charges and disputes of one customer, by payment intent (or charge, where they name no intent)."""

    _refunds: dict[str, int] = field(default_factory=dict)  # what the customers have of them
    # When each was told to have come back, and how much.
    _returned: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    _charges: dict[str, tuple[int, ChargeView]] = field(default_factory=dict)  # when it said so, and what
    _disputes: dict[str, DisputeStanding] = field(default_factory=dict)
    _intents: dict[str, list[str]] = field(default_factory=dict)  # by invoice

    @classmethod
    def of(cls, known: Collection[tuple[ObjectState, PaymentView]]) -> Payments:
        """Gather from the objects of a customer that are about payments, in the order of their ids."""
        payments = cls()
        intent_of_charge = {
            state.object_id: view.payment_intent_id for state, view in known if isinstance(view, ChargeView)
        }
        for state, view in known:
            match view:
                case RefundView() as refund:
                    intent = refund.payment_intent_id or intent_of_charge.get(refund.charge_id or "")
                    if intent is not None and refund.status in _RETURNED:
                        payments._returned.setdefault(intent, []).append((state.told_time, refund.amount))
                    elif intent is not None:
                        payments._refunds[intent] = payments._refunds.get(intent, 0) + refund.amount
                case ChargeView(payment_intent_id=str() as intent) as charge:
                    payments._charges[intent] = state.told_time, charge
                case DisputeView() as dispute:
                    intent = dispute.payment_intent_id or intent_of_charge.get(dispute.charge_id or "")
                    if intent is not None and (standing := _STANDING.get(dispute.status)):
                        payments._disputes[intent] = max(standing, payments._disputes.get(intent, standing), key=_worse)
                case InvoicePaymentView(payment_intent_id=str() as intent) as link:
                    payments._intents.setdefault(link.invoice_id, []).append(intent)
                case _:
                    pass
        return payments

    def refunded(self, payment_intent_id: str | None) -> int:
        """Give what was returned of a payment, in minor units.

        What the charge says beyond the refunds that are known is of refunds that nobody told us of. One that came back counts
        among the known where that was told after the charge's word, which has it still.
        """
        intent = payment_intent_id or ""
        known = self._refunds.get(intent, 0)
        if intent not in self._charges:
            return known
        told_time, charge = self._charges[intent]
        came_back = sum(amount for time, amount in self._returned.get(intent, ()) if time >= told_time)
        return known + max(0, charge.amount_refunded - known - came_back)

    def charged(self, payment_intent_id: str | None) -> int | None:
        """Give what was charged, in minor units; None where it is not known."""
        found = self._charges.get(payment_intent_id or "")
        return found[1].amount if found else None

    def dispute(self, payment_intent_id: str | None) -> DisputeStanding | None:
        """Say how the dispute of a payment stands; None where none stands."""
        return self._disputes.get(payment_intent_id or "")

    def dispute_of_invoice(self, invoice_id: str | None) -> DisputeStanding | None:
        """Say how the worst dispute of an invoice's payments stands."""
        return worst(self._disputes.get(intent) for intent in self._intents.get(invoice_id or "", ()))

    def disputed_invoices(self) -> frozenset[str]:
        """Give the invoices of which a dispute stands."""
        return frozenset(i for i, intents in self._intents.items() if not self._disputes.keys().isdisjoint(intents))


def worst(standings: Iterable[DisputeStanding | None]) -> DisputeStanding | None:
    """Give the worst of several."""
    return max((one for one in standings if one is not None), key=_worse, default=None)


def _worse(standing: DisputeStanding) -> int:
    return list(DisputeStanding).index(standing)
