"""Checks that every container image is named by tag and digest, and everywhere by the same: `python -m tools.images`.

A tag can be moved, a digest cannot; the tag beside it is for people. With --resolve it asks the registry, through `docker buildx imagetools`,
what each tag is now, and says where that is another digest: at a release, before the new one is taken over here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
# Where images of others are named; our own have no digest before they are built.
FILES: Final = (
    "Dockerfile",
    "docker-compose.yml",
    ".env.example",
    "tests/compose/Dockerfile",
    "tests/compose/stand-in.yml",
    "tests/compose/embedded-postgres.yml",
)
RESOLVE_LIMIT_S: Final = 60

# As the default of a variable that names an image, in whichever of the files' languages.
_NAMED: Final = re.compile(r"(?:\b(?!BILLING)[A-Z]+_IMAGE)(?::-|=)([^\s}]+)")
_PINNED: Final = re.compile(r"(?P<name>[a-z0-9./-]+):(?P<tag>[A-Za-z0-9_.-]+)@(?P<digest>sha256:[0-9a-f]{64})")


def named(root: Path) -> Mapping[str, AbstractSet[str]]:
    """Give each image that is named, and the files that do."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in FILES:
        for image in _NAMED.findall((root / file).read_text(encoding="utf-8")):
            found[image].add(file)
    return found


def problems(images: Mapping[str, AbstractSet[str]]) -> Iterator[str]:
    """Say which are not pinned, and which are pinned to different things in different places."""
    pins: dict[str, set[str]] = defaultdict(set)
    for image, files in images.items():
        pinned = _PINNED.fullmatch(image)
        if pinned is None:
            yield f"{', '.join(sorted(files))}: {image} is not named by tag and digest"
        else:
            pins[pinned["name"]].add(image)
    for name, several in pins.items():
        if len(several) > 1:
            yield f"{name} is named in {len(several)} ways: {', '.join(sorted(several))}"


def moved(images: Mapping[str, AbstractSet[str]]) -> Iterator[str]:
    """Ask the registry what each tag is now.

    Raises:
        subprocess.CalledProcessError: it does not know one, or does not answer.
    """
    for image in sorted(images):
        pinned = _PINNED.fullmatch(image)
        if pinned is None:
            continue
        tag = f"{pinned['name']}:{pinned['tag']}"
        command = ["docker", "buildx", "imagetools", "inspect", tag, "--format", "{{.Manifest.Digest}}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=RESOLVE_LIMIT_S)  # noqa: S603 - ours
        if (now := done.stdout.strip()) != pinned["digest"]:
            yield f"{tag} is {now} now, and {pinned['digest']} here"


def main() -> int:
    """Give the exit code: 1 where something is to be done."""
    images = named(ROOT)
    found = list(problems(images))
    if "--resolve" in sys.argv[1:]:
        if shutil.which("docker") is None:
            sys.stderr.write("There is no docker command on the PATH.\n")
            return 1
        found += moved(images)
    for problem in found:
        sys.stderr.write(f"{problem}\n")
    sys.stdout.write(f"{len(images)} images, {len(found)} problems\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
