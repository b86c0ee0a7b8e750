"""What goes wrong on purpose, on the way to the webhook endpoint and in the API's answers; drawn from a seed.

What befalls the n-th event since the faults began depends on the seed and n alone, whatever runs beside it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from sandbox.stripe.errors import ApiError, RefusedBeforeExecutionError

Share = Annotated[float, Field(ge=0, le=1)]


class _Faults(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeliveryFaults(_Faults):
    """Shares of events, from 0 to 1."""

    drop: Share = 0  # never sent; listed with delivery_success=false
    duplicate: Share = 0  # sent twice, at once or one after the other
    delay: Share = 0  # sent up to `delay_s` later
    delay_s: float = Field(default=1.0, ge=0, le=60)
    reorder: Share = 0  # held until another one was answered
    twin: Share = 0  # a second event with an id of its own tells the same fact
    old_version: Share = 0  # rendered in a version from before 2025-03-31.basil
    thin: Share = 0  # a thin event of the same fact is sent beside it


class ApiFaults(_Faults):
    """Shares of requests, from 0 to 1; `slow_s` is the longest that one waits, each a random part of it."""

    rate_429: Share = 0
    rate_500: Share = 0  # half of them after the request was carried out
    cut: Share = 0  # the connection breaks, half of them after the request was carried out
    slow_s: float = Field(default=0, ge=0, le=60)


class FaultPlan(_Faults):
    """Everything that is to go wrong from now on; nothing, by default."""

    seed: int = 0
    deliveries: DeliveryFaults = DeliveryFaults()
    api: ApiFaults = ApiFaults()
    secret_roll: bool = False  # every delivery carries a second v1, of a secret that is being replaced


@dataclass(frozen=True)
class Fate:
    """What befalls one event on its way."""

    drop: bool = False
    duplicate: bool = False
    together: bool = False  # the duplicate goes out at the same time
    delay_s: float = 0.0
    reorder: bool = False
    twin: bool = False
    old_version: bool = False
    thin: bool = False


class Faults:
    """The faults of one stand-in, and how many of each there were."""

    def __init__(self) -> None:
        """Nothing goes wrong before `begin`."""
        self.plan = FaultPlan()
        self.counts: Counter[str] = Counter()
        self._events = 0
        self._requests = 0

    def begin(self, plan: FaultPlan) -> None:
        """Follow a plan from the next event and request on."""
        self.plan = plan
        self._events = self._requests = 0

    def next_fate(self) -> Fate:
        """Draw what befalls the next event."""
        self._events += 1
        shares, draw = self.plan.deliveries, random.Random(f"{self.plan.seed}/event/{self._events}")  # noqa: S311  # a seed is the point
        drop, duplicate, together = draw.random() < shares.drop, draw.random() < shares.duplicate, draw.random() < 0.5
        fate = Fate(
            drop=drop,
            duplicate=duplicate and not drop,
            together=together,
            delay_s=draw.uniform(0, shares.delay_s) if draw.random() < shares.delay else 0.0,
            reorder=draw.random() < shares.reorder,
            twin=draw.random() < shares.twin,
            old_version=draw.random() < shares.old_version,
            thin=draw.random() < shares.thin,
        )
        self.counts.update(name for name, value in vars(fate).items() if value and name != "together")
        return fate

    async def strike(self, request: web.Request) -> ApiError | None:
        """Do what befalls the next API request before it is carried out.

        Returns the error that hides what it did, if one is to; with a cut connection nothing of the answer arrives.

        Raises:
            RefusedBeforeExecutionError: it is not carried out, and its idempotency key is free.
            ApiError: it is not carried out, and this answer is kept under its key, as Stripe keeps a 500.
        """
        self._requests += 1
        shares, draw = self.plan.api, random.Random(f"{self.plan.seed}/request/{self._requests}")  # noqa: S311  # a seed is the point
        limited, failed, cut, after = (draw.random() for _ in range(4))
        if shares.slow_s:
            self.counts["api_slow"] += 1
            await asyncio.sleep(draw.uniform(0, shares.slow_s))
        if limited < shares.rate_429:
            self.counts["api_429"] += 1
            raise RefusedBeforeExecutionError(
                "Too many requests hit the API too quickly.", status=429, code="rate_limit"
            )
        if cut < shares.cut:
            self.counts["api_cut"] += 1
            if request.transport is not None:
                request.transport.abort()
            if after < 0.5:
                raise RefusedBeforeExecutionError("The connection was cut.", status=500, kind="api_error")
        if failed < shares.rate_500:
            self.counts["api_500"] += 1
            error = ApiError("An unknown error occurred", status=500, kind="api_error")
            if after < 0.5:
                raise error
            return error
        return None
