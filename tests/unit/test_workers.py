"""What a parent decides about its workers, and how their numbers become one page."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from billing_service.workers.cores import cores_for
from billing_service.workers.numbers import merged
from billing_service.workers.restarts import MOST_SHORT_LIVES, SHORT_LIFE_S, Restarts


def test_a_worker_that_dies_is_started_again_after_longer_and_longer_pauses_and_then_no_more() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_after(-9, 1.0) for _ in range(MOST_SHORT_LIVES + 1)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, None]


def test_a_long_life_between_makes_the_deaths_before_it_forgotten() -> None:
    restarts = Restarts()
    lives = [1.0, 1.0, SHORT_LIFE_S] * MOST_SHORT_LIVES
    assert [restarts.pause_after(1, lived_s) for lived_s in lives] == [0.1, 0.2, 0.1, *[0.2, 0.4, 0.1] * 4]


def test_what_can_never_start_is_not_started_again() -> None:
    assert Restarts().pause_after(2, 3600.0) is None


def test_each_worker_has_a_core_of_its_own_or_none_has_one() -> None:
    """Fewer workers than cores: pinned to the first ones, two programs would meet there."""
    assert cores_for(2, {5, 3}) == [3, 5]
    assert cores_for(2, {0, 1, 2, 3}) == [None, None]
    assert cores_for(3, {0, 1}) == [None, None, None]
    assert cores_for(2, None) == [None, None]


def page(reads: float) -> bytes:
    registry = CollectorRegistry()
    Gauge("plain", "Without a label.", registry=registry).set(reads)
    Counter("reads", 'With "labels".', ("code",), registry=registry).labels('a "b" {c}').inc(reads)
    return generate_latest(registry)


def test_every_series_says_of_which_worker_it_is_and_each_metric_is_described_once() -> None:
    lines = merged({"parent": b"", "0": page(1), "1": page(2)}).decode().splitlines()
    assert [line for line in lines if line.startswith(("# TYPE plain", "plain"))] == [
        "# TYPE plain gauge",
        'plain{worker="0"} 1.0',
        'plain{worker="1"} 2.0',
    ]
    assert [line for line in lines if line.startswith("reads_total{")] == [
        'reads_total{worker="0",code="a \\"b\\" {c}"} 1.0',
        'reads_total{worker="1",code="a \\"b\\" {c}"} 2.0',
    ]
    assert len({line for line in lines if line.startswith("#")}) == sum(line.startswith("#") for line in lines)
