"""Checks what git keeps here: no link, nothing that .gitignore leaves out, and no index's address in a lock file.

A link points into the machine on which it was made, and whoever clones it gets one that leads nowhere: `.venv`, once, on
which `make setup` stopped. A lock file with addresses asks a host that others have not.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_LINK = "120000"  # git's mode of a symbolic link
_LOCKS = ("requirements/*.txt", "**/package-lock.json")
_ADDRESSES = ("://", '"resolved"', "--index-url", "--extra-index-url", "--find-links")


def problems(root: Path) -> Iterator[str]:
    """Give a sentence for each tracked file that must not be, and each line of a lock file that names an address."""
    for line in _git(root, "ls-files", "--stage", "-z"):
        meta, name = line.split("\t", 1)
        if meta.startswith(_LINK):
            yield f"{name} is a symbolic link: clones cannot follow it. Take it out: git rm --cached {name}"
    for name in _git(root, "ls-files", "--cached", "--ignored", "--exclude-standard", "-z"):
        yield f"{name} is tracked, and .gitignore leaves it out. Take it out: git rm --cached {name}"
    for name in _git(root, "ls-files", "-z", "--", *(f":(glob){pattern}" for pattern in _LOCKS)):
        if (root / name).is_file():  # one that is being taken out has nothing to look at
            yield from _addresses(name, (root / name).read_text(encoding="utf-8"))


def _addresses(name: str, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if any(word in line for word in _ADDRESSES) or line.startswith(("-i ", "-f ")):
            yield f"{name}:{number} names an index: make the lock file anew, without addresses (make lock)."


def _git(root: Path, *arguments: str) -> list[str]:
    command = [shutil.which("git") or "git", *arguments]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)  # noqa: S603 - our own words
    return [entry for entry in done.stdout.split("\0") if entry]


def main() -> int:
    """Print what is wrong; exit code 1 if anything is, 0 also where this is no checkout that git reads."""
    try:
        _git(ROOT, "rev-parse")
    except (OSError, subprocess.CalledProcessError):
        sys.stdout.write("tracked files: no git checkout that can be read here; nothing to look at.\n")
        return 0
    found = list(problems(ROOT))
    sys.stdout.writelines(f"{problem}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
