from __future__ import annotations

from pathlib import Path

import pytest
from billing_cli.connection import Connection
from billing_cli.failures import UsageError


@pytest.mark.parametrize(
    ("connection", "encrypted"),
    [
        (Connection("127.0.0.1:50052"), False),
        (Connection("localhost:50052"), False),
        (Connection("[::1]:50052"), False),
        (Connection("billing.internal:50052"), True),
        (Connection("10.0.0.7:50052"), True),
        (Connection("10.0.0.7:50052", insecure=True), False),
        (Connection("127.0.0.1:50052", ca=Path("ca.pem")), True),
        (Connection("127.0.0.1:50052", server_name="billing.internal"), True),
    ],
)
def test_plain_text_is_for_this_machine_unless_somebody_says_otherwise(connection: Connection, encrypted: bool) -> None:
    assert (connection.options().tls is not None) is encrypted


@pytest.mark.parametrize(
    ("connection", "named"),
    [
        (Connection(certificate=Path("me.pem")), "--key"),
        (Connection(key=Path("me.key")), "--cert"),
        (Connection(ca=Path("ca.pem"), insecure=True), "--insecure"),
        (Connection("nowhere"), "--target"),
        (Connection(token_file=Path("/nowhere/token")), "/nowhere/token"),
    ],
)
def test_options_that_cannot_hold_are_named(connection: Connection, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        connection.options()


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"\xff\xfe", b"x" * 5_000, b"a\x00b"])
def test_a_file_without_a_token_is_named_and_never_shown(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "token").write_bytes(content)
    with pytest.raises(UsageError, match="holds no token") as raised:
        Connection(token_file=file).options()
    assert "words" not in str(raised.value)


def test_a_token_is_taken_without_its_line_end(tmp_path: Path) -> None:
    (file := tmp_path / "token").write_text("secret\n")
    assert Connection(token_file=file).options().metadata() == (("authorization", "Bearer secret"),)
    assert "secret" not in repr(Connection(token_file=file).options())
