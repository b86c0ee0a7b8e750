"""What happens to customers: each of these changes what one has, and sets ends that time alone will reach."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

from tests.stripe_events import event, invoice, subscription

DAY_S = 86_400


class Deeds:
    """Draws them, by a seed. Times of one customer's events only go up."""

    def __init__(self, seed: int, customers: int) -> None:
        """Take how many customers there are."""
        self._draw = Random(seed)
        self.names = [f"guest{number:04}" for number in range(customers)]
        self._last = dict.fromkeys(self.names, 0)
        self._invoices = itertools.count(1)

    def some(self, now: int) -> Sequence[bytes]:
        """Give the events of a few customers at a time."""
        some = self._draw.sample(self.names, k=self._draw.randint(1, min(12, len(self.names))))
        return [body for name in some for body in self._one(name, now)]

    def _one(self, name: str, now: int) -> Sequence[bytes]:
        time = self._last[name] = max(now, self._last[name] + 1)
        status = self._draw.choice(("active", "active", "active", "trialing", "past_due", "paused", "unpaid"))
        more: dict[str, object] = {"latest_invoice": None}
        before = []
        if status == "trialing":
            more["trial_end"] = time + self._draw.randint(1, 10) * DAY_S
        if status == "past_due":
            more["latest_invoice"] = invoice_id = f"in_{name}_{next(self._invoices)}"
            before = [event("invoice.payment_failed", invoice(name, "open", id=invoice_id), created=time)]
        body = subscription(
            name, status, lookup_key="team_monthly", quantity=self._draw.randint(1, 10_000), start=time, **more
        )
        return [*before, event("customer.subscription.updated", body, created=time)]
