"""What a person or a program gets to see: reports on standard output, everything else on standard error.

Nothing that comes from the service is taken as markup or sent to the terminal as it is: control characters are shown, not
obeyed, because a customer's id or Stripe's words may hold any.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDE: Final = 200  # columns where there is no terminal to ask: a file or a pipe is not to get cut cells
NARROW: Final = 72  # columns, below which a table may fall apart into its rows
BEARABLE: Final = 1.5  # how much wider than the terminal a table may be before it does
UNBOUNDED: Final = 10_000
_VISIBLE: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != ord("\n")}
_STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def console(*, errors: bool = False) -> Console:
    """Give where to write: as wide as the terminal, or wide enough for a file."""
    stream = sys.stderr if errors else sys.stdout
    made = Console(file=stream, highlight=False, emoji=False, markup=False)
    if not made.is_terminal and "COLUMNS" not in made._environ:  # noqa: SLF001 - Rich has no other word for "nobody said"
        made.width = WIDE
    return made


def show(*parts: RenderableType) -> None:
    """Write a report for people."""
    out = console()
    if out.is_terminal:
        out.print(Group(*parts))
        return
    with out.capture() as captured:
        out.print(Group(*parts))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def report(sentence: str) -> None:
    """Write a report that is a sentence."""
    console().print(Text(plain(sentence)), soft_wrap=True)


def say(message: str) -> None:
    """Tell the operator something that is no part of the report."""
    console(errors=True).print(Text(plain(message)), soft_wrap=True)


def write(messages: Iterable[Message]) -> None:
    """Write a report for programs: one object per line, as the contract's JSON has it, with every field."""
    for message in messages:
        write_object(document(message))


def write_object(found: Any) -> None:
    """Write one object as a line. ASCII, so that it is the same in every locale."""
    sys.stdout.write(json.dumps(found) + "\n")


def document(message: Message) -> dict[str, Any]:
    """Give a message as JSON: the contract's field names, times as RFC 3339, 64-bit numbers as text, enums by name."""
    found: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return found


def plain(value: object) -> str:
    """Give a text in which a terminal finds nothing to obey."""
    return str(value).translate(_VISIBLE)


@dataclass(frozen=True)
class Listing:
    """Rows under columns; on a terminal that is far too narrow for that, each row by itself, a line for each value."""

    columns: Sequence[str]
    rows: Sequence[Sequence[RenderableType]]
    keep: frozenset[str]  # columns that are folded last

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the one or the other."""
        drawn = self._table()
        needed = Measurement.get(console, options.update(width=UNBOUNDED), drawn).maximum
        if options.max_width >= NARROW or needed <= options.max_width * BEARABLE:
            yield drawn
            return
        for number, row in enumerate(self.rows):
            if number:
                yield Text()
            yield facts(pair for pair in zip(self.columns, row, strict=True) if pair[1])

    def _table(self) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
        for column in self.columns:
            made.add_column(column, overflow="fold", no_wrap=column in self.keep)
        for row in self.rows:
            made.add_row(*(Text(plain(cell)) if isinstance(cell, str) else cell for cell in row))
        return made


def table(*columns: str, rows: Iterable[Sequence[RenderableType]], keep: Iterable[str] = ()) -> Listing:
    """Make a table; the columns of `keep` are folded last, because half an id is none."""
    return Listing(columns, list(rows), frozenset(keep))


def facts(pairs: Iterable[tuple[str, RenderableType]]) -> Table:
    """Make a list of names and values; what is empty is left out."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value != "":
            made.add_row(name, Text(plain(value)) if isinstance(value, str) else value)
    return made


def section(title: str, body: RenderableType | None, empty: str) -> Group:
    """Put a title over a part of a report; where there is nothing, say so."""
    inner = Text(empty, style="dim") if body is None else body
    return Group(Text(), Text(title, style="bold cyan"), Padding(inner, (0, 0, 0, 2), expand=False))


def word(name: str, prefix: str) -> str:
    """Give an enum's value as people say it: STATE_PENDING_PAYMENT is "pending payment"."""
    return name.removeprefix(prefix).lower().replace("_", " ")


def moment(time: Timestamp, now: datetime, absent: str = "") -> str:
    """Give a time in UTC with how far away it is; `absent` where there is none."""
    if not time.seconds and not time.nanos:
        return absent
    at = time.ToDatetime(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}Z ({distance(at - now)})"


def age(time: Timestamp, now: datetime, absent: str = "–") -> str:
    """Give a time for a list: shorter, without the date where that is today's."""
    if not time.seconds and not time.nanos:
        return absent
    at = time.ToDatetime(UTC)
    short = f"{at:%H:%M:%S}Z" if at.date() == now.date() else f"{at:%Y-%m-%d %H:%M}Z"
    return f"{short}, {distance(at - now)}"


def distance(span: timedelta) -> str:
    """Say how far away something is, in its largest unit: "in 12 d", "3 min ago", "now"."""
    seconds = int(span.total_seconds())
    for size, unit in _STEPS:
        if abs(seconds) >= size:
            amount = f"{abs(seconds) // size} {unit}"
            return f"in {amount}" if seconds > 0 else f"{amount} ago"
    return "now"
