"""What happens in a run, worked out from the seed alone: who does what in which round, how far time moves, what crashes.

A deed carries its draws with it, so that the same seed leads the same lives however the machines behave.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

HOUR_S = 3_600
DEEDS_EACH = 2  # in a round, on average
EPOCH_LIMIT_S = 20 * 24 * HOUR_S  # Stripe lists and resends events for 30 days: what was dropped is repaired before


class Deed(StrEnum):
    """What one customer, his bank or the shop's owner does."""

    BUY = "buy"
    CARD = "card"
    SETTLE = "settle"
    CANCEL = "cancel"
    CANCEL_AT_END = "cancel_at_end"
    KEEP = "keep"
    CHANGE = "change"
    CHANGE_WHEN_PAID = "change_when_paid"
    ADD_ITEM = "add_item"
    REMOVE_ITEM = "remove_item"
    RESTART = "restart"
    CANCEL_AT = "cancel_at"
    PAUSE = "pause"
    RESUME = "resume"
    PAUSE_COLLECTION = "pause_collection"
    COLLECT = "collect"
    FORGIVE = "forgive"
    REFUND = "refund"
    END_REFUND = "end_refund"
    DISPUTE = "dispute"
    MOVE_DISPUTE = "move_dispute"
    DELETE = "delete"
    RAISE_PRICE = "raise_price"
    ENROL = "enrol"
    COLLECTION = "collection"
    CHANGE_BY_US = "change_by_us"
    CREDIT = "credit"
    BALANCE = "balance"
    EXTRA = "extra"
    PAY_PART = "pay_part"
    PAY_ELSEWHERE = "pay_elsewhere"


WEIGHTS = {
    Deed.BUY: 30,
    Deed.CARD: 12,
    Deed.SETTLE: 5,
    Deed.CANCEL: 4,
    Deed.CANCEL_AT_END: 5,
    Deed.KEEP: 3,
    Deed.CHANGE: 8,
    Deed.CHANGE_WHEN_PAID: 6,
    Deed.ADD_ITEM: 4,
    Deed.REMOVE_ITEM: 2,
    Deed.RESTART: 4,
    Deed.CANCEL_AT: 2,
    Deed.PAUSE: 3,
    Deed.RESUME: 4,
    Deed.PAUSE_COLLECTION: 4,
    Deed.COLLECT: 5,
    Deed.FORGIVE: 4,
    Deed.REFUND: 6,
    Deed.END_REFUND: 4,
    Deed.DISPUTE: 5,
    Deed.MOVE_DISPUTE: 7,
    Deed.DELETE: 1,
    Deed.RAISE_PRICE: 1,
    Deed.ENROL: 8,
    Deed.COLLECTION: 3,
    Deed.CHANGE_BY_US: 8,
    Deed.CREDIT: 5,
    Deed.BALANCE: 3,
    Deed.EXTRA: 5,
    Deed.PAY_PART: 3,
    Deed.PAY_ELSEWHERE: 3,
}


class Crash(StrEnum):
    """What is killed in the middle of a round, and started again."""

    SERVICE = "service"
    GATEWAY = "gateway"
    POSTGRES = "postgres"


class Repair(StrEnum):
    """How the service gets what was dropped."""

    RESEND = "resend"  # somebody presses "resend" in the dashboard
    RECONCILE = "reconcile"  # the service walks Stripe's events by itself, as it does when it starts


@dataclass(frozen=True)
class Step:
    """One deed of one customer; `draws` decide its details, each from 0 to 1."""

    customer_id: str
    deed: Deed
    draws: tuple[float, float, float]


@dataclass(frozen=True)
class Round:
    """Some deeds, perhaps a crash among them, and then time moves."""

    steps: tuple[Step, ...]
    crash: Crash | None
    advance_s: int


@dataclass(frozen=True)
class Epoch:
    """Rounds of new customers, after which everything is delivered and compared."""

    number: int
    customer_ids: tuple[str, ...]
    faults: dict[str, object]
    settings: dict[str, object]
    rounds: tuple[Round, ...]
    repair: Repair


def epoch_of(seed: int, number: int, customers: int, rounds: int) -> Epoch:
    """Work out one epoch."""
    draw = random.Random(f"torture/{seed}/{number}")  # a seed is the point
    ids = tuple(f"t{seed}-{number}-{index}" for index in range(customers))
    longest_s = min(4 * 24 * HOUR_S, EPOCH_LIMIT_S // rounds)
    return Epoch(
        number=number,
        customer_ids=ids,
        faults=_faults(draw),
        settings={
            "after_dunning": draw.choice(["canceled", "unpaid", "past_due", "paused"]),
            "draft_s": draw.choice([0, 0, HOUR_S]),
        },
        rounds=tuple(_round(draw, ids, index, rounds, longest_s) for index in range(rounds)),
        repair=list(Repair)[number % 2],
    )


def _round(draw: random.Random, ids: tuple[str, ...], index: int, rounds: int, longest_s: int) -> Round:
    if index == 0:  # everybody begins by buying something
        steps = [Step(customer_id, Deed.BUY, _draws(draw)) for customer_id in ids]
    else:
        deeds = draw.choices(list(WEIGHTS), weights=list(WEIGHTS.values()), k=DEEDS_EACH * len(ids))
        steps = [Step(draw.choice(ids), deed, _draws(draw)) for deed in deeds]
    crashes = index % 2 == 1 or rounds == 1
    return Round(tuple(steps), draw.choice(list(Crash)) if crashes else None, draw.randint(HOUR_S, longest_s))


def _draws(draw: random.Random) -> tuple[float, float, float]:
    return draw.random(), draw.random(), draw.random()


def _faults(draw: random.Random) -> dict[str, object]:
    """Every fault on, each in a share of its own."""
    return {
        "seed": draw.randrange(2**32),
        "deliveries": {
            "drop": 0.06,
            "duplicate": 0.15,
            "delay": 0.2,
            "delay_s": draw.uniform(0.2, 1.5),
            "reorder": 0.2,
            "twin": 0.06,
            "old_version": 0.3,
            "thin": 0.03,
        },
        "api": {"rate_429": 0.03, "rate_500": 0.04, "cut": 0.04, "slow_s": 0.05},
        "secret_roll": draw.random() < 0.5,
    }
