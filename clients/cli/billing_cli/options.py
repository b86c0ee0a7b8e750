"""Options that several commands have, and the question before what cannot be undone."""

from __future__ import annotations

import getpass
import re
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from billing_cli import screen
from billing_cli.failures import Exit

_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes"}
_SPAN: Final = re.compile(r"(\d{1,4})([dhm])")
_RECORD: Final = "For the record"

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many at most.")]
CustomerId = Annotated[str, typer.Argument(metavar="CUSTOMER", help="Your own id of the customer.", show_default=False)]
Because = Annotated[
    str,
    typer.Option(
        "--because", metavar="TEXT", help="Why; kept with it. Name a ticket, not a person.", rich_help_panel=_RECORD
    ),
]


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may know no name for its user
        return "unknown"


Actor = Annotated[
    str,
    typer.Option(
        "--actor", envvar="BILLING_ADMIN_ACTOR", default_factory=_login, show_default="your login",
        metavar="NAME", help="Who does it.", rich_help_panel=_RECORD,
    ),
]  # fmt: skip
RequestId = Annotated[
    str,
    typer.Option(
        "--request-id", default_factory=lambda: str(uuid.uuid4()), show_default="a new one",
        metavar="ID", help="The same one again is never done twice.", rich_help_panel=_RECORD,
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Moment:
    """A time, or a span that is counted from now."""

    at: datetime | None = None
    span: timedelta = timedelta()

    def before(self, now: datetime) -> Timestamp:
        """Give the time; a span lies before now."""
        return _timestamp(self.at or now - self.span)

    def after(self, now: datetime) -> Timestamp:
        """Give the time; a span lies ahead."""
        return _timestamp(self.at or now + self.span)


def moment(text: str) -> Moment:
    """Understand a time in UTC or a span.

    Raises:
        typer.BadParameter: it is neither.
    """
    if span := _SPAN.fullmatch(text):
        return Moment(span=timedelta(**{_UNITS[span[2]]: int(span[1])}))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be a time, as 2026-11-01T08:00Z, or a span, as 4d, 12h or 30m") from None
    return Moment(at if at.tzinfo else at.replace(tzinfo=UTC))


When = Annotated[
    Moment | None, typer.Option(parser=moment, metavar="TIME", help="A time in UTC, or a span: 4d, 12h, 30m.")
]


def confirm(question: str, *, yes: bool) -> None:
    """Ask whether to go on; where nobody can be asked, only `yes` answers.

    Raises:
        typer.Exit: the answer was not yes; nothing was done.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        screen.say(f"{question}\nNothing was done: there is no terminal to ask. Pass --yes to do it.")
        raise typer.Exit(Exit.NOT_CONFIRMED)
    screen.say(question)
    sys.stderr.write("Type yes to do it: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() != "yes":
        screen.say("Nothing was done.")
        raise typer.Exit(Exit.NOT_CONFIRMED)


def more(limit: int, *, is_more: bool) -> None:
    """Say that a list goes on."""
    if is_more:
        screen.say(f"There are more than these; --limit shows more than {limit}.")


def _timestamp(time: datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(time)
    return made
