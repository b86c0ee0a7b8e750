"""Listens to Postgres's notifications on a connection of its own, which is made anew when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import structlog
from psycopg import sql

from billing_service.storage.database import conninfo

RETRY_S = 1.0
LOOK_S = 10.0  # between two looks whether anybody still wants to hear

log = structlog.get_logger(__name__)


async def listen(url: str, channel: str, heard: Callable[[], None], wanted: asyncio.Event) -> None:
    """Call `heard` at each notification, and after each connection, while it is wanted, for ever. Whoever relies on it also polls.

    There is no connection while it is not wanted: each that listens is woken by each commit that notifies.
    """
    while True:
        await wanted.wait()
        try:
            connection = await psycopg.AsyncConnection.connect(conninfo(url), autocommit=True)
            async with connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                heard()
                while wanted.is_set():
                    async for _ in connection.notifies(timeout=LOOK_S):
                        heard()
            continue
        except (psycopg.Error, OSError) as error:
            log.info("listener_lost", error=type(error).__name__)
        await asyncio.sleep(RETRY_S)
