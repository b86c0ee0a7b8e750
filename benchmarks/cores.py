"""What a second worker gives: GetEntitlements of `billing-service serve --workers 2` beside one worker.

    python -m benchmarks.cores --rounds 5 --seconds 5

The programs as they are, on one PostgreSQL: one process pinned to a core, the same unpinned, and two workers, each pinned to a core
of its own. 64 calls are in flight, over 16 connections, which the kernel deals out to the workers. The rounds alternate; said are
medians, ratios to the first, and what each party took of the processors: on few cores the generator and PostgreSQL take theirs from the
workers. The generator is h2load (Debian: nghttp2-client), which posts a framed request. A real client checks answers in the same
run, and the programs' own counters must have counted every call as answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import reads, reads_load
from benchmarks.errors import BenchmarkError
from benchmarks.programs import Running, cpu_of_tree_s, python, start
from sandbox.ports import HOST, free_port
from sandbox.postgres import EmbeddedPostgres
from sandbox.processes import answers

IN_FLIGHT: Final = 64
CONNECTIONS: Final = 16
WARM_S: Final = 5  # on a crowded machine a server may get no turn for seconds
_FOUND: Final = re.compile(r"finished in [\d.]+m?s, ([\d.]+) req/s")
_DONE: Final = re.compile(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed")


@dataclass(frozen=True)
class Contender:
    """One way to run the service."""

    name: str
    workers: int
    core: int | None  # which one process is pinned to; several pin themselves


@dataclass(frozen=True)
class Served:
    """A contender that runs."""

    contender: Contender
    running: Running
    port: int
    ops: int

    def cpu_s(self) -> float:
        """Give the processor time of all of its processes."""
        return cpu_of_tree_s(self.running.process.pid)

    def counted(self) -> int:
        """Give how many reads it says it has answered."""
        with urllib.request.urlopen(f"http://{HOST}:{self.ops}/metrics") as page:
            lines: Sequence[str] = page.read().decode().splitlines()
        found = [line for line in lines if line.startswith("billing_rpc_calls_total{") and "/GetEntitlements" in line]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in found if 'code="OK"' in line)


@dataclass(frozen=True)
class Round:
    """What one round gave; processor time in seconds a call."""

    rate: float
    service_s: float
    postgres_s: float
    generator_s: float
    elapsed_s: float


def serve(stack: ExitStack, folder: Path, url: str, contender: Contender) -> Served:
    """Start a contender; it ends with the stack."""
    port, ops = free_port(), free_port()
    environment = {
        "BILLING_DATABASE_URL": url,
        "BILLING_STRIPE_API_KEY": "sk_test_benchmark",
        "BILLING_STRIPE_API_BASE": f"http://{HOST}:9",
        "BILLING_CATALOG": str(reads.ROOT / "catalog.toml"),
        "BILLING_GRPC_ADDRESS": f"{HOST}:{port}",
        "BILLING_INTERNAL_ADDRESS": f"{HOST}:{free_port()}",
        "BILLING_INTERNAL_TOKEN": "token-of-the-benchmark",
        "BILLING_OPS_ADDRESS": f"{HOST}:{ops}",
        "BILLING_RECONCILE_INTERVAL_S": "86400",
        "BILLING_WORKERS": str(contender.workers),
    }
    pinned = [] if contender.core is None else ["taskset", "-c", str(contender.core)]
    argv = [*pinned, *python("billing_service", "serve")]
    log = folder / f"{contender.name}.log"
    running = start(contender.name, argv, environment, log, lambda: answers(ops, "/readyz"))
    stack.callback(running.stop)
    return Served(contender, running, port, ops)


def h2load(port: int, body: Path, seconds: int) -> tuple[float, int]:
    """Keep 64 calls in flight for so long; give calls a second, and how many there were."""
    command = [
        "h2load", f"--clients={CONNECTIONS}", f"--max-concurrent-streams={IN_FLIGHT // CONNECTIONS}",
        f"--duration={seconds}", f"--data={body}", "--header=content-type: application/grpc", "--header=te: trailers",
        f"http://{HOST}:{port}{reads_load.PATH.decode()}",
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate, counts = _FOUND.search(said), _DONE.search(said)
    if rate is None or counts is None or int(counts[4]) > 0 or int(counts[3]) == 0:
        raise BenchmarkError(f"h2load failed: {said}")
    return float(rate[1]), int(counts[3])


def request_body(folder: Path) -> Path:
    """Write a framed request, and say where."""
    body = folder / "request"
    message = b"\x0a\x0acustomer-7"  # field 1, a text of ten bytes
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    return body


def measure(served: Served, postgres: EmbeddedPostgres, body: Path, seconds: int) -> Round:
    """Make one round."""

    def used() -> tuple[float, float, float]:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return served.cpu_s(), cpu_of_tree_s(postgres.pid or 0), spent.ru_utime + spent.ru_stime

    counted, before = served.counted(), used()
    rate, calls = h2load(served.port, body, seconds)
    service_s, postgres_s, generator_s = (b - a for a, b in zip(before, used(), strict=True))
    if served.counted() - counted < calls:
        raise BenchmarkError(f"{served.contender.name} counts fewer answers than h2load")
    return Round(rate, service_s / calls, postgres_s / calls, generator_s / calls, seconds)


def told(contender: Contender, rounds: Sequence[Round], first: Sequence[Round]) -> dict[str, Any]:
    """Give what is said of a contender."""

    def share(name: str) -> float:
        return statistics.median(getattr(one, name) * one.rate for one in rounds)

    return {
        "name": contender.name,
        "per_s": statistics.median(one.rate for one in rounds),
        "ratio": statistics.median(one.rate / other.rate for one, other in zip(rounds, first, strict=True)),
        "ratio_least": min(one.rate / other.rate for one, other in zip(rounds, first, strict=True)),
        "ratio_most": max(one.rate / other.rate for one, other in zip(rounds, first, strict=True)),
        "service_us_a_call": statistics.median(one.service_s for one in rounds) * 1e6,
        "cores_service": share("service_s"),
        "cores_postgres": share("postgres_s"),
        "cores_generator": share("generator_s"),
    }


def run(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all of it."""
    cores = sorted(os.sched_getaffinity(0))
    contenders = [
        Contender("one-pinned", 1, cores[0]),
        Contender("one-unpinned", 1, None),
        Contender(f"{options.workers}-workers", options.workers, None),
    ]
    body = request_body(folder)
    with EmbeddedPostgres(folder / "postgres") as postgres, ExitStack() as stack:
        url = postgres.ensure_database("cores")
        reads.fill(url, options.customers)
        all_served = [serve(stack, folder, url, one) for one in contenders]
        rounds: Mapping[str, list[Round]] = {one.name: [] for one in contenders}
        for served in all_served:
            asyncio.run(reads.check(served.port, options.customers))
            h2load(served.port, body, WARM_S)
        for _ in range(options.rounds):
            for served in all_served:
                rounds[served.contender.name].append(measure(served, postgres, body, options.seconds))
        for served in all_served:
            asyncio.run(reads.check(served.port, options.customers))
    return [told(one, rounds[one.name], rounds[contenders[0].name]) for one in contenders]


def table(results: Sequence[dict[str, Any]]) -> str:
    """Write the results as a Markdown table."""
    lines = [
        "| | calls a second | beside one, pinned | service, a call | cores: service, PostgreSQL, generator |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['name']} | {r['per_s']:,.0f} | **{r['ratio']:.2f}** ({r['ratio_least']:.2f} to {r['ratio_most']:.2f})"
        f" | {r['service_us_a_call']:.0f} µs | {r['cores_service']:.2f}, {r['cores_postgres']:.2f}, {r['cores_generator']:.2f} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cores", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="(default: %(default)s, the cores)"
    )
    parser.add_argument("--customers", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    options = parser.parse_args()
    if shutil.which("h2load") is None:
        raise SystemExit("This needs h2load (Debian: nghttp2-client).")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        results = run(Path(folder), options)
    print(table(results))  # noqa: T201 - a program for a terminal
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
