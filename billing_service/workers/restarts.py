"""When a worker that died is started again, and when no more."""

from __future__ import annotations

from typing import Final

SHORT_LIFE_S: Final = 60.0  # who lived for longer begins anew
MOST_SHORT_LIVES: Final = 5  # in a row of one worker; whoever runs the parent is told then, by its end
FIRST_PAUSE_S: Final = 0.1
FINAL_CODES: Final = frozenset({2})  # settings or catalog do not hold: as one is, starting again cannot help


class Restarts:
    """The short lives of one worker, one after the other."""

    def __init__(self) -> None:
        """Begin with none."""
        self._short_lives = 0

    def pause_after(self, code: int, lived_s: float) -> float | None:
        """Say for how many seconds to wait before the next start; None: no more starts."""
        if code in FINAL_CODES:
            return None
        self._short_lives = self._short_lives + 1 if lived_s < SHORT_LIFE_S else 1
        if self._short_lives > MOST_SHORT_LIVES:
            return None
        return FIRST_PAUSE_S * 2.0 ** (self._short_lives - 1)
