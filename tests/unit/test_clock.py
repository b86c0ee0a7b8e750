"""The clock that the sandbox's service and stand-in share."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from billing_service.clock import SandboxClock, clock_of, read_offset, utc_now

_DAY = timedelta(days=1)


def _set(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(file)


def _ahead(clock: SandboxClock) -> timedelta:
    return timedelta(days=round((clock() - utc_now()) / _DAY))


def test_without_a_file_it_is_the_machines_clock(tmp_path: Path) -> None:
    assert clock_of(None) is utc_now
    assert _ahead(SandboxClock(tmp_path / "absent")) == timedelta(0)


def test_a_replaced_file_moves_the_time_at_the_next_look(tmp_path: Path) -> None:
    file = tmp_path / "clock"
    clock = SandboxClock(file)
    for days in (1, 40, 400):
        _set(file, f"{days * 86_400}\n")
        assert _ahead(clock) == timedelta(days=days)


@pytest.mark.parametrize("text", ["", "noon", "-1", "0", "nan", "1e300"])
def test_time_never_jumps_back(tmp_path: Path, text: str) -> None:
    """A file that is damaged, emptied or set back leaves the time where it was."""
    file = tmp_path / "clock"
    _set(file, "864000")
    clock = SandboxClock(file)
    _set(file, text)
    assert _ahead(clock) == timedelta(days=10)
    file.unlink()
    assert _ahead(clock) == timedelta(days=10)


@pytest.mark.parametrize("text", ["", "noon", "-1", "nan", "inf", "1e300"])
def test_what_is_no_clock_is_refused_at_the_start(tmp_path: Path, text: str) -> None:
    file = tmp_path / "clock"
    file.write_text(text)
    with pytest.raises(ValueError, match="must be a sandbox clock"):
        read_offset(file)
