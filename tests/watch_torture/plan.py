"""What goes wrong and when: drawn by a seed, every kind in turn in a drawn order."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from random import Random


class Fault(StrEnum):
    """What is done to a running system."""

    SERVER_KILLED = "server killed"
    BOTH_SERVERS_KILLED = "both servers killed"
    CLIENT_KILLED = "client killed"
    POSTGRES_RESTARTED = "PostgreSQL restarted"
    CLOCK_ADVANCED = "clock advanced"
    CLIENT_ASLEEP = "client reads no further"
    CLIENT_AWAY = "client away for longer than the log is kept"


def faults(draw: Random) -> Iterator[Fault]:
    """Give faults for ever: all kinds in a drawn order, then in another. The clock is moved often: it costs nothing."""
    while True:
        kinds = [*Fault, Fault.CLOCK_ADVANCED, Fault.CLOCK_ADVANCED]
        draw.shuffle(kinds)
        yield from kinds
