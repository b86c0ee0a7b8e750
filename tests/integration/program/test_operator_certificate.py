"""An operator who is known by a certificate, over mutual TLS, to the service as a process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from billing_cli.program import app
from typer.testing import CliRunner

from tests.certificates import Authority, put
from tests.integration.program.test_access import _serving


async def test_an_operator_is_known_by_a_certificate_and_a_stranger_is_not(database_url: str, tmp_path: Path) -> None:
    """The listener believes one authority and looks at the name; the operator looks at the service's."""
    authority, stranger = Authority(), Authority("another authority")
    ca = put(tmp_path / "ca.pem", authority.pem)
    authority.sign("billing.test").write(tmp_path, "server")
    put(tmp_path / "access", "certificate ada admin ada.operators.test\ncertificate gateway gateway gateway.test\n")
    people = {
        "operator": (authority.sign("ada.operators.test"), 0),
        "gateway": (authority.sign("gateway.test"), 4),
        "nobody": (authority.sign("eve.operators.test"), 4),
        "stranger": (stranger.sign("ada.operators.test"), 5),
    }
    async with _serving(database_url, tmp_path, BILLING_TLS_CLIENT_CA=str(ca)) as (_, where):
        for name, (pair, code) in people.items():
            certificate, key = pair.write(tmp_path, name)
            connection = ("--target", where["internal"], "--ca", str(ca), "--cert", str(certificate), "--key", str(key))
            command = [*connection, "customer", "show", "ann", "--json"]
            ran = await asyncio.to_thread(CliRunner().invoke, app, command)
            assert (name, ran.exit_code) == (name, code), ran.stderr
