"""How many files and sockets the process may have open: as many as its bounds of connections add up to, or there are none."""

from __future__ import annotations

import resource
from typing import Final

import structlog

from billing_service.rpc.server import MAX_CONNECTIONS

# Two listeners full of connections, and room for the database, Stripe, the pages for operators and the files of the settings.
NEEDED: Final = 2 * MAX_CONNECTIONS + 500

_log = structlog.stdlib.get_logger(__name__)


def allow() -> None:
    """Take as many as are needed, where the system lets us; a shell's usual 1,024 are a limit that a process may raise for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = NEEDED if hard == resource.RLIM_INFINITY else min(NEEDED, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < NEEDED:
        _log.warning("few_open_files", limit=most, needed=NEEDED)
