"""How Python's garbage collector is set for a server: what a call makes dies with the call, mostly without the collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# Objects made and not yet freed before the young ones are looked through; Python's 700 is reached every few calls.
THRESHOLDS: Final = (10_000, 20, 20)


@contextmanager
def loading() -> Iterator[None]:
    """Import without the collector, which takes a seventh of that time and finds next to nothing: what modules make stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def settle() -> None:
    """Leave what was made at the start (modules, the catalog) out of every later look. To be called once, when serving begins."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
