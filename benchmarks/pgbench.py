"""The first peer: pgbench, running the inserts and upserts of one event in one transaction, from as many clients.

Only the rows that the service writes for such an event, as it writes them (the customer's next change, what was known of them): no lock,
no read, no merge, no fold. The bodies travel as parameters of prepared statements, as they do from the service; pgbench itself is C and
comes with the server. It is given bodies that are compressed already, as the service sends them after it has compressed them, or
as they come, which the service is given as well: then PostgreSQL compresses them.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.bodies import INVOICE, SESSION, SUBSCRIPTION, Stream, bodies
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
VALUES ({object}, :kind, 'cus_' || :customer, false, 1790000000, 1, 'evt_' || :client_id || '_' || :visit, 1,
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
_THERE = "'sub_' || :customer"


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
        self, program: Path, folder: Path, database_url: str, recording: Recording, customers: int, *, compressed: bool
    ) -> None:
        """Write the scripts. `program` is pgbench's path; `compressed`: whether bodies are already."""
        self._program = program
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
        self._run += 1
        before = self._recorded()
        command = [str(self._program), "-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(max(1, round(seconds))),
                   "-D", f"run={self._run}", *self._options, "-d", self._url]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
        rate = re.search(r"tps = ([0-9.]+)", done.stdout)
        count = re.search(r"transactions actually processed: (\d+)", done.stdout)
        if done.returncode or not rate or not count:
            raise BenchmarkError(f"pgbench failed: {done.stderr[-1000:]}")
        if self._recorded() - before != int(count[1]):
            raise BenchmarkError("pgbench's transactions are not all in the database")
        return float(rate[1])

    def _recorded(self) -> int:
        with psycopg.connect(self._url) as connection:
            row = connection.execute("SELECT count(*) FROM stripe_events").fetchone()
        return int(row[0]) if row else 0


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
        "customer_name": _text(_column(recording, "customers", "customer_id")).replace("@@", "c"),
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


def _text(column: Column) -> str:
    return column.value if isinstance(column.value, str) else ""
