"""What git keeps: the check that finds a link, a file that is ignored, and an index's address."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.tracked import problems


def test_what_must_not_be_committed_is_named(tmp_path: Path) -> None:
    """A link into somebody's machine, a file that .gitignore leaves out, and a lock file's address are each one problem."""
    (tmp_path / "requirements").mkdir()
    (tmp_path / ".gitignore").write_text(".venv\ndist/\n")
    (tmp_path / ".venv").symlink_to("/somewhere/else/.venv")
    (tmp_path / "requirements" / "dev.txt").write_text("grpcio==1.0\n--index-url https://index.example/simple\n")
    (tmp_path / "kept.txt").write_text("see https://example.org\n")
    for words in (["init", "--quiet"], ["add", "--force", "."]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    found = list(problems(tmp_path))
    assert [line.split(" ")[0] for line in found] == [".venv", ".venv", "requirements/dev.txt:2"]
    assert "symbolic link" in found[0]
    assert ".gitignore" in found[1]
