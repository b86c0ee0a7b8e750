"""Generated lives of one customer at Stripe: in whichever order their events come, twice or with losses that reads repair, what
is known of them ends at Stripe's own state, at every instant asked.

Pure but for the stand-in, which lives the lives: events are read, joined, gathered and folded as the service does.
"""

from __future__ import annotations

import itertools
import json
import random
import tomllib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import aiohttp
import pytest
from billing.v1 import subscription_pb2

from billing_service.domain.access import accesses
from billing_service.domain.catalog_file import parse_catalog
from billing_service.domain.entitlement import Entitlements, fold
from billing_service.domain.facts import gather
from billing_service.domain.merge import ObjectState, join, of_event, of_notice, of_read
from billing_service.domain.observation import observe, read_event
from billing_service.domain.plan_index import PlanIndex
from billing_service.domain.subscription_schedule import schedule_body
from billing_service.flows.wanted_reads import TIE_S
from sandbox.stripe.app import StandInStripe
from sandbox.stripe.thin_events import thin_twin
from tests.torture import plan
from tests.torture import truth as truths
from tests.torture.lives import Lives
from tests.torture.plan import Deed, Step
from tests.torture.stage import CATALOG, ControlError

CATALOG_TOML = tomllib.loads(CATALOG.read_text())
KEY = "sk_test_histories"
CUSTOMER = "ann"
CATALOG_TEXT = CATALOG.read_text()
HOUR_S = 3_600
INSTANTS = tuple(timedelta(hours=hours) for hours in (0, 1, 24, 24 * 7, 24 * 8 + 1, 24 * 32, 24 * 400))
WEIGHTS = {deed: weight for deed, weight in plan.WEIGHTS.items() if deed is not Deed.RAISE_PRICE}
SHORT, LONG = range(8), range(40)
SHORT_EVENTS = 6  # 720 orders
PERMUTATIONS = 60
THIN_SHARE = 0.5  # of the events in every second permutation
Reads = Mapping[str, Callable[..., ObjectState]]  # by the id of the object


