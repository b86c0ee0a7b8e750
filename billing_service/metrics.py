"""What the service counts, for Prometheus (GET /metrics on the health page).

No label has a value that a caller or a sender chooses: methods, operations and reasons are the program's own, and types of events
that it does not handle count as one. So their number is bounded, and no personal data can be among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from billing_service.domain.observation import HANDLED_TYPES
from billing_service.flows.request_budget import Budget, Spender
from billing_service.handshakes import Reason
from billing_service.storage.tally import Tally

Read = Callable[[], float]

OTHER: Final = "other"
# Seconds. A call is answered within milliseconds; an event is committed within seconds of Stripe's making it, or much later.
_CALL_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REQUEST_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
_VISIBLE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60)
_LATENCY_BUCKETS: Final = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 21_600, 86_400, 259_200)


class Metrics:
    """The counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time, open files
        self._calls = self._counter("billing_rpc_calls", "Calls that ended.", "method", "code")
        self._call_seconds = self._histogram(
            "billing_rpc_duration_seconds", "How long calls took; a stream until it ended.", _CALL_BUCKETS, "method"
        )
        self._handshakes = self._counter(
            "billing_tls_handshakes_failed", "Connections that TLS refused, which are no calls yet.", "reason"
        )
        for reason in Reason:
            self._handshakes.labels(reason.value)  # at 0, so that the first is seen as a rise
        self._events = self._counter("billing_events", "Events of Stripe by what became of them.", "type", "outcome")
        self._event_latency = self._histogram(
            "billing_event_latency_seconds", "From Stripe's `created` of a new event to its commit.", _LATENCY_BUCKETS
        )
        self._visible = self._histogram(
            "billing_change_visible_seconds",
            "From when a change of entitlements was made to when the watchers of this process were handed it.",
            _VISIBLE_BUCKETS,
        )
        self._watches = self._gauge("billing_watches", "Streams of WatchEntitlements that are open.")
        self._requests = self._counter(
            "billing_stripe_requests", "Requests to Stripe's API by how they ended.", "operation", "outcome"
        )
        self._request_seconds = self._histogram(
            "billing_stripe_request_duration_seconds", "How long Stripe took.", _REQUEST_BUCKETS, "operation"
        )
        # Without labels, so that it begins at 0 and the first is seen as a rise.
        self._denials = self._counter("billing_stripe_denials", "Requests for which our API key did not do.")
        self._spent = self._counter(
            "billing_stripe_budget_spent", "Requests to Stripe out of the budget, by for whom.", "spender"
        )
        self._budget = self._gauge(
            "billing_stripe_budget",
            "The budget that all processes share: left, kept for people, and the most.",
            "share",
        )
        self._ready = self._gauge("billing_ready", "1 while calls can be answered.")
        self._connections = self._gauge("billing_connections", "The database's pool: in use, and the most.", "state")
        self._waiting = self._gauge("billing_waiting_events", "Events in front of the writers.", "lane")
        self._problems = self._gauge(
            "billing_reload_problems",
            "Credentials and certificates that could not be read again; the ones before are still used.",
        )
        self._prices = self._gauge(
            "billing_unresolved_prices",
            "Prices of the catalog at which nothing can be sold, and prices of no plan at which customers subscribe.",
            "of",
        )
        self._ends = self._gauge(
            "billing_certificate_end_timestamp_seconds",
            "When our own certificate, or the last of the clients' authorities, ends.",
            "of",
        )
        self._quarantined = self._gauge("billing_quarantined_events", "Events that were put aside.", "reason")
        self._findings = self._gauge("billing_open_findings", "What a person should look at.", "kind")
        # What the database knows is shown from the first look at it: a 0 before it would make a fall of each start, and a rise after it.
        self._rereads = _unseen("billing_rereads", "Objects to be read again from Stripe.")
        self._reread_age = _unseen("billing_reread_overdue_seconds", "For how long the oldest of these is due.")
        self._reconciled = _unseen(
            "billing_reconciled_until_timestamp_seconds",
            "Up to where Stripe's events were compared with ours, without a gap.",
        )
        self._drift = _unseen("billing_drift", "Differences without an event, by all reconciliations so far.")
        self._missed = _unseen("billing_missed_events", "Events that no webhook brought, but reconciliation, so far.")
        self._unseen = [self._rereads, self._reread_age, self._reconciled, self._drift, self._missed]
        self._replica_reads = self._counter(
            "billing_replica_reads", "Reads that a replica might have answered, by what became of them.", "outcome"
        )
        self._replica_age = self._gauge(
            "billing_replica_staleness_seconds", "How old an answer of the replica may be; 0 where there is none."
        )
        self._tallied = self._gauge(
            "billing_tally_timestamp_seconds", "When the numbers that the database knows were taken."
        )

    def show(
        self, ready: Read, connections: Mapping[str, Read], waiting: Mapping[str, Read], watches: Read, budget: Budget
    ) -> None:
        """Show what is read whenever somebody looks (connections by state, waiting events by lane), and what stays as it is."""
        self._ready.set_function(ready)
        self._watches.set_function(watches)
        self._budget.labels("reserve").set(budget.reserve)
        self._budget.labels("most").set(budget.burst)
        for gauge, reads in ((self._connections, connections), (self._waiting, waiting)):
            for label, read in reads.items():
                gauge.labels(label).set_function(read)

    def show_files(self, problems: Read, ends: Mapping[str, Read]) -> None:
        """Show how many files do not hold, and when certificates end, whenever somebody looks."""
        self._problems.set_function(problems)
        for of, read in ends.items():
            self._ends.labels(of).set_function(read)

    def show_prices(self, unresolved: Mapping[str, Read]) -> None:
        """Show how many prices stand for nothing, by whose they are, whenever somebody looks."""
        for of, read in unresolved.items():
            self._prices.labels(of).set_function(read)

    def call(self, method: str, code: str, duration_s: float) -> None:
        """Count a call that ended."""
        self._calls.labels(method, code).inc()
        self._call_seconds.labels(method).observe(duration_s)

    def handshake_failed(self, reason: Reason) -> None:
        """Count a connection that TLS refused."""
        self._handshakes.labels(reason.value).inc()

    def event(self, event_type: str | None, outcome: str, latency_s: float | None) -> None:
        """Count an event; `latency_s` since Stripe made it, where it was new."""
        self._events.labels(event_type if event_type in HANDLED_TYPES else OTHER, outcome).inc()
        if latency_s is not None:
            self._event_latency.observe(max(latency_s, 0.0))

    def visible(self, latency_s: float) -> None:
        """Count a change that was handed to whoever watches."""
        self._visible.observe(max(latency_s, 0.0))

    def spent(self, spender: Spender) -> None:
        """Count a request that leaves for Stripe."""
        self._spent.labels(spender.value).inc()

    def request(self, operation: str, outcome: str, duration_s: float) -> None:
        """Count a request to Stripe."""
        self._requests.labels(operation, outcome).inc()
        if outcome == "denied":
            self._denials.inc()
        self._request_seconds.labels(operation).observe(duration_s)

    def replica_read(self, outcome: str) -> None:
        """Count a read that a replica might have answered."""
        self._replica_reads.labels(outcome).inc()

    def show_replica(self, age_s: Read) -> None:
        """Show how old a replica's answer may be, whenever somebody looks."""
        self._replica_age.set_function(age_s)

    def tallied(self, tally: Tally, reconciled_until: int) -> None:
        """Take what the database knows; what is not there any more is 0."""
        for gauge, found in ((self._quarantined, tally.quarantined), (self._findings, tally.findings)):
            gauge.clear()
            for label, number in found.items():
                gauge.labels(label).set(number)
        self._rereads.set(tally.rereads)
        self._reread_age.set(tally.reread_overdue_s)
        self._reconciled.set(reconciled_until)
        self._drift.set(tally.drift)
        self._missed.set(tally.missed)
        while self._unseen:
            self.registry.register(self._unseen.pop())
        self._budget.labels("left").set(tally.budget_left)
        self._tallied.set_to_current_time()

    def page(self) -> bytes:
        """Give all of it as Prometheus reads it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(name, description, labels, registry=self.registry)

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(name, description, labels, registry=self.registry)

    def _histogram(self, name: str, description: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, description, labels, registry=self.registry, buckets=buckets)


def _unseen(name: str, description: str) -> Gauge:
    """Make a gauge that is not in the registry yet."""
    return Gauge(name, description, registry=None)
