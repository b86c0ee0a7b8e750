"""The page of the benchmarks is made of whatever files are there."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from benchmarks import report
from benchmarks.aims import aims

PAGE = """# Page
<!-- results: aims -->
<!-- end -->
Words.
<!-- results: reads -->
of an earlier run
<!-- end -->
<!-- results: other -->
<!-- end -->
"""
LATENCY = {
    "rate_per_s": 200,
    "from_commit": {"p50_ms": 9.0, "p99_ms": 150.0},
    "from_commit_curve": [[0, 1], [100, 160]],
}
WATCH: dict[str, Any] = {
    "alone": LATENCY,
    "among_streams": LATENCY,
    "streams": {"open": 1_000, "kib_each": 31},
    "cached_checks_per_s": {"check": 4_000_000, "check_and_age": 1_500_000},
    "cpu_among_streams_over_alone": 1.0,
}


def test_what_is_there_is_told_and_the_rest_of_the_page_stays() -> None:
    """A benchmark that nobody knew when this was written gets a plain table; one that left no file keeps what was told of it."""
    files = {"other": {"contenders": [{"name": "one", "per_s": 12_345.6}, {"name": "two", "deep": {"p50": 0.5}}]}}
    page = report.written(PAGE, files)
    assert "| one | 12,346 |  |\n| two |  | 0.5 |" in page
    assert "Words.\n<!-- results: reads -->\nof an earlier run\n<!-- end -->" in page
    assert report.written(page, files) == page


def test_an_aim_that_is_missed_is_told_as_missed() -> None:
    found = {aim.what: aim.share >= 1 for aim in aims({"watch": WATCH})}
    assert [reached for what, reached in found.items() if "p99" in what] == [False]
    assert list(found.values()).count(True) == 3
    assert "| 150 ms | at most 100 ms | **no** |" in report.written(PAGE, {"watch": WATCH})


def test_the_plots_are_well_formed() -> None:
    plots = report.plots({"watch": WATCH})
    assert set(plots) == {"benchmarks-aims.svg", "benchmarks-watch.svg"}
    for plot in plots.values():
        assert ET.fromstring(plot).tag.endswith("svg")  # noqa: S314 - our own
