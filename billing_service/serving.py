"""One process that answers calls: from its settings to its exit code. Either the whole program, or a worker of several."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final

import structlog
import uvloop

from billing_service import descriptors, garbage, handshakes, tracing
from billing_service.address import Addresses, ListenError
from billing_service.domain.catalog import Catalog
from billing_service.flows.admit_catalog import PlanVanishedError
from billing_service.logs import configure_logs
from billing_service.program import Program
from billing_service.settings import Settings
from billing_service.workers.channel import ToParent

# From the end of the drain to that of the process, with what is left of traces. A thread that hangs (a file system that does not
# answer) is not waited for: nobody's work is in it any more.
END_LIMIT_S: Final = tracing.STOP_LIMIT_S + 1.0
EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2

_log = structlog.stdlib.get_logger("billing_service")


def serve(settings: Settings, catalog: Catalog, parent: socket.socket | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until the parent ends, and drain; give the exit code.

    `parent` is a worker's end of the line to its parent.

    Raises:
        ListenError: an address is in use.
    """
    tracing.start("billing-service")
    descriptors.allow()
    last = threading.Timer(END_LIMIT_S, _leave)
    last.daemon = True
    try:
        uvloop.run(_serve_until_signal(settings, catalog, parent, last.start))
    except ListenError:
        raise
    except PlanVanishedError as error:
        _log.critical("catalog_refused", plans=error.holders)
        return _complain(f"billing-service serve cannot start: {error}", EXIT_USAGE)
    except Exception as error:  # noqa: BLE001 - the process ends with it: one line for the log, one sentence for the person
        _log.critical("service_failed", exc_info=error)
        return _complain("billing-service serve ended because of a defect; the log line above has it.", EXIT_FAILURE)
    finally:
        tracing.stop()
        last.cancel()
    return EXIT_OK


def _leave() -> None:
    """End the process without waiting for anything."""
    _log.error("end_incomplete", waited_s=END_LIMIT_S)
    os._exit(EXIT_FAILURE)


def _complain(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


async def _serve_until_signal(
    settings: Settings, catalog: Catalog, parent: socket.socket | None, drained: Callable[[], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if parent is None:
        program, listening = Program(settings, catalog), _log_addresses
    else:
        link = ToParent(parent, gone=stop.set)
        program, listening = Program(settings, catalog, ops=link.show, shared=True), partial(_tell_parent, link)
    with _handshakes(settings, program):
        await program.serve(stop, listening)
    drained()
    _log.info("stopped")


def _handshakes(settings: Settings, program: Program) -> AbstractContextManager[None]:
    """Watch those of TLS; without it standard error stays as it is."""
    if settings.certificate_files() is None:
        return nullcontext()
    return handshakes.watched(program.handshake_failed, partial(configure_logs, settings.log_level))


def _log_addresses(addresses: Addresses) -> None:
    garbage.settle()
    _log.info("listening", grpc=str(addresses.grpc), internal=str(addresses.internal), ops=str(addresses.ops))


def _tell_parent(link: ToParent, _addresses: Addresses) -> None:
    garbage.settle()
    link.listening()
