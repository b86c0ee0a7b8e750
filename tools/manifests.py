"""Checks deploy/kubernetes against the schemas of Kubernetes' API: `python -m tools.manifests`.

Each file is valid by itself, so that no renderer is needed to look at it. Where `kustomize` or `kubectl` is on the PATH, each
overlay is rendered with it too, and what comes out is checked likewise.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]  # ships no types
import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION: Final = "kustomization.yaml"
# The oldest that the manifests are for (preStop sleep, matchLabelKeys), and the newest known.
VERSIONS: Final = (
    "1.32",
    "1.37",
)
RENDER_LIMIT_S: Final = 60

Document = Mapping[str, Any]


def documents(path: Path) -> list[Document]:
    """Read a file's documents.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]


def manifests(folder: Path) -> list[Path]:
    """Give the files of a folder and those below it that Kubernetes is to understand: not what only kustomize does, and no patch."""
    patches = {
        (file.parent / patch["path"]).resolve()
        for file in folder.rglob(KUSTOMIZATION)
        for one in documents(file)
        for patch in one.get("patches", [])
    }
    found = (path for path in sorted(folder.rglob("*.yaml")) if path.name != KUSTOMIZATION)
    return [path for path in found if path.resolve() not in patches]


def problems(name: str, found: list[Document]) -> Iterator[str]:
    """Say what the schemas have against documents, one line each."""
    for document in found:
        kind, metadata = document.get("kind", "no kind"), document.get("metadata", {})
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(dict(document), version, strict=True)
            except kubernetes_validate.ValidationError as error:
                place = ".".join(str(step) for step in error.path) or "the document"
                yield f"{name}: {kind} {metadata.get('name')}, Kubernetes {version}: {place}: {error.message}"
            except kubernetes_validate.SchemaNotFoundError:
                yield f"{name}: Kubernetes {version} has no {document.get('apiVersion')} {kind}"


def unlisted(folder: Path) -> Iterator[str]:
    """Say which files no kustomization names, and which names have no file."""
    for file in sorted(folder.rglob(KUSTOMIZATION)):
        (kustomization,) = documents(file)
        named = {*kustomization.get("resources", []), *(patch["path"] for patch in kustomization.get("patches", []))}
        present = {path.name for path in file.parent.glob("*.yaml")} - {KUSTOMIZATION}
        yield from (
            f"{file}: names {name}, which does not exist" for name in named if not (file.parent / name).exists()
        )
        yield from (f"{file}: does not name {name}, which is beside it" for name in sorted(present - named))


def renderer() -> list[str] | None:
    """Give the command that renders a kustomization, where there is one."""
    for words in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(words[0]):
            return words
    return None


def rendered(command: list[str], overlay: Path) -> list[Document]:
    """Render an overlay.

    Raises:
        subprocess.CalledProcessError: kustomize refuses it.
    """
    done = subprocess.run(  # noqa: S603 - a command from our own list
        [*command, str(overlay)], capture_output=True, text=True, check=True, timeout=RENDER_LIMIT_S
    )
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


def main() -> int:
    """Name what does not hold; 1 where anything does not."""
    files = manifests(FOLDER)
    found = [problem for path in files for problem in problems(path.name, documents(path))]
    found += unlisted(FOLDER)
    command = renderer()
    overlays = sorted((FOLDER / "overlays").iterdir()) if command else []
    for overlay in overlays:
        try:
            found += problems(f"{overlay.name}, rendered", rendered(command or [], overlay))
        except subprocess.CalledProcessError as error:
            found.append(f"{overlay.name} does not render: {error.stderr.strip()}")
    for problem in found:
        sys.stderr.write(f"{problem}\n")
    how = f"{len(overlays)} overlays rendered" if command else "overlays not rendered: no kustomize or kubectl here"
    sys.stdout.write(f"{len(files)} manifests, {len(found)} problems; {how}\n")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
