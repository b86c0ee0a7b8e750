"""What the gateway counts, for Prometheus (GET /metrics on GATEWAY_OPS_ADDRESS, never on the address that Stripe posts to)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from webhook_gateway import refusal
from webhook_gateway.readiness import Readiness
from webhook_gateway.signature import SignatureFault

_MAX_TYPES: Final = 300  # of events; Stripe has some 250, and what is beyond counts as one
_OTHER: Final = "other"
_NONE: Final = "none"  # nothing was verified
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 8)  # seconds; 8 is the limit of an answer
_MAX_BODY_BYTES: Final = 1_024


class Answer(StrEnum):
    """What the sender was told, in few words: what alerts ask for."""

    TAKEN = "taken"
    SIGNATURE = "signature"
    LIVEMODE = "livemode"
    UNREADABLE = "unreadable"
    NOT_COMMITTED = "not_committed"
    OVERLOADED = "overloaded"


def answer_of(outcome: str, status: int) -> Answer:
    """Say in which of these words an answer is counted."""
    if status == 200:
        return Answer.TAKEN
    if outcome == refusal.TOO_BUSY.code:
        return Answer.OVERLOADED
    if status >= 500:
        return Answer.NOT_COMMITTED
    if outcome == refusal.LIVE_EVENT_IN_TEST_MODE.code:
        return Answer.LIVEMODE
    return Answer.SIGNATURE if outcome in set(SignatureFault) else Answer.UNREADABLE


class Metrics:
    """The counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._types: set[str] = set()
        # As many as the registry has of each: looking one up there costs more than counting it.
        self._counted: dict[tuple[str, str, int], tuple[Counter, Counter]] = {}
        self._signed: dict[str, Counter] = {}
        self._webhooks = Counter(
            "gateway_webhooks",
            "Webhooks that were answered: what became of the event, or the code of the refusal.",
            ("type", "outcome", "status"),
            registry=self.registry,
        )
        self._answers = Counter(
            "gateway_answers", "Webhooks by what the sender was told.", ("answer",), registry=self.registry
        )
        for answer in Answer:
            self._answers.labels(answer.value)  # at 0, so that the first is seen as a rise
        self._signatures = Counter(
            "gateway_signatures",
            "Signatures that held, by the name of the secret.",
            ("secret",),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "gateway_webhook_duration_seconds",
            "From the first byte of a webhook to its answer.",
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._waiting = Gauge(
            "gateway_waiting_events", "Events that wait for the service.", ("lane",), registry=self.registry
        )
        self._problems = Gauge(
            "gateway_reload_problems",
            "Secrets and certificates that could not be read again; the ones before are still used.",
            registry=self.registry,
        )
        self._ends = Gauge(
            "gateway_certificate_end_timestamp_seconds",
            "When our own certificate, or the last of the authorities, ends.",
            ("of",),
            registry=self.registry,
        )
        self._draining = Gauge("gateway_draining", "1 while the gateway is shutting down.", registry=self.registry)
        self._ready = Gauge(
            "gateway_ready",
            "1 while webhooks can be taken: the service behind the gateway serves, and lets it in.",
            registry=self.registry,
        )

    def webhook(
        self, event_type: str | None, secret: str | None, outcome: str, status: int, duration_s: float | None
    ) -> None:
        """Count a webhook. Type and secret are those of a signature that held, so nobody but Stripe chooses them.

        Without a duration it was turned away at the door, which says nothing of how long an answer takes.
        """
        label = self._label(event_type)
        for counter in self._counted.get((label, outcome, status)) or self._counters(label, outcome, status):
            counter.inc()
        if duration_s is not None:
            self._seconds.observe(duration_s)
        if secret is not None:
            (self._signed.get(secret) or self._signature_counter(secret)).inc()

    def _counters(self, label: str, outcome: str, status: int) -> tuple[Counter, Counter]:
        found = (
            self._webhooks.labels(label, outcome, str(status)),
            self._answers.labels(answer_of(outcome, status).value),
        )
        self._counted[label, outcome, status] = found
        return found

    def _signature_counter(self, secret: str) -> Counter:
        found = self._signed[secret] = self._signatures.labels(secret)
        return found

    def show(self, waiting: dict[str, Callable[[], float]], draining: Callable[[], float]) -> None:
        """Show numbers that are read whenever somebody looks."""
        for lane, read in waiting.items():
            self._waiting.labels(lane).set_function(read)
        self._draining.set_function(draining)

    def show_files(self, problems: Callable[[], float], ends: Mapping[str, Callable[[], float]]) -> None:
        """Show how many files do not hold, and when certificates end, whenever somebody looks."""
        self._problems.set_function(problems)
        for of, read in ends.items():
            self._ends.labels(of).set_function(read)

    def show_ready(self, *, ready: bool) -> None:
        """Show whether webhooks can be taken, as it was found just now."""
        self._ready.set(ready)

    def page(self) -> bytes:
        """Give all of it as Prometheus reads it."""
        return generate_latest(self.registry)

    def _label(self, event_type: str | None) -> str:
        if event_type is None:
            return _NONE
        if event_type in self._types:
            return event_type
        if len(self._types) >= _MAX_TYPES:
            return _OTHER
        self._types.add(event_type)
        return event_type


def build_page(metrics: Metrics, readiness: Readiness) -> web.Application:
    """Make the page. Whoever reads it has the gateway asked whether it is ready, as /readyz does: nobody else may be asking."""

    async def page(_request: web.Request) -> web.Response:
        metrics.show_ready(ready=await readiness.why_not_ready() is None)
        return web.Response(body=metrics.page(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_get("/metrics", page)
    return app
