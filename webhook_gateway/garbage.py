"""How Python's garbage collector is set for a server: what a webhook makes dies with it, mostly without the collector."""

from __future__ import annotations

import gc
from typing import Final

# Objects made and not yet freed before the young ones are looked through; Python's 700 is reached every few webhooks.
THRESHOLDS: Final = (10_000, 20, 20)


def settle() -> None:
    """Leave what was made at the start out of every later look. To be called once, when serving begins."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
