"""Where a benchmark leaves what it measured: one JSON file, which `python -m benchmarks.report` makes tables and plots of."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark the argument `--out`."""
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers there, for benchmarks.report")


def write(measured: Mapping[str, Any], out: Path | None) -> None:
    """Show the numbers, and write them to a file where one was named, with the day and the machine."""
    sys.stdout.write(json.dumps(measured) + "\n")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        whole = {"measured": datetime.now(UTC).date().isoformat(), "machine": _machine(), **measured}
        out.write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")


def _machine() -> dict[str, Any]:
    """Say what it ran on, as far as numbers depend on it; no name."""
    return {"processors": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()}