class StandIn:
    """The stand-in by HTTP, as `Lives` uses it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def control(self, path: str, **body: Any) -> Any:
        """Use a control. Raises ControlError when it refuses."""
        async with self._session.post(f"{self._url}/_control/{path}", json=body) as response:
            return await _answer(response)

    async def ask(self, path: str) -> Any:
        """Ask a control."""
        async with self._session.get(f"{self._url}/_control/{path}") as response:
            return await _answer(response)

    async def stripe(self, method: str, path: str, **form: str) -> Any:
        """Use the API. Raises ControlError when it refuses."""
        headers = {"Authorization": f"Bearer {KEY}"}
        given: dict[str, Any] = {"params" if method == "GET" else "data": form}
        async with self._session.request(method, f"{self._url}/v1/{path}", headers=headers, **given) as response:
            return await _answer(response)


async def _answer(response: aiohttp.ClientResponse) -> Any:
    body = await response.json()
    if response.status != 200:
        raise ControlError(str(body))
    return body


class DirectLives(Lives):
    """Lives whose purchases are made at Stripe directly, with the metadata that the service would have put there."""

    def __init__(self, stand_in: StandIn) -> None:
        super().__init__(stand_in)  # type: ignore[arg-type]  # what Lives uses of a stage
        self._stand_in = stand_in
        self._stripe_customer: str | None = None

    async def _checkout(
        self, customer_id: str, plan_key: str, price_key: str, quantity: int | None, *, takes_codes: bool
    ) -> str:
        ours = {
            "billing_deployment": "default", "billing_customer_id": customer_id, "billing_plan_key": plan_key,
            "billing_price_key": price_key, "billing_quantity": str(quantity or 1),
        }  # fmt: skip
        if self._stripe_customer is None:
            made = await self._stand_in.stripe("POST", "customers", **_nested("metadata", ours))
            self._stripe_customer = made["id"]
        lookup_key = _lookup_key(plan_key, price_key)
        price = (await self._stand_in.stripe("GET", "prices", **{"lookup_keys[0]": lookup_key}))["data"][0]
        plan = CATALOG_PARSED.plans[plan_key]
        mode, tried = plan.mode.value, plan.policy.trial
        trial = {"subscription_data[trial_period_days]": str(tried.days)} if tried else {}
        session = await self._stand_in.stripe(
            "POST", "checkout/sessions", mode=mode, customer=self._stripe_customer, success_url="https://shop.example/",
            client_reference_id=customer_id, allow_promotion_codes=str(takes_codes).lower(),
            **{"line_items[0][price]": price["id"], "line_items[0][quantity]": str(quantity or 1)},
            **_nested("metadata", ours),
            **(_nested("subscription_data[metadata]", ours) if mode == "subscription" else {}), **trial,
        )  # fmt: skip
        return str(session["id"])

    async def _change_plan(self, request: subscription_pb2.UpdateSubscriptionRequest) -> None:
        """Have a schedule make the change at the end of the period, as the service would; what it would make now is another deed."""
        subscription = await self._stand_in.stripe("GET", f"subscriptions/{request.stripe_subscription_id}")
        if subscription["schedule"] and request.timing == subscription_pb2.UPDATE_TIMING_NOW_WITH_PRORATION:
            await self._stand_in.stripe("POST", f"subscription_schedules/{subscription['schedule']}/release")
            return
        schedule = await self._stand_in.stripe("POST", "subscription_schedules", from_subscription=subscription["id"])
        lookup_key = _lookup_key(request.plan_key, request.price_key)
        price = (await self._stand_in.stripe("GET", "prices", **{"lookup_keys[0]": lookup_key}))["data"][0]
        item = subscription["items"]["data"][0]
        body = schedule_body(
            schedule, subscription, item, price["recurring"],
            {"item": {"price": price["id"], "quantity": request.quantity or 1}, "metadata": {}, "mark": {}},
        )  # fmt: skip
        await self._stand_in.stripe("POST", f"subscription_schedules/{schedule['id']}", **_form(body))


CATALOG_PARSED = parse_catalog(CATALOG_TEXT)
LENDING = frozenset(key for key, one in CATALOG_PARSED.plans.items() if one.policy.access_before_settled)


def _lookup_key(plan_key: str, price_key: str) -> str:
    prices = CATALOG_PARSED.plans[plan_key].prices
    return next(price.lookup_key for price in prices if price.price_key == price_key)


def _form(value: Any, name: str = "") -> dict[str, str]:
    """Write a body as Stripe takes it."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if below is None:
        return {name: str(value)}
    found: dict[str, str] = {}
    for key, one in below:
        found |= _form(one, f"{name}[{key}]" if name else str(key))
    return found


def _nested(name: str, values: Mapping[str, str]) -> dict[str, str]:
    return {f"{name}[{key}]": value for key, value in values.items()}


@dataclass(frozen=True)
class History:
    """Everything that Stripe said of one life, and where it ended."""

    events: Sequence[dict[str, Any]]
    truth: Mapping[str, Any]
    plans: PlanIndex
    now: datetime

    def wanted(self, instant: timedelta) -> Entitlements:
        """Give what the customer must have at an instant after the end."""
        return truths.entitlements_of(CUSTOMER, self.truth, self.plans, self.now + instant)

    def folded(self, states: Iterable[ObjectState], instant: timedelta) -> Entitlements:
        """Give what the customer has by what is known."""
        given = accesses(gather(states), self.plans.of_price, self.plans.of_key)
        return fold(CUSTOMER, 0, given, self.plans.catalog, self.now + instant)

    def reads(self) -> Reads:
        """Give what makes a read of every object as it is at the end, of what was known of it before."""
        at = int(self.now.timestamp())
        found: dict[str, Callable[..., ObjectState]] = {}
        for name, kind in truths._KINDS.items():
            for obj in self.truth.get(name, ()):
                seen = observe(obj, kind)
                found[seen.object_id] = partial(
                    of_read, seen, fence=10**9, request_time=at, server_time=at, known_created=None
                )
        return found

    def never_paid(self) -> set[str]:
        """Give the subscriptions of which no invoice is paid; one that asks for nothing is, as of a trial or with a coupon for all of it.

        Not one of a change or an extra that credited something, or cost nothing by itself.
        """
        invoices = [i for i in self.truth.get("invoices", ()) if i["status"] == "paid"]
        paid = {_subscription_of(i) for i in invoices if i["total"] > 0 or i["subtotal"] > 0 or _is_of_period(i)}
        return {subscription["id"] for subscription in self.truth.get("subscriptions", ())} - paid

    def unheard(self) -> set[str]:
        """Give the invoices of which nobody may have told before they are paid, and which are asked for and decide by when they are due."""
        subscriptions = self.truth.get("subscriptions", ())
        overdue = {
            subscription["latest_invoice"] for subscription in subscriptions if subscription["status"] == "past_due"
        }
        return overdue | {i["id"] for i in self.truth.get("invoices", ()) if i["collection_method"] == "send_invoice"}


