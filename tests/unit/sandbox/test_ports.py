"""Which ports are chosen, and by whom."""

from __future__ import annotations

from itertools import pairwise

import pytest

from sandbox.ports import PART, free_port, part_of


@pytest.mark.parametrize("count", [1, 3, 64])
def test_processes_that_run_at_the_same_time_choose_of_different_ports(count: int) -> None:
    """A port is chosen, and bound a moment later: in between another process of the same tests must not choose it."""
    parts = [tuple(map(int, part_of(number, count).split("-"))) for number in range(count)]
    assert all(start + 100 <= end for start, end in parts)
    assert all(end <= start for (_, end), (start, _) in pairwise(parts))


def test_a_free_port_is_of_the_part_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PART, part_of(2, 5))
    start, end = map(int, part_of(2, 5).split("-"))
    assert all(start <= free_port() < end for _ in range(20))
