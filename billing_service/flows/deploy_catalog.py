"""Compares a catalog with Stripe, and makes there what is missing.

Nothing is remembered of a run: each step reads again what Stripe has, compares, and does the first stage of what is left
(products, prices, portal configurations). So a run that broke off is finished by the next, and one too many does nothing.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Collection

import structlog

from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_actions import STAGES, Action
from billing_service.domain.catalog_comparison import Comparison, compare
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.errors import (
    StripeBusy,
    StripeCallError,
    StripeDefinite,
    StripeKeyConflict,
    StripeNoAnswer,
)
from billing_service.stripe_api.prices import lookup_keys_of

MAX_STEPS = 20  # three stages, and what has to be tried again
MAX_FAILURES = 4  # of steps in a row
PAUSE_S = 1.0  # after the first failure; twice as long after each further one

log = structlog.get_logger(__name__)

Told = Callable[[Action, str], None]


class StripeMovedError(Exception):
    """While a confirmed list was carried out, something became different that is not on it; `places` names it."""

    def __init__(self, places: Collection[str]) -> None:
        """Take where."""
        self.places = tuple(places)
        super().__init__(f"Stripe was changed meanwhile: {', '.join(self.places)}. Look at the plan again.")


class DeployCatalog:
    """One catalog and one Stripe account."""

    def __init__(
        self, stripe: StripeApi, catalog: Catalog, deployment: str, *, livemode: bool | None, pause_s: float = PAUSE_S
    ) -> None:
        """`deployment` marks what is made; `livemode` is the API key's, if it tells."""
        self._stripe = stripe
        self._catalog = catalog
        self._deployment = deployment
        self._livemode = livemode
        self._pause_s = pause_s

    async def compare(self) -> Comparison:
        """Say what Stripe has otherwise, and what would be done; changes nothing. Raises StripeCallError."""
        offers = await self._stripe.offers.read(lookup_keys_of(self._catalog), self._deployment)
        return compare(self._catalog, offers, self._deployment, livemode=self._livemode)

    async def apply(self, confirmed: Comparison, told: Told) -> Comparison:
        """Carry out the actions that a person has confirmed, and give what is left, which is what no action ends.

        `told` hears of each action that was done, with the id of what it made.

        Raises:
            StripeMovedError: there is something else to do than what was confirmed; what was done stays.
            StripeCallError: Stripe refused, or was away for too long; the next run goes on.
        """
        allowed = {action.identity for action in confirmed.actions}
        tries: Counter[tuple[str, ...]] = Counter()
        failures = 0
        for _ in range(MAX_STEPS):
            comparison = await self.compare()
            if not comparison.actions:
                return comparison
            if strange := [action.place for action in comparison.actions if action.identity not in allowed]:
                raise StripeMovedError(strange)
            error = await self._step(_first_stage(comparison), tries, told)
            failures = failures + 1 if error is not None else 0
            if error is not None and failures >= MAX_FAILURES:
                raise error
            await asyncio.sleep(self._pause_s * 2 ** (failures - 1) if failures else 0)
        raise StripeNoAnswer("catalog.apply", f"Stripe's lists do not show what was made within {MAX_STEPS} looks")

    async def _step(
        self, actions: Collection[Action], tries: Counter[tuple[str, ...]], told: Told
    ) -> StripeCallError | None:
        """Do actions that need nothing of each other; give the error after which another look may help."""
        for action in actions:
            try:
                made = await self._stripe.offers.carry_out(action, self._key(action, tries[action.identity]))
            except (StripeNoAnswer, StripeBusy) as error:  # it may have had its effect: the same key again
                return error
            except (StripeDefinite, StripeKeyConflict) as error:  # Stripe repeats that to this key: another one
                tries[action.identity] += 1
                if tries[action.identity] >= MAX_FAILURES or (tries[action.identity] > 1 and not _may_pass(error)):
                    raise
                return error
            tries[action.identity] += 1
            log.info("catalog_action_done", kind=action.kind, place=action.place, made=made.object["id"])
            told(action, str(made.object["id"]))
        return None

    def _key(self, action: Action, tries: int) -> str:
        """Give the key that every run has for this action at first: two at once make one thing.

        Once Stripe has answered, nothing of it is under way any more, and what it answered would only be repeated.
        """
        key = action.idempotency_key(self._deployment)
        return key if tries == 0 else f"{key}/{uuid.uuid4()}"


def _first_stage(comparison: Comparison) -> list[Action]:
    for stage in STAGES:
        found = [action for action in comparison.actions if action.kind in stage]
        if found:
            return found
    return []


def _may_pass(error: StripeDefinite | StripeKeyConflict) -> bool:
    return isinstance(error, StripeDefinite) and error.is_server_error
