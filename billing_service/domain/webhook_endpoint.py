"""Stripe's webhook endpoint for this service: what it should be, and what one is otherwise; pure.

https://docs.stripe.com/api/webhook_endpoints
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from billing_service.domain.observation import HANDLED_TYPES, METADATA_DEPLOYMENT, PRICE_TYPES

EVERY_TYPE = "*"
# Stripe holds a subscription's invoice back, up to 72 hours, until every endpoint that listens to it has answered.
HARMFUL_TYPES = frozenset({"invoice.created"})
WANTED_TYPES = tuple(sorted((*HANDLED_TYPES, *PRICE_TYPES)))  # those that have an effect here, and no other


@dataclass(frozen=True)
class Endpoint:
    """One endpoint at Stripe."""

    endpoint_id: str  # "we_..."
    url: str
    enabled: bool  # Stripe switches one off that fails for days
    api_version: str | None  # None: the account's default, which may change
    types: frozenset[str]
    livemode: bool
    ours: bool  # whether this deployment made it


@dataclass(frozen=True)
class EndpointProblem:
    """Something that is wrong with an endpoint."""

    message: str  # says what to do
    mended: bool  # whether `update_body` ends it


@dataclass(frozen=True)
class EndpointState:
    """What there is at one URL."""

    endpoint: Endpoint | None
    problems: tuple[EndpointProblem, ...]

    @property
    def mendable(self) -> bool:
        """Whether some of it can be mended here."""
        return any(problem.mended for problem in self.problems)


def state_of(endpoints: Iterable[Endpoint], url: str, api_version: str) -> EndpointState:
    """Judge the endpoints of an account at one URL."""
    found = sorted((one for one in endpoints if one.url == url), key=lambda one: not one.ours)
    if not found:
        return EndpointState(None, (EndpointProblem("no endpoint has this URL", mended=False),))
    problems = list(_problems(found[0], api_version))
    if len(found) > 1:
        ids = ", ".join(one.endpoint_id for one in found)
        problems.append(EndpointProblem(f"several endpoints have this URL ({ids}): delete all but one", mended=False))
    return EndpointState(found[0], tuple(problems))


def _problems(endpoint: Endpoint, api_version: str) -> Iterator[EndpointProblem]:
    if not endpoint.enabled:
        yield EndpointProblem("it is disabled: Stripe sends it nothing", endpoint.ours)
    if endpoint.api_version != api_version:
        said = endpoint.api_version or "the account's default"
        text = f"its API version is {said}, and should be {api_version}; Stripe changes no endpoint's: make another at a URL of its own, and delete this one"
        yield EndpointProblem(text, mended=False)
    if missing := _missing(endpoint.types):
        yield EndpointProblem(f"it does not get {', '.join(missing)}", endpoint.ours)
    if harmful := sorted(HARMFUL_TYPES & endpoint.types):
        text = f"it gets {', '.join(harmful)}: Stripe then holds invoices back until it has answered"
        yield EndpointProblem(text, endpoint.ours)
    if EVERY_TYPE in endpoint.types:
        text = f"it gets every type, {', '.join(sorted(HARMFUL_TYPES))} among them: Stripe then holds invoices back"
        yield EndpointProblem(text, endpoint.ours)


def _missing(types: frozenset[str]) -> Sequence[str]:
    return [] if EVERY_TYPE in types else [one for one in WANTED_TYPES if one not in types]


def create_body(url: str, api_version: str, deployment: str) -> dict[str, Any]:
    """Render the body of POST /v1/webhook_endpoints."""
    return {
        "url": url,
        "api_version": api_version,
        "enabled_events": list(WANTED_TYPES),
        "description": f"billing service, deployment {deployment}",
        "metadata": {METADATA_DEPLOYMENT: deployment},
    }


def update_body(endpoint: Endpoint) -> dict[str, Any]:
    """Render what brings one of ours in step. Types that somebody added and that do no harm stay."""
    kept = endpoint.types - HARMFUL_TYPES - {EVERY_TYPE}
    return {"enabled_events": sorted({*kept, *WANTED_TYPES}), "disabled": False}


def request_key(deployment: str, body: dict[str, Any], known: Sequence[str]) -> str:
    """Give an idempotency key that two runs share exactly when they ask for the same beside the same other endpoints."""
    content = json.dumps([body, known], sort_keys=True)
    return f"webhook-endpoint/{deployment}/{hashlib.sha256(content.encode()).hexdigest()}"
