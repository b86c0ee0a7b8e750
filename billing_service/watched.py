"""A value that is read from files, and read again while the program runs. What does not hold any more keeps the old one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import structlog

Value = TypeVar("Value")

LOOK_LIMIT_S: Final = 30.0  # a file system that hangs is named, and looked at again

_log = structlog.stdlib.get_logger(__name__)


class Watched(Generic[Value]):
    """One value, with what is wrong with its files at the moment, if anything is."""

    def __init__(self, what: str, read: Callable[[], Value]) -> None:
        """Read it a first time. `what` names it in the log; `read` raises ValueError, without values, where it cannot.

        Raises:
            ValueError: it cannot be read.
        """
        self.what = what
        self._read = read
        self.current = read()
        self.problem: str | None = None

    def look(self) -> None:
        """Read it again, and take it where it holds."""
        try:
            found = self._read()
        except ValueError as error:
            self.refuse(str(error))
            return
        self.problem = None
        if found != self.current:
            self.current = found
            _log.info("reloaded", what=self.what)

    def refuse(self, problem: str) -> None:
        """Keep what there is, and say why; once for each reason."""
        if problem != self.problem:
            self.problem = problem
            _log.warning("reload_refused", what=self.what, problem=problem)


class Watch:
    """Looks at several values every few seconds. One that does not hold does not keep the others from being taken."""

    def __init__(
        self, values: Sequence[Watched[Any]], interval_s: float, then: Callable[[], None] = lambda: None
    ) -> None:
        """Take the values, the pause between two looks, and what is to be called after each."""
        self._then = then
        self._values = tuple(values)
        self._interval_s = interval_s

    def warnings(self) -> list[str]:
        """Say what could not be read again, a sentence for each."""
        return [f"{one.what}: {one.problem}; the one before is still used" for one in self._values if one.problem]

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self._interval_s)
            for one in self._values:
                await self._look(one)
            self._then()

    async def _look(self, one: Watched[Any]) -> None:
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                await asyncio.to_thread(one.look)
        except TimeoutError:
            one.refuse("its files do not answer")