def _is_of_period(invoice: Mapping[str, Any]) -> bool:
    return invoice["billing_reason"] in {"subscription_create", "subscription_cycle"}


def _subscription_of(invoice: Mapping[str, Any]) -> str:
    return str(invoice["parent"]["subscription_details"]["subscription"])


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    """A Stripe whose webhooks go nowhere."""
    server = StandInStripe(KEY)
    url = await server.start()
    try:
        server.seed(CATALOG_TOML)
        async with aiohttp.ClientSession() as session:
            yield StandIn(url, session)
    finally:
        await server.stop()


async def live(stand_in: StandIn, seed: int, deeds: int) -> History:
    """Lead a life of so many deeds, with hours or days between them."""
    draw = random.Random(f"history/{seed}/{deeds}")
    lives = DirectLives(stand_in)
    events: dict[str, dict[str, Any]] = {}
    for index in range(deeds):
        deed = Deed.BUY if index == 0 else draw.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        await lives.lead(Step(CUSTOMER, deed, (draw.random(), draw.random(), draw.random())))
        await stand_in.control("clock", advance_s=draw.choice((HOUR_S, 12 * HOUR_S, 48 * HOUR_S, 160 * HOUR_S)))
        events |= {event["id"]: event for event in await listed(stand_in)}  # Stripe forgets them after thirty days
    prices = (await stand_in.stripe("GET", "prices", limit="100"))["data"]
    plans = PlanIndex(CATALOG_PARSED, {price["id"]: str(price["product"]).removeprefix("prod_") for price in prices})
    truth = (await stand_in.ask(f"truth/{CUSTOMER}"))["customers"].get(CUSTOMER, {})
    now = datetime.fromtimestamp((await stand_in.ask("clock"))["now"], UTC)
    return History([*events.values()], truth, plans, now)


