"""When the collector looks, and at what."""

from __future__ import annotations

import gc

import pytest

from billing_service import garbage


def test_the_collector_rests_while_modules_are_loaded_and_works_afterwards_whatever_came_of_it() -> None:
    """Nor does it look later at what they made."""
    before = gc.get_freeze_count()
    try:
        with garbage.loading():
            assert not gc.isenabled()
            made: list[list[str]] = [[] for _ in range(9)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(made)
        with pytest.raises(ImportError), garbage.loading():
            raise ImportError
        assert gc.isenabled()
    finally:
        gc.unfreeze()
