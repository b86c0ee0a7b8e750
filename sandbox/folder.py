"""The folder with the sandbox's state: one sandbox at a time, and secrets that are made once and kept."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sandbox.errors import SandboxError

_ADDED = frozenset({"grpc_token", "admin_token"})  # a folder may be from before these were


@dataclass(frozen=True)
class Secrets:
    """What opens the sandbox's doors. They open nothing else: the key is no key of Stripe's."""

    api_key: str
    webhook_secret: str
    internal_token: str
    grpc_token: str  # of the storefront, and of whoever tries the service out
    admin_token: str  # of whoever tries the operators' commands


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder to ourselves. The kernel lets go of the lock when we end, however we end: no lock is ever stale.

    Raises:
        SandboxError: another sandbox uses the folder, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise SandboxError(
            f"The data folder {folder} cannot be used: {error.strerror}; choose another with --data."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SandboxError(
                f"Another sandbox is running on {folder}; stop that one, or give this one its own folder and ports with "
                f"`python -m sandbox --data DIR --ports 0`."
            ) from None
        yield


def keep_secrets(folder: Path) -> Secrets:
    """Give the folder's secrets, made at the first start and readable to their owner alone.

    Raises:
        SandboxError: the file is not what we wrote.
    """
    file = folder / "secrets.json"
    if not file.exists():
        made = Secrets(
            api_key=f"sk_test_sandbox_{secrets.token_hex(16)}",
            webhook_secret=f"whsec_{secrets.token_hex(24)}",
            internal_token=secrets.token_urlsafe(32),
            grpc_token=secrets.token_urlsafe(32),
            admin_token=secrets.token_urlsafe(32),
        )
        write_private(file, asdict(made))
    try:
        kept = json.loads(file.read_text())
        found = Secrets(**{name: secrets.token_urlsafe(32) for name in _ADDED} | kept)
    except (ValueError, TypeError):
        raise SandboxError(f"{file} is damaged; remove it, and the sandbox makes new secrets.") from None
    if not kept.keys() >= _ADDED:
        write_private(file, asdict(found))
    return found


def write_private(file: Path, content: Mapping[str, str]) -> None:
    """Write JSON that only its owner may read, whole or not at all."""
    write_private_text(file, json.dumps(content, indent=2) + "\n")


def write_private_text(file: Path, content: str) -> None:
    """Write a text that only its owner may read, whole or not at all."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(content)
    unfinished.rename(file)
