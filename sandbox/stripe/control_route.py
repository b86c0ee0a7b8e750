"""A control of the stand-in: where it is, what it takes, what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from sandbox.stripe.account import Account
from sandbox.stripe.clock import Clock
from sandbox.stripe.deliveries import Deliveries
from sandbox.stripe.faults import Faults
from sandbox.stripe.objects import Object


class Body(BaseModel):
    """A control's body: nothing beside its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Nothing(Body):
    """No body, or {}."""


@dataclass(frozen=True)
class Surroundings:
    """What a control works on."""

    account: Account
    deliveries: Deliveries
    clock: Clock
    faults: Faults


# Takes the path's id ("" where the path has none) and the validated body; returns what is answered.
Run = Callable[[Surroundings, str, Any], Object]


@dataclass(frozen=True)
class Control:
    """One method and path."""

    method: str
    path: str
    purpose: str
    body: type[BaseModel]
    run: Run