async def listed(stand_in: StandIn) -> list[dict[str, Any]]:
    """Give the events of the types that are used, the oldest first."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        page = await stand_in.stripe("GET", "events", limit="100", **after)
        found += [event for event in page["data"] if read_event(event).observation is not None]
        if not page["has_more"]:
            return found[::-1]
        after = {"starting_after": page["data"][-1]["id"]}


def known_after(events: Iterable[Mapping[str, Any]]) -> dict[str, ObjectState]:
    """Give what is known after these events, in this order."""
    known: dict[str, ObjectState] = {}
    for receipt, body in enumerate(events, start=1):
        event = read_event(body)
        state = None
        if event.observation is not None:
            state = of_event(event, event.observation, receipt)
        elif event.notice is not None:
            state = of_notice(event, event.notice)
        if state is not None:
            there = known.get(state.object_id)
            known[state.object_id] = state if there is None else join(there, state)
    return known


def tied(events: Iterable[Mapping[str, Any]]) -> set[str]:
    """Give the objects of which two events came so near that the service asks Stripe: see wanted_reads."""
    times: dict[str, list[int]] = {}
    for body in events:
        times.setdefault(body["data"]["object"]["id"], []).append(body["created"])
    return {
        object_id
        for object_id, created in times.items()
        if any(abs(one - other) <= TIE_S for one, other in itertools.combinations(created, 2))
    }


def with_reads(
    known: dict[str, ObjectState], reads: Reads, ids: Iterable[str], unheard: Collection[str] = ()
) -> list[ObjectState]:
    """Give what is known once these objects were read, and those of the `unheard` of which nobody told."""
    for object_id in {*ids, *(one for one in unheard if one not in known)}:
        if object_id in reads:
            there = known.get(object_id)
            read = reads[object_id](was_told=there is not None and there.tells_of_completion)
            known[object_id] = read if there is None else join(there, read)
    return [state for state in known.values() if state.is_seen]


def thinned(events: Iterable[dict[str, Any]], draw: random.Random) -> tuple[list[dict[str, Any]], set[str]]:
    """Have some of the events come as thin ones, and give the objects that Stripe is asked about for it.

    Not where only the payload says since when something is paid: the thin twin leaves that to the time of the read.
    """
    bodies, asked = [], set()
    for event in events:
        twin = thin_twin(event) if draw.random() < THIN_SHARE else None
        if twin is not None and read_event(twin).facts == read_event(event).facts:
            bodies.append(twin)
            asked.add(event["data"]["object"]["id"])
        else:
            bodies.append(event)
    return bodies, asked


@pytest.mark.parametrize("seed", SHORT)
async def test_every_order_of_a_short_life_ends_at_stripes_own_state(stand_in: StandIn, seed: int) -> None:
    history = await live(stand_in, seed, deeds=2)
    # What settles the rest of the events first, in their order; then the last ones in every order.
    settled, last = history.events[:-SHORT_EVENTS], history.events[-SHORT_EVENTS:]
    reads, near, unheard = history.reads(), tied(history.events), history.unheard()
    ends = {instant: history.wanted(instant) for instant in INSTANTS}
    for number, order in enumerate(itertools.permutations(last)):
        states = with_reads(known_after([*order, *settled]), reads, near, unheard)
        for instant in INSTANTS if number % 24 == 0 else INSTANTS[:1]:
            assert history.folded(states, instant) == ends[instant], [event["type"] for event in order]


@pytest.mark.parametrize("seed", LONG)
async def test_a_long_life_in_any_order_with_duplicates_and_losses_ends_at_stripes_own_state(
    stand_in: StandIn, seed: int
) -> None:
    history = await live(stand_in, seed, deeds=14)
    reads, near, unheard = history.reads(), tied(history.events), history.unheard()
    draw = random.Random(seed)
    ends = {instant: history.wanted(instant) for instant in INSTANTS}
    never_paid = history.never_paid()
    for wanted in ends.values():
        giving = [source for source in wanted.sources if source.gives and source.stripe_subscription_id in never_paid]
        assert not [source for source in giving if source.plan_key not in LENDING]
    for number in range(PERMUTATIONS):
        order, asked = [*history.events, *draw.choices(history.events, k=len(history.events) // 4)], near
        draw.shuffle(order)
        if number % 2:
            order, thin = thinned(order, draw)
            asked = near | thin
        states = with_reads(known_after(order), reads, asked, unheard)
        for instant, wanted in ends.items():
            assert history.folded(states, instant) == wanted
    # Lost events are found by the walk over Stripe's list; what is older than that is read object by object.
    lost = set(draw.sample(range(len(history.events)), k=len(history.events) // 3))
    heard = [event for index, event in enumerate(history.events) if index not in lost]
    draw.shuffle(heard)
    found_late = [history.events[index] for index in lost]
    states = with_reads(known_after([*heard, *found_late]), reads, near, unheard)
    assert {instant: history.folded(states, instant) for instant in INSTANTS} == ends
    states = with_reads(known_after([*heard, *_facts_alone(found_late)]), reads, reads)
    assert {instant: history.folded(states, instant) for instant in INSTANTS} == ends


def _facts_alone(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Give the events that say what no read can tell, as thin ones where these say as much: when a payment failed, when one was paid."""
    told = [event for event in events if read_event(json.loads(json.dumps(event))).facts]
    twins = [thin_twin(event) for event in told]
    return [
        twin if twin is not None and read_event(twin).facts == read_event(event).facts else event
        for event, twin in zip(told, twins, strict=True)
    ]
