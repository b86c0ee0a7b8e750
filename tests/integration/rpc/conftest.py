"""Fixtures that several files of calls share."""

from __future__ import annotations

from tests.integration.flows.test_refresh import world
from tests.integration.rpc.office import office

__all__ = ["office", "world"]
