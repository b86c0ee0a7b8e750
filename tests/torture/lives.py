"""The lives that customers lead: one deed at a time, at Stripe and through the service.

What does not apply at that moment (nothing to refund, say) is left out; the plan's draws pick among what does.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc
from billing.v1 import checkout_pb2, subscription_pb2

from tests.torture.plan import Deed, Step
from tests.torture.stage import ControlError, Stage

_TRIES = 12  # of one purchase; a crash takes a second or two, and faults strike one call in ten
_PAUSE_S = 0.3
_CALL_S = 10.0
_DAY_S = 86_400
_AGAIN = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)
_OFFERS = (("pro", "weekly"), ("pro", "weekly"), ("pro", "monthly"), ("team", "weekly"), ("team", "weekly"),
           ("trial", "weekly"), ("pass", "once"), ("lifetime", "once"))  # fmt: skip
_CHANGES = (("pro", "weekly"), ("pro", "monthly"), ("team", "weekly"))
_LOOKUP_KEYS = ("torture_pro_weekly", "torture_pro_monthly", "torture_team_weekly")
_OUTCOMES = ("paid", "paid", "paid", "paid", "processing", "processing", "declined", "incomplete", "expire", "leave")
_CARDS = ("paid", "paid", "declined", "declined", "processing", "none")
_COUPONS = (("percent", 100, "once"), ("percent", 100, "forever"), ("percent", 50, "once"), ("percent", 100, "forever"),
            ("amount", 500, "once"), ("amount", 99_900, "once"), ("amount", 99_900, "forever"))  # off, for how long  # fmt: skip
_CODE_SHARE = 0.15  # of the pages, on which a code is typed
_DISPUTE_STEPS = (
    "warning_closed",
    "needs_response",
    "under_review",
    "won",
    "lost",
    "appeal_needs_response",
    "appeal_under_review",
)
_LIVE = frozenset({"trialing", "active", "past_due", "unpaid", "paused"})


class Lives:
    """Carries steps out."""

    def __init__(self, stage: Stage) -> None:
        """Take the stage that they are led on."""
        self._stage = stage
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()  # of purchases, by the service's own words

    async def lead(self, step: Step) -> None:
        """Carry one step out, or leave it out where it does not apply."""
        try:
            await _DEEDS[step.deed](self, step)
            self.counts["done"] += 1
        except ControlError:
            self.counts["left out"] += 1

    # --- Through the service -----------------------------------------------------------------------------------------

    async def _buy(self, step: Step) -> None:
        plan_key, price_key = _pick(_OFFERS, step.draws[0])
        quantity = 1 + int(step.draws[1] * 5) if plan_key in {"team", "lifetime"} else None
        code = step.draws[1] * 100 % 1 / _CODE_SHARE
        session_id = await self._checkout(step.customer_id, plan_key, price_key, quantity, takes_codes=code < 1)
        if code < 1:
            await self._stage.control(f"checkout/sessions/{session_id}/redeem", coupon=await self._coupon(code))
        outcome = _pick(_OUTCOMES, step.draws[2])
        if outcome == "expire":
            await self._stage.control(f"checkout/sessions/{session_id}/expire")
        elif outcome != "leave":
            await self._stage.control(f"checkout/sessions/{session_id}/complete", outcome=outcome)

    async def _checkout(
        self, customer_id: str, plan_key: str, price_key: str, quantity: int | None, *, takes_codes: bool
    ) -> str:
        request = checkout_pb2.CreateCheckoutSessionRequest(
            request_id=str(uuid.uuid4()),
            customer_id=customer_id,
            plan_key=plan_key,
            price_key=price_key,
            quantity=quantity,
            allow_promotion_codes=takes_codes,
            success_url="https://shop.example/done",
            cancel_url="https://shop.example/plans",
        )
        answer = await self._asked("checkout", self._stage.billing.CreateCheckoutSession, request)
        return str(answer.checkout_session.checkout_session_id)

    async def _asked(self, noun: str, call: Callable[..., Awaitable[Any]], request: Any) -> Any:
        """Ask the service, again where that may help. Raises ControlError where it refuses, or does not answer in time."""
        for _ in range(_TRIES):
            try:
                return await call(request, timeout=_CALL_S)
            except grpc.aio.AioRpcError as error:
                self.counts[f"{noun} {error.code().name}"] += 1
                if error.code() not in _AGAIN:
                    self.refusals[error.details() or ""] += 1
                    raise ControlError(error.details()) from error
                await asyncio.sleep(_PAUSE_S)
        raise ControlError(f"the service answered no {noun} in time")

    async def _change_by_us(self, step: Step) -> None:
        """Change the plan, now or at the end of the period, where a schedule keeps it until then; or let it end, or not."""
        subscription_id = await self._subscription(step, "active", "trialing", "past_due")
        plan_key, price_key = _pick(_CHANGES, step.draws[1])
        now, later = subscription_pb2.UPDATE_TIMING_NOW_WITH_PRORATION, subscription_pb2.UPDATE_TIMING_AT_PERIOD_END
        request = subscription_pb2.UpdateSubscriptionRequest(
            request_id=str(uuid.uuid4()),
            customer_id=step.customer_id,
            stripe_subscription_id=subscription_id,
            plan_key=plan_key,
            price_key=price_key,
            quantity=1 + int(step.draws[1] * 100 % 5) if plan_key == "team" else None,
            timing=now if step.draws[2] < 0.3 else later,
        )
        await self._change_plan(request)

    async def _change_plan(self, request: subscription_pb2.UpdateSubscriptionRequest) -> None:
        await self._asked("change", self._stage.billing.UpdateSubscription, request)

    async def _coupon(self, draw: float) -> str:
        kind, off, duration = _pick(_COUPONS, draw)
        coupon_id = f"torture_{kind}_{off}_{duration}"
        form = {f"{kind}_off": str(off), "duration": duration} | ({"currency": "eur"} if kind == "amount" else {})
        with contextlib.suppress(ControlError):  # made before, or struck by a fault: then the code is not known
            await self._stage.stripe("POST", "coupons", id=coupon_id, **form)
        return coupon_id

    # --- At Stripe ---------------------------------------------------------------------------------------------------

    async def _truth(self, step: Step) -> Mapping[str, Any]:
        found = await self._stage.ask(f"truth/{step.customer_id}")
        held: Mapping[str, Any] = found["customers"].get(step.customer_id)
        if held is None:
            raise ControlError("never seen")
        return held

    async def _one(
        self, step: Step, noun: str, holds: Callable[[Mapping[str, Any]], bool] = lambda _: True
    ) -> Mapping[str, Any]:
        found = [obj for obj in (await self._truth(step))[noun] if holds(obj)]
        if not found:
            raise ControlError(f"none of {noun} applies")
        one: Mapping[str, Any] = _pick(found, step.draws[0])
        return one

    async def _subscription(self, step: Step, *statuses: str) -> str:
        wanted = frozenset(statuses) or _LIVE
        return str((await self._one(step, "subscriptions", lambda s: s["status"] in wanted))["id"])

    async def _card(self, step: Step) -> None:
        customer = await self._one(step, "customers", lambda c: not c["deleted"])
        await self._stage.control(f"customers/{customer['id']}/card", outcome=_pick(_CARDS, step.draws[1]))

    async def _settle(self, step: Step) -> None:
        session = await self._one(step, "checkout_sessions", lambda s: s["payment_status"] == "unpaid")
        outcome = "succeeded" if step.draws[1] < 0.5 else "failed"
        await self._stage.control(f"checkout/sessions/{session['id']}/settle", outcome=outcome)

    async def _cancel(self, step: Step) -> None:
        await self._stage.control(f"subscriptions/{await self._subscription(step)}/cancel")

    async def _cancel_at_end(self, step: Step) -> None:
        await self._stage.control(f"subscriptions/{await self._subscription(step)}/cancel", at_period_end=True)

    async def _keep(self, step: Step) -> None:
        found = await self._one(step, "subscriptions", lambda s: s["cancel_at"] is not None and s["status"] in _LIVE)
        await self._stage.control(f"subscriptions/{found['id']}/keep")

    async def _change(self, step: Step) -> None:
        subscription_id = await self._subscription(step)
        if step.draws[2] * 1000 % 1 < 0.4:
            await self._change_invoiced(step, subscription_id)
        elif step.draws[1] < 0.5:
            await self._stage.control(f"subscriptions/{subscription_id}/change", quantity=int(step.draws[2] * 9))
        else:
            lookup_key = _pick(_LOOKUP_KEYS, step.draws[2])
            await self._stage.control(f"subscriptions/{subscription_id}/change", lookup_key=lookup_key)

    async def _change_invoiced(self, step: Step, subscription_id: str) -> None:
        """Have what a change costs, or credits, settled at once."""
        (item, *_) = (await self._stage.stripe("GET", f"subscriptions/{subscription_id}"))["items"]["data"]
        form = {"proration_behavior": "always_invoice", "payment_behavior": "error_if_incomplete"}
        form |= {"items[0][id]": item["id"], "items[0][quantity]": str(1 + int(step.draws[2] * 6))}
        if step.draws[1] < 0.5:
            found = await self._stage.stripe("GET", "prices", **{"lookup_keys[0]": _pick(_LOOKUP_KEYS, step.draws[2])})
            form["items[0][price]"] = found["data"][0]["id"]
        await self._stage.stripe("POST", f"subscriptions/{subscription_id}", **form)

    async def _change_when_paid(self, step: Step) -> None:
        """Ask for more, in effect once it is paid; what the card says decides, or somebody who collects, or time."""
        path = f"subscriptions/{await self._subscription(step, 'active', 'past_due')}/change"
        await self._stage.control(path, quantity=1 + int(step.draws[2] * 9), pending_if_incomplete=True)

    async def _add_item(self, step: Step) -> None:
        """Have more on one subscription, mostly of another interval than what is on it."""
        path = f"subscriptions/{await self._subscription(step, 'active', 'trialing', 'past_due')}"
        found = await self._stage.stripe("GET", "prices", **{"lookup_keys[0]": _pick(_LOOKUP_KEYS, step.draws[1])})
        charged = "always_invoice" if step.draws[2] < 0.5 else "none"
        item = {"items[0][price]": found["data"][0]["id"], "items[0][quantity]": str(1 + int(step.draws[2] * 4))}
        await self._stage.stripe("POST", path, proration_behavior=charged, **item)

    async def _remove_item(self, step: Step) -> None:
        found = await self._one(step, "subscriptions", lambda s: s["status"] in _LIVE and len(s["items"]["data"]) > 1)
        item = {"items[0][id]": _pick(found["items"]["data"], step.draws[1])["id"], "items[0][deleted]": "true"}
        item["proration_behavior"] = "always_invoice" if step.draws[2] < 0.5 else "none"
        await self._stage.stripe("POST", f"subscriptions/{found['id']}", **item)

    async def _restart(self, step: Step) -> None:
        """Begin a period now, paid or not, in the middle of another or of a trial."""
        found = await self._one(step, "subscriptions", lambda s: s["status"] in {"active", "trialing", "past_due"})
        how = "trial_end" if found["status"] == "trialing" else "billing_cycle_anchor[type]"
        await self._stage.stripe("POST", f"subscriptions/{found['id']}", **{how: "now"})

    async def _cancel_at(self, step: Step) -> None:
        path = f"subscriptions/{await self._subscription(step)}"
        at = (await self._stage.ask("clock"))["now"] + int(step.draws[1] * 30 * _DAY_S) + 1
        await self._stage.stripe("POST", path, cancel_at=str(int(at)))

    async def _pause(self, step: Step) -> None:
        await self._stage.control(f"subscriptions/{await self._subscription(step)}/pause")

    async def _resume(self, step: Step) -> None:
        await self._stage.control(f"subscriptions/{await self._subscription(step, 'paused')}/resume")

    async def _pause_collection(self, step: Step) -> None:
        path = f"subscriptions/{await self._subscription(step)}"
        behavior = _pick(("void", "mark_uncollectible", "keep_as_draft", ""), step.draws[1])
        form = {"pause_collection[behavior]": behavior} if behavior else {"pause_collection": ""}
        await self._stage.stripe("POST", path, **form)

    async def _collect(self, step: Step) -> None:
        invoice = await self._one(step, "invoices", lambda i: i["status"] == "open")
        outcome = "paid" if step.draws[1] < 0.6 else "failed"
        await self._stage.control(f"invoices/{invoice['id']}/collect", outcome=outcome)

    async def _forgive(self, step: Step) -> None:
        invoice = await self._one(step, "invoices", lambda i: i["status"] == "open")
        await self._stage.control(f"invoices/{invoice['id']}/{_pick(('void', 'mark_uncollectible'), step.draws[1])}")

    async def _credit(self, step: Step) -> None:
        """Take something off an invoice: all of what is left to be paid, or given back, or a part of it."""
        invoice = await self._one(step, "invoices", lambda i: i["status"] in {"open", "paid"} and _creditable(i) > 0)
        amount = _creditable(invoice) if step.draws[1] < 0.6 else max(1, int(_creditable(invoice) * step.draws[2]))
        back = _pick(("refund", "balance", "balance", "elsewhere"), step.draws[2] * 100 % 1)
        await self._stage.control(f"invoices/{invoice['id']}/credit", amount=amount, back=back)

    async def _balance(self, step: Step) -> None:
        customer = await self._one(step, "customers", lambda c: not c["deleted"])
        await self._stage.control(
            f"customers/{customer['id']}/balance", amount=-_pick((300, 1900, 9900), step.draws[1])
        )

    async def _extra(self, step: Step) -> None:
        path = f"subscriptions/{await self._subscription(step, 'active', 'trialing', 'past_due')}/extra"
        await self._stage.control(path, amount=_pick((500, 500, 4900, -300, -2500), step.draws[1]))

    async def _pay_part(self, step: Step) -> None:
        invoice = await self._one(step, "invoices", lambda i: i["status"] == "open" and i["amount_remaining"] > 1)
        amount = max(1, int(invoice["amount_remaining"] * step.draws[1] * 0.9))
        await self._stage.control(f"invoices/{invoice['id']}/pay_part", amount=amount)

    async def _pay_elsewhere(self, step: Step) -> None:
        invoice = await self._one(step, "invoices", lambda i: i["status"] in {"open", "uncollectible"})
        await self._stage.control(f"invoices/{invoice['id']}/pay_elsewhere")

    async def _refund(self, step: Step) -> None:
        charge = await self._one(step, "charges", lambda c: c["paid"] and not c["refunded"])
        left = charge["amount"] - charge["amount_refunded"]
        amount = left if step.draws[1] < 0.5 else max(1, int(left * step.draws[1] / 2))
        body = {"payment_intent": charge["payment_intent"], "amount": amount, "pending": step.draws[2] < 0.3}
        await self._stage.control("refunds", **body)

    async def _end_refund(self, step: Step) -> None:
        refund = await self._one(step, "refunds", lambda r: r["status"] in {"pending", "succeeded"})
        outcome = _pick(("failed", "failed", "succeeded", "canceled"), step.draws[1])
        await self._stage.control(f"refunds/{refund['id']}/end", outcome=outcome)

    async def _dispute(self, step: Step) -> None:
        charge = await self._one(step, "charges", lambda c: c["paid"] and not c["disputed"])
        part = {"amount": max(1, int(charge["amount"] * step.draws[2]))} if step.draws[2] < 0.4 else {}
        body = {"payment_intent": charge["payment_intent"], "warning": step.draws[1] < 0.3, **part}
        await self._stage.control("disputes", **body)

    async def _move_dispute(self, step: Step) -> None:
        dispute = await self._one(step, "disputes")
        await self._stage.control(f"disputes/{dispute['id']}", status=_pick(_DISPUTE_STEPS, step.draws[1]))

    async def _delete(self, step: Step) -> None:
        customer = await self._one(step, "customers", lambda c: not c["deleted"])
        await self._stage.stripe("DELETE", f"customers/{customer['id']}")

    async def _enrol(self, step: Step) -> None:
        """Have somebody in the dashboard subscribe a customer who has been to a page, by hand, with nothing of ours on it.

        Not one that Stripe made twice, because its first answer was lost: that has our metadata, and nobody is bound to it.
        """
        used = {session["customer"] for session in (await self._truth(step))["checkout_sessions"]}
        customer = await self._one(step, "customers", lambda c: not c["deleted"] and c["id"] in used)
        found = await self._stage.stripe("GET", "prices", **{"lookup_keys[0]": _pick(_LOOKUP_KEYS, step.draws[1])})
        how = step.draws[2]
        match int(how * 5):
            case 0 | 1:
                behavior = _pick(("cancel", "pause", "create_invoice"), how * 5 / 2)
                form = {"trial_period_days": "4", "trial_settings[end_behavior][missing_payment_method]": behavior}
            case 2:
                form = {"collection_method": "send_invoice", "days_until_due": str(int(how * 100 % 10))}
            case 3:
                form = {"discounts[0][coupon]": await self._coupon(how * 5 % 1)}
            case _:
                form = {"payment_behavior": "default_incomplete"} if how * 5 % 1 < 0.5 else {}
        item = {"items[0][price]": found["data"][0]["id"], "items[0][quantity]": str(1 + int(how * 1000 % 3))}
        await self._stage.stripe("POST", "subscriptions", customer=customer["id"], **item, **form)

    async def _collection(self, step: Step) -> None:
        """Have what a subscription costs from now on sent to be paid, or charged."""
        path = f"subscriptions/{await self._subscription(step)}"
        sent = {"collection_method": "send_invoice", "days_until_due": str(int(step.draws[2] * 8))}
        form = sent if step.draws[1] < 0.7 else {"collection_method": "charge_automatically"}
        await self._stage.stripe("POST", path, **form)

    async def _raise_price(self, step: Step) -> None:
        """Make a dearer price and move the lookup key to it; everybody on the old one keeps the plan."""
        lookup_key = _pick(_LOOKUP_KEYS, step.draws[0])
        found = await self._stage.stripe("GET", "prices", **{"lookup_keys[0]": lookup_key})
        old = found["data"][0]
        await self._stage.stripe(
            "POST",
            "prices",
            product=old["product"],
            currency=old["currency"],
            unit_amount=str(old["unit_amount"] + 100),
            lookup_key=lookup_key,
            transfer_lookup_key="true",
            **{"recurring[interval]": old["recurring"]["interval"]},
        )


_DEEDS: Mapping[Deed, Callable[[Lives, Step], Awaitable[None]]] = {
    deed: getattr(Lives, f"_{deed.value}") for deed in Deed
}


def _creditable(invoice: Mapping[str, Any]) -> int:
    """Tell what may be taken off an invoice, in minor units."""
    if invoice["status"] == "open":
        return int(invoice["amount_remaining"])
    return int(invoice["amount_paid"] - invoice["post_payment_credit_notes_amount"])


def _pick(among: Sequence[Any], draw: float) -> Any:
    return among[min(int(draw * len(among)), len(among) - 1)]
