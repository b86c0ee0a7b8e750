"""`python -m billing_service.workers`: one worker, as its parent starts it. Nobody else does."""

from __future__ import annotations

import argparse
import importlib
import socket
import sys

from structlog.contextvars import bind_contextvars

from billing_service import garbage
from billing_service.address import ListenError
from billing_service.catalog_source import load_with_catalog
from billing_service.domain.catalog_file import CatalogError
from billing_service.logs import configure_logs
from billing_service.settings import Settings, SettingsError
from billing_service.workers.cores import pin

EXIT_FAILURE = 1
EXIT_USAGE = 2


def main() -> int:
    """Serve; give the exit code of `billing-service serve`."""
    parser = argparse.ArgumentParser(prog="python -m billing_service.workers")
    parser.add_argument("--channel", type=int, required=True, help="the file descriptor of the line to the parent")
    parser.add_argument("--index", type=int, required=True, help="which of the workers this is")
    parser.add_argument("--core", type=int, help="the only core to run on")
    options = parser.parse_args()
    pin(options.core)
    bind_contextvars(worker=options.index)
    try:
        settings, catalog = load_with_catalog(Settings)
        configure_logs(settings.log_level)
        with garbage.loading():
            serving = importlib.import_module("billing_service.serving")  # late: gRPC's threads are to find us pinned
        code: int = serving.serve(settings, catalog, socket.socket(fileno=options.channel))
    except (SettingsError, CatalogError) as error:
        sys.stderr.write(f"worker {options.index} of billing-service serve cannot start:\n{error}\n")
        return EXIT_USAGE
    except ListenError as error:
        sys.stderr.write(f"worker {options.index} of billing-service serve cannot start. {error}\n")
        return EXIT_FAILURE
    return code


if __name__ == "__main__":
    sys.exit(main())
