"""By which words releases are told apart that work out other things."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from billing_service.domain import facts
from billing_service.flows import rules

BEFORE = '''
"""What it is about."""

class One:
    """Documented."""

    def two(self, days: int) -> int:
        """Say how long."""
        return 3 * days  # and a comment
'''


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


class Release:
    """A module as one release has it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    def __call__(self, text: str) -> ModuleType:
        """Give it with this text."""
        self._count += 1
        file = self._folder / f"release_{self._count}.py"
        file.write_text(text)
        spec = spec_from_file_location(file.stem, file)
        assert spec is not None
        return module_from_spec(spec)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it is about.", "What it was about."),
        ("Documented.", "Described."),
        ('"""Say how long."""\n', "\n"),
        ("# and a comment", ""),
        ("3 * days", "(3 * days)"),
    ],
)
def test_what_is_only_said_otherwise_is_the_same_rule(release: Release, old: str, new: str) -> None:
    """Nobody has to be gone through for it."""
    assert old in BEFORE
    assert rules.told_apart(release(BEFORE)) == rules.told_apart(release(BEFORE.replace(old, new)))


@pytest.mark.parametrize(("old", "new"), [("3 * days", "4 * days"), ("two", "three"), ("One", "Two")])
def test_what_is_done_otherwise_is_another_rule(release: Release, old: str, new: str) -> None:
    assert rules.told_apart(release(BEFORE)) != rules.told_apart(release(BEFORE.replace(old, new)))


def test_what_a_module_imports_of_the_domain_is_of_its_rules(release: Release) -> None:
    """Nobody has to remember to name it; what it imports of elsewhere says nothing of what customers have."""
    used = "from billing_service.domain.facts import gather\n"
    user = release(used)
    assert rules.told_apart(user) == rules.told_apart(user, facts)
    assert rules._read(user)[1] == ["billing_service.domain.facts"]
    assert rules._read(release("from billing_service.storage import customers\n"))[1] == []


def test_a_process_gathers_as_one_of_its_own_version() -> None:
    """Whatever their catalogs; a release that does not say how it gathers may do it otherwise."""
    assert rules.gathers_alike(rules.version_of("a"))
    assert rules.gathers_alike(rules.version_of("b"))
    assert not rules.gathers_alike(f"a {rules.ACCESS}")
