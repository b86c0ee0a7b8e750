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
    """Give faults for ever. The clock is moved between any two, because most of what time changes is due soon."""
    while True:
        kinds = [Fault.SERVER_KILLED, *Fault]
        kinds.remove(Fault.CLOCK_ADVANCED)
        draw.shuffle(kinds)
        for kind in kinds:
            yield kind
            yield Fault.CLOCK_ADVANCED
