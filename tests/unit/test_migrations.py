"""Migrations only add, as long as programs run that need what there was."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory

from billing_service.storage import migrations
from billing_service.storage.schema import OLDEST_SERVED, _config, expected_revision

DIGESTS = Path(__file__).with_name("migrations.sha256")
VERSIONS = sorted((Path(migrations.__path__[0]) / "versions").glob("[0-9]*.py"))
# Of what a program uses. An index or a constraint that goes takes nothing away from it.
TAKES_AWAY = re.compile(
    r"\bDROP\s+(?:TABLE|COLUMN|VIEW|SEQUENCE|TYPE|FUNCTION)\b|\bRENAME\b|\bTRUNCATE\b"
    r"|\bALTER\s+COLUMN\s+\w+\s+(?:SET\s+DATA\s+)?TYPE\b|\bop\.(?:drop_table|drop_column|alter_column|rename_table)\b",
    re.IGNORECASE,
)


def taken_away(text: str) -> list[str]:
    """Give what a migration takes away of what was there before it: not what it makes itself and clears up after."""
    found = [(one[0], re.match(r"\s+(?:IF\s+EXISTS\s+)?(\w+)", text[one.end() :])) for one in TAKES_AWAY.finditer(text)]
    return [
        what
        for what, name in found
        if name is None or not re.search(rf"\bCREATE\s+\w+\s+(?:IF\s+NOT\s+EXISTS\s+)?{name[1]}\b", text, re.IGNORECASE)
    ]


def test_the_files_names_say_what_alembic_says() -> None:
    """One line of migrations, each file named by its revision; programs go by the names, and need not import alembic."""
    scripts = ScriptDirectory.from_config(_config())
    assert [scripts.get_current_head()] == [expected_revision()] == scripts.get_heads()
    assert {script.revision for script in scripts.walk_revisions()} == {path.stem[:4] for path in VERSIONS}


def test_a_migration_is_never_changed() -> None:
    """A database that has run it does not run it again: what is to be otherwise is a migration of its own.

    Whoever adds one adds its line: `sha256sum 00*.py` in the folder of the migrations.
    """
    known = {name: digest for digest, name in map(str.split, DIGESTS.read_text(encoding="utf-8").splitlines())}
    assert known == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.stem)
def test_a_migration_that_takes_something_away_says_whom_it_no_longer_serves(version: Path) -> None:
    """The schema's note has to name the first program that does without it (`OLDEST_SERVED`)."""
    if version.stem[:4] > OLDEST_SERVED:
        assert taken_away(version.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("statement", "takes"),
    [
        ("ALTER TABLE customers DROP COLUMN facts", True),
        ("ALTER TABLE customers RENAME COLUMN facts TO known", True),
        ("ALTER TABLE customers ALTER COLUMN revision TYPE integer", True),
        ("DROP TABLE rereads", True),
        ("ALTER TABLE findings DROP CONSTRAINT findings_kind_known", False),
        ("DROP INDEX CONCURRENTLY IF EXISTS x", False),
        ("ALTER TABLE customers ADD COLUMN type text", False),
        ("CREATE SEQUENCE IF NOT EXISTS x; DROP SEQUENCE IF EXISTS x", False),
        ("CREATE SEQUENCE IF NOT EXISTS x; DROP SEQUENCE IF EXISTS y", True),
    ],
)
def test_what_takes_something_away_is_known(statement: str, takes: bool) -> None:
    assert bool(taken_away(statement)) is takes
