"""The keys of the advisory locks that stand for no row: one number each, for the whole database.

A key is a part of what running programs agree on, like a column: a number that was used stays with what it was used for.
Locks of objects that are not there yet are by a hash of their id (`objects`, `links`).
"""

from __future__ import annotations

from enum import IntEnum, unique


@unique
class LockKey(IntEnum):
    """What is done by one at a time."""

    MIGRATION = 7_241_902_771  # two migrations at once run one after the other
    PRICES = 7_241_902_772  # two processes resolve at once: one after the other
    LOG = 7_241_902_773  # positions of the log become visible in their order; the last in the order of locks
    CATALOG = 7_241_902_774  # processes start together, and admit their catalogs one after the other
