"""One customer's life through the service's API: calls with faults, what people do at Stripe meanwhile, and checks after each."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC
from functools import partial
from typing import Any

from aiohttp import web
from billing.v1 import checkout_pb2, entitlement_pb2
from billing.v1 import subscription_pb2 as pb
from google.protobuf.message import Message

from billing_service.rpc.responses import get_entitlements_response
from tests.callers import checks
from tests.callers.checks import LIVE, Picture
from tests.callers.stage import HELD_S, Stage, Told
from tests.stripe_proxy import Fault, Forward, fail, lose_answer, lose_request
from tests.torture.lives import _DEEDS, Lives
from tests.torture.plan import WEIGHTS, Deed, Step
from tests.torture.stage import ControlError
from tests.torture.truth import entitlements_of

HOUR_S, DAY_S = 3_600, 86_400
TIMES_S = (1, 60, HOUR_S, 12 * HOUR_S, DAY_S, 2 * DAY_S, 4 * DAY_S, 7 * DAY_S)
TRIES = 8  # of a call that is to be repeated
FAULTY_TRIES = 3
REMEMBERED = 6  # of the calls that came to something, for their repetition
OFFERS = (("pro", "weekly"), ("pro", "monthly"), ("team", "weekly"), ("trial", "weekly"), ("pass", "once"))
HELD_OFFERS = OFFERS[:4]
URL = "https://shop.example/done"
# What people do at Stripe; not what the service does by itself here.
BY_HAND = {deed: weight for deed, weight in WEIGHTS.items() if deed not in {Deed.BUY, Deed.CHANGE_BY_US}}


class Life:
    """A customer, and those who act for them."""

    def __init__(self, stage: Stage, customer_id: str, draw: random.Random) -> None:
        """Take where it is led, and the draws that decide what happens."""
        self._stage = stage
        self._id = customer_id
        self._draw = draw
        self._lives = Lives(stage.at)  # type: ignore[arg-type]  # what it uses of a stage
        self._done: list[tuple[str, Any, Told]] = []
        self._given: set[str] = set()  # pages
        self._numbers = 0
        self.counts: Counter[str] = Counter()

    async def lead(self, steps: int) -> None:
        """Buy something, go so many steps, and come to rest."""
        await self._buy()
        await self._some_arrives()
        rules: dict[Callable[[], Awaitable[None]], int] = {
            self._buy: 8, self._update: 18, self._cancel: 6, self._resume: 6, self._again: 5, self._by_hand: 16,
            self._time_passes: 8, self._some_arrives: 12, self._rest: 3,
        }  # fmt: skip
        for rule in self._draw.choices([*rules], [*rules.values()], k=steps):
            self.counts[rule.__name__] += 1
            await rule()
            await self._stage.pass_time(1)
        await self._rest()

    # --- What calls do -------------------------------------------------------------------------------------------------

    async def _buy(self) -> None:
        held = [one for one in (await self._truth())["subscriptions"] if one["status"] in LIVE]
        plan_key, price_key = self._draw.choice(OFFERS if held else HELD_OFFERS)
        request = checkout_pb2.CreateCheckoutSessionRequest(
            request_id=self._request_id(), customer_id=self._id, plan_key=plan_key, price_key=price_key,
            quantity=self._draw.randint(1, 4) if plan_key == "team" else None, success_url=URL, cancel_url=URL,
        )  # fmt: skip
        told, is_alone = await self._carried_out("CreateCheckoutSession", request)
        truth = await self._truth()
        if told.answer is None:
            return
        page = told.answer.checkout_session
        self._given.add(page.checkout_session_id)
        checks.one_page_of_a_group(truth, self._given)
        status = {one["id"]: one["status"] for one in truth["checkout_sessions"]}[page.checkout_session_id]
        assert not is_alone or status == "open", f"given a page that is {status}"
        self._done.append(("CreateCheckoutSession", request, told))
        await self._stage.pass_time(4)  # for longer than a read counts as fresh
        outcome = self._draw.choice(("paid",) * 9 + ("processing", "declined", "incomplete", ""))
        if outcome:
            await self._pay(page.checkout_session_id, outcome)

    async def _pay(self, session_id: str, outcome: str) -> None:
        with suppress(ControlError):
            await self._stage.at.control(f"checkout/sessions/{session_id}/complete", outcome=outcome)

    async def _update(self) -> None:
        one = await self._subscription()
        if one is None:
            return
        later = self._draw.random() < 0.5
        timing = pb.UPDATE_TIMING_AT_PERIOD_END if later else pb.UPDATE_TIMING_NOW_WITH_PRORATION
        fields = {"customer_id": self._id, "stripe_subscription_id": one["id"], "timing": timing, **self._wish()}
        preview = await self._told("PreviewSubscriptionUpdate", pb.PreviewSubscriptionUpdateRequest(**fields))
        had, before, by_hand = await self._entitlements(), await self._picture(), self.counts["by hand meanwhile"]
        request = pb.UpdateSubscriptionRequest(request_id=self._request_id(), **fields)
        told, is_alone = await self._carried_out("UpdateSubscription", request)
        after = await self._picture()
        made = after.changes(before)
        assert len(made) <= 1 + self.counts["by hand meanwhile"] - by_hand, f"one request charges {made}"
        refused = is_alone and told.answer is None and preview.answer is not None
        assert not refused or told.reason == "PAYMENT_FAILED", f"previewed, and refused: {told}"
        if not is_alone or not self._is_made("UpdateSubscription", request, told, before, after):
            return
        assert preview.answer is not None, f"done, and the preview was refused: {preview}"
        checks.is_as_answered(told.answer.subscription, after.subscriptions[one["id"]])
        if later:
            assert (made, after.subscriptions[one["id"]].items) == ({}, before.subscriptions[one["id"]].items)
        else:
            checks.costs_what_was_said(preview.answer, made)
            if not self._stage.published():
                checks.gives_what_was_said(preview.answer, had, await self._entitlements())

    def _wish(self) -> dict[str, Any]:
        plan_key, price_key = self._draw.choice(HELD_OFFERS)
        quantity = self._draw.randint(1, 5)
        match self._draw.randrange(4):
            case 0:
                return {"quantity": quantity}
            case 1:
                return {"plan_key": plan_key}
            case _:
                seats = {"quantity": quantity} if plan_key == "team" else {}
                return {"plan_key": plan_key, "price_key": price_key, **seats}

    async def _cancel(self) -> None:
        one = await self._subscription()
        if one is None:
            return
        timing = pb.CANCEL_TIMING_NOW if self._draw.random() < 0.15 else pb.CANCEL_TIMING_AT_PERIOD_END
        request = pb.CancelSubscriptionRequest(
            request_id=self._request_id(), customer_id=self._id, stripe_subscription_id=one["id"], timing=timing
        )
        after = await self._changed("CancelSubscription", request, one["id"])
        if after is not None:
            held = after.subscriptions[one["id"]]
            assert held.ends or held.status not in LIVE
            assert timing != pb.CANCEL_TIMING_NOW or held.status not in LIVE

    async def _resume(self) -> None:
        one = await self._subscription()
        if one is None:
            return
        request = pb.ResumeSubscriptionRequest(
            request_id=self._request_id(), customer_id=self._id, stripe_subscription_id=one["id"]
        )
        after = await self._changed("ResumeSubscription", request, one["id"])
        assert after is None or not after.subscriptions[one["id"]].ends

    async def _changed(self, method: str, request: Any, subscription_id: str) -> Picture | None:
        """Carry a change out that costs nothing, and give what is there after it; None where it was not made alone."""
        before = await self._picture()
        told, is_alone = await self._carried_out(method, request)
        after = await self._picture()
        if not is_alone or not self._is_made(method, request, told, before, after):
            return None
        was_paused = before.subscriptions[subscription_id].status == "paused"
        assert was_paused or after.changes(before) == {}  # a new period is begun, and costs what it costs
        checks.is_as_answered(told.answer.subscription, after.subscriptions[subscription_id])
        return after

    def _is_made(self, method: str, request: Any, told: Told, before: Picture, after: Picture) -> bool:
        """Say whether a change was made; one that was refused changed nothing."""
        if told.answer is None:
            assert before == after, f"{told}, and Stripe has {after} instead of {before}"
            return False
        self._done.append((method, request, told))
        return True

    async def _again(self) -> None:
        """Repeat a call: the same gets its answer, another with its request id is refused, and neither has an effect."""
        if not self._done:
            return
        method, request, first = self._draw.choice(self._done[-REMEMBERED:])
        before = await self._picture()
        other = type(request)()
        other.CopyFrom(request)
        other.customer_id = f"{self._id}-other"
        if self._draw.random() < 0.3:
            assert (await self._told(method, other)).reason == "REQUEST_ID_REUSED"
        else:
            told, is_alone = await self._carried_out(method, request)
            if not is_alone:
                return
            assert told.answer is not None, f"{method} was answered, and is refused: {told}"
            if method == "CreateCheckoutSession":
                ids = [one.answer.checkout_session.checkout_session_id for one in (told, first)]
                assert ids[0] == ids[1]
            else:
                assert told.answer == first.answer
        assert await self._picture() == before

    # --- What happens besides ------------------------------------------------------------------------------------------

    async def _by_hand(self) -> None:
        """Have somebody in the dashboard, a bank or the payer do something."""
        if self._draw.random() < 0.1:
            await self._schedule_by_hand()
            return
        (deed,) = self._draw.choices([*BY_HAND], [*BY_HAND.values()])
        draws = (self._draw.random(), self._draw.random(), self._draw.random())
        assert deed in _DEEDS
        await self._lives.lead(Step(self._id, deed, draws))

    async def _schedule_by_hand(self) -> None:
        """Let a schedule go in the dashboard, or put a subscription under one that is not ours."""
        one = await self._subscription()
        with suppress(ControlError):
            if one is not None and one["schedule"]:
                await self._stage.at.stripe("POST", f"subscription_schedules/{one['schedule']}/release")
            elif one is not None and self._draw.random() < 0.3:
                made = await self._stage.at.stripe("POST", "subscription_schedules", from_subscription=one["id"])
                path, mark = f"subscription_schedules/{made['id']}", {"metadata[by]": "hand"}
                await self._stage.at.stripe("POST", path, **mark)

    async def _time_passes(self) -> None:
        await self._stage.pass_time(self._draw.choice(TIMES_S))

    async def _some_arrives(self) -> None:
        """Have some of the webhooks come, in any order, some twice, some long after."""
        share = self._draw.choice((1, 1, 0.5, 0.2))
        chosen = [one for one in self._stage.published() if self._draw.random() < share]
        if self._draw.random() < 0.5:
            self._draw.shuffle(chosen)
        old = sorted(self._stage.taken)
        await self._stage.deliver([*chosen, *chosen[:2], *self._draw.sample(old, min(2, len(old)))])

    async def _rest(self) -> None:
        """Once everything is told and read, what the service answers is what Stripe has."""
        await self._stage.rest()
        truth, answer = await self._truth(), await self._entitlements()
        now = answer.read_time.ToDatetime(UTC)
        wanted = get_entitlements_response(entitlements_of(self._id, truth, self._stage.plans(), now))
        wanted.revision = answer.revision  # Stripe knows nothing of our revisions
        assert answer == wanted
        checks.held_once_or_found(self._stage, self._id, truth)

    # --- Calls, and what goes wrong with them --------------------------------------------------------------------------

    async def _carried_out(self, method: str, request: Message) -> tuple[Told, bool]:
        """Call until it comes to something; say also whether nothing else happened meanwhile."""
        told, is_alone = Told(), True
        is_faulty = self._draw.random() < 0.5
        for number in range(TRIES):
            if is_faulty and number < FAULTY_TRIES:
                is_alone = False
                name, fault = self._draw.choice(self._faults())
                self.counts[name] += 1
                self._stage.proxy.nth(self._draw.choice((1, 1, 2, 2, 3, 3, 4, 5)), fault)
            told = await self._told(method, request)
            if not told.is_to_be_repeated:
                return told, is_alone
            if told.code in {"ABORTED", "CANCELLED"}:  # somebody is at it, or was when the process died
                await self._stage.pass_time(HELD_S)
                is_alone = False
        raise AssertionError(f"{method} comes to nothing: {told}")

    def _faults(self) -> tuple[tuple[str, Fault], ...]:
        return (
            ("busy", _busy),
            ("fail", fail),
            ("lose request", lose_request),
            ("lose answer", lose_answer),
            ("kill before", partial(self._stage.kill, is_made=False)),
            ("kill after", partial(self._stage.kill, is_made=True)),
            ("pays meanwhile", self._pays_meanwhile),
            ("by hand meanwhile", self._by_hand_meanwhile),
            ("arrives meanwhile", self._arrives_meanwhile),
        )

    async def _pays_meanwhile(self, _request: web.Request, to_stripe: Forward) -> web.StreamResponse:
        pages = [one for one in (await self._truth())["checkout_sessions"] if one["status"] == "open"]
        for page in pages[:1]:
            await self._pay(page["id"], "paid")
        return await to_stripe()

    async def _by_hand_meanwhile(self, _request: web.Request, to_stripe: Forward) -> web.StreamResponse:
        await self._by_hand()
        return await to_stripe()

    async def _arrives_meanwhile(self, _request: web.Request, to_stripe: Forward) -> web.StreamResponse:
        answer = await to_stripe()
        await self._some_arrives()
        return answer

    async def _told(self, method: str, request: Message) -> Told:
        """Call one service, and now and then both at once, which must not contradict each other."""
        if method.startswith(("Get", "Preview")) or self._draw.random() < 0.9:
            told = await self._stage.call(method, request)
        else:
            told, other = await asyncio.gather(
                self._stage.call(method, request), self._stage.call(method, request, by=1)
            )
            checks.has_its_reason(method, other)
            if told.answer and other.answer and hasattr(told.answer, "subscription"):
                assert told.answer == other.answer
        checks.has_its_reason(method, told)
        return told

    async def _entitlements(self) -> entitlement_pb2.GetEntitlementsResponse:
        told = await self._told("GetEntitlements", entitlement_pb2.GetEntitlementsRequest(customer_id=self._id))
        answer: entitlement_pb2.GetEntitlementsResponse = told.answer
        return answer

    async def _truth(self) -> dict[str, Any]:
        found = (await self._stage.at.ask(f"truth/{self._id}"))["customers"].get(self._id)
        kinds = ("customers", "subscriptions", "checkout_sessions", "invoices")
        return found or {kind: [] for kind in kinds}

    async def _picture(self) -> Picture:
        return checks.picture(self._stage, await self._truth())

    async def _subscription(self) -> dict[str, Any] | None:
        """Give one of the customer's subscriptions, mostly one that is live."""
        found: list[dict[str, Any]] = (await self._truth())["subscriptions"]
        live = [one for one in found if one["status"] in LIVE]
        among = live if live and self._draw.random() < 0.9 else found
        return self._draw.choice(among) if among else None

    def _request_id(self) -> str:
        self._numbers += 1
        return f"{self._id}-{self._numbers}"


async def _busy(_request: web.Request, _forward: Forward) -> web.StreamResponse:
    """Answer 429 as Stripe does, and do nothing."""
    return web.json_response({"error": {"type": "invalid_request_error", "code": "rate_limit"}}, status=429)
