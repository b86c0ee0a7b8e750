"""Listens to Postgres's notifications on a connection of its own, which is made anew when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import psycopg
import structlog
from psycopg import sql

from billing_service.storage.database import conninfo

RETRY_S = 1.0

log = structlog.get_logger(__name__)


async def listen(url: str, channel: str, heard: Callable[[], None]) -> None:
    """Call `heard` at each notification, and after each reconnection, for ever. Whoever relies on it also polls."""
    while True:
        try:
            connection = await psycopg.AsyncConnection.connect(conninfo(url), autocommit=True)
            async with connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                heard()
                async for _ in connection.notifies():
                    heard()
        except (psycopg.Error, OSError) as error:
            log.info("listener_lost", error=type(error).__name__)
        await asyncio.sleep(RETRY_S)
