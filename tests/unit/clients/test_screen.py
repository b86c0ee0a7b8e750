from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from billing_cli import screen
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("span", "said"),
    [
        (timedelta(), "now"),
        (timedelta(milliseconds=999), "now"),
        (timedelta(seconds=-59), "59 s ago"),
        (timedelta(minutes=3, seconds=59), "in 3 min"),
        (timedelta(hours=-23), "23 h ago"),
        (timedelta(days=30), "in 30 d"),
    ],
)
def test_a_distance_is_said_in_its_largest_unit(span: timedelta, said: str) -> None:
    assert screen.distance(span) == said


def test_a_time_is_utc_and_says_how_far_away_it_is() -> None:
    assert screen.moment(Timestamp(seconds=int(NOW.timestamp()) + 60), NOW) == "2026-11-29 12:01:00Z (in 1 min)"
    assert screen.moment(Timestamp(), NOW, "never") == "never"


def drawn(width: int, value: str) -> str:
    """Give what a terminal of this width gets of a table with this in it."""
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system="truecolor", markup=False)
    console.print(screen.table("id", "text", rows=[("sub_1234567890", value)], keep=["id"]))
    return file.getvalue()


def test_what_comes_from_elsewhere_neither_moves_the_cursor_nor_colours_anything() -> None:
    """A customer's id, or Stripe's words, may hold an escape sequence, or what Rich would take for markup."""
    got = drawn(80, "a\x1b[2Jb\rc\x9bd[red]e\tf")
    assert "a\\x1b[2Jb\\x0dc\\x9bd[red]e\\x09f" in got


def test_an_id_stays_whole_on_a_narrow_terminal() -> None:
    assert "sub_1234567890" in drawn(30, "a text that does not fit into what is left of it")


def test_a_file_gets_whole_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is piped into another program is neither coloured nor cut to the width of a terminal that is not there."""
    monkeypatch.delenv("COLUMNS", raising=False)
    screen.show(screen.table("text", rows=[("x" * 150,)]))
    assert capsys.readouterr().out.splitlines()[2].rstrip() == "x" * 150
