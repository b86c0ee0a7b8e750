"""Checks that every link of the Markdown pages that stays inside the repository leads somewhere, headings included."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("*.md", "docs/**/*.md", "sandbox/**/*.md", "clients/**/*.md")

_FENCE = re.compile(r"^(```|~~~).*?^\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def find_pages(root: Path) -> list[Path]:
    """Give the project's Markdown pages; those of installed packages are not ours."""
    return sorted({page for pattern in PAGES for page in root.glob(pattern) if "node_modules" not in page.parts})


def broken_links(page: Path, root: Path) -> Iterator[str]:
    """Give one sentence for each link of a page that leads nowhere."""
    for target in _LINK.findall(_CODE.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))):
        if _ELSEWHERE.match(target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        name = f"{page.relative_to(root)}: {target}"
        if not file.exists():
            yield f"{name}: there is no such file"
        elif not file.is_relative_to(root):
            yield f"{name}: leads out of the repository"
        elif anchor and file.suffix == ".md" and anchor not in anchors_of(file):
            yield f"{name}: there is no such heading"


def anchors_of(page: Path) -> set[str]:
    """Give the anchors that the headings of a page make, by the rules of the usual hosts."""
    anchors: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        anchor = words
        while anchor in anchors:  # ends: the anchors of a page are finite
            number += 1
            anchor = f"{words}-{number}"
        anchors.add(anchor)
    return anchors


def main() -> int:
    """Print every broken link; 1 where there is one."""
    pages = find_pages(ROOT)
    broken = [problem for page in pages for problem in broken_links(page, ROOT)]
    for problem in broken:
        sys.stderr.write(f"{problem}\n")
    sys.stdout.write(f"{len(pages)} pages, {len(broken)} broken links\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
