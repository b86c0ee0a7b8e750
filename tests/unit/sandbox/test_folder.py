"""The sandbox's folder and ports."""

from __future__ import annotations

import json
import socket
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from sandbox.errors import SandboxError
from sandbox.folder import keep_secrets, locked
from sandbox.ports import HOST, Ports, require_free


def test_secrets_are_made_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    first = keep_secrets(tmp_path)
    assert keep_secrets(tmp_path) == first
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert first.api_key.startswith("sk_test_sandbox_")
    assert first.webhook_secret.startswith("whsec_")


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"api_key": "x"}), "not JSON"])
def test_damaged_secrets_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "secrets.json").write_text(content)
    with pytest.raises(SandboxError, match="is damaged; remove it"):
        keep_secrets(tmp_path)


def test_a_folder_has_one_sandbox_at_a_time(tmp_path: Path) -> None:
    """A second one is refused while the first holds the folder, and not a moment longer."""
    with locked(tmp_path), pytest.raises(SandboxError, match="Another sandbox is running"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SandboxError, match="cannot be used"), locked(tmp_path / "file" / "below"):
        pass


def test_ports_from_a_base_are_in_a_row_and_free_ones_are_distinct() -> None:
    assert astuple(Ports.choose(20_000)) == tuple(range(20_000, 20_009))
    assert len(set(astuple(Ports.choose(0)))) == 9
    assert Ports.choose(None) == Ports()


@pytest.mark.parametrize("base", [-1, 65_530, 70_000])
def test_a_base_without_room_is_refused(base: int) -> None:
    with pytest.raises(SandboxError, match="--ports takes"):
        Ports.choose(base)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SandboxError, match=rf"Port {port} .*the shop, is in use"):
            require_free("the shop", port)


def test_a_folder_from_before_callers_had_tokens_keeps_its_secrets_and_gets_one(tmp_path: Path) -> None:
    first = keep_secrets(tmp_path)
    kept = json.loads((tmp_path / "secrets.json").read_text())
    del kept["grpc_token"]
    (tmp_path / "secrets.json").write_text(json.dumps(kept))
    second = keep_secrets(tmp_path)
    assert replace(second, grpc_token=first.grpc_token) == first
    assert len(second.grpc_token) > 40
    assert keep_secrets(tmp_path) == second
