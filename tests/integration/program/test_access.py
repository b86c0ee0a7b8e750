"""The service as a process, with TLS and named callers, whose files change while it runs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from billing.v1 import billing_service_pb2, billing_service_pb2_grpc, watch_pb2
from billing_client import TLS, BillingClient, Closed, EntitlementCache, Options
from billing_client import cache as cache_module
from billing_client.errors import UnauthenticatedError
from cryptography import x509

from tests.certificates import Authority, Pair, put
from tests.integration.program.conftest import BOUND_S, KEY, ROOT
from tests.integration.program.test_watch import eventually
from webhook_gateway import readiness
from webhook_gateway.server import Server
from webhook_gateway.settings import load_settings

_ASK = billing_service_pb2.ListPlansRequest()


def _line(name: str, token: str, role: str = "caller") -> str:
    return f"token {name} {role} sha256:{hashlib.sha256(token.encode()).hexdigest()}\n"


@dataclass
class _Running:
    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    async def until(self, event: str, **fields: Any) -> dict[str, Any]:
        """Read the log until a line of this kind."""
        assert self.process.stderr is not None
        async with asyncio.timeout(BOUND_S):
            async for raw in self.process.stderr:
                self.raw.append(raw)
                line = json.loads(raw) if raw.startswith(b"{") else {"event": None}
                if line["event"] == event and fields.items() <= line.items():
                    return dict(line)
        raise AssertionError(b"".join(self.raw))


@asynccontextmanager
async def _serving(database_url: str, folder: Path, **more: str) -> AsyncIterator[tuple[_Running, dict[str, Any]]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")} | {
        "BILLING_DATABASE_URL": database_url,
        "BILLING_STRIPE_API_KEY": KEY,
        "BILLING_STRIPE_API_BASE": "http://127.0.0.1:1",  # nobody answers there
        "BILLING_CATALOG": str(ROOT / "catalog.toml"),
        "BILLING_ACCESS_FILE": str(folder / "access"),
        "BILLING_TLS_CERTIFICATE": str(folder / "server.pem"),
        "BILLING_TLS_KEY": str(folder / "server.key"),
        "BILLING_RELOAD_INTERVAL_S": "0.05",
        "BILLING_GRPC_ADDRESS": "127.0.0.1:0",
        "BILLING_INTERNAL_ADDRESS": "127.0.0.1:0",
        "BILLING_OPS_ADDRESS": "127.0.0.1:0",
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "billing_service", "serve"), stderr=asyncio.subprocess.PIPE, env=environment, cwd=ROOT
    )
    running = _Running(process)
    try:
        where = await running.until("listening")
        await running.until("readiness", ready=True)
        yield running, where
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def _numbers(ops: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{ops}/metrics") as response:
        return await response.text()


async def _warnings(ops: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"http://{ops}/readyz") as response:
        assert response.status == 200
        return "\n".join((await response.json())["warnings"])


async def _files(ops: str) -> tuple[float, float]:
    """Give what alerts ask of files: how many do not hold, and when our certificate ends."""
    lines = dict(line.rsplit(" ", 1) for line in (await _numbers(ops)).splitlines() if not line.startswith("#"))
    end = lines['billing_certificate_end_timestamp_seconds{of="own"}']
    return float(lines["billing_reload_problems"]), float(end)


def _end(pem: bytes) -> float:
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


async def _ask(address: str, ca: Path, token: str) -> bool:
    """Say whether a caller with this token is answered."""
    async with BillingClient(Options([address], token=token, tls=TLS(ca=ca))) as client:
        try:
            await client.list_plans(_ASK)
        except UnauthenticatedError:
            return False
    return True


async def test_tokens_are_rotated_and_a_bad_file_keeps_the_old_one_while_the_service_runs(
    database_url: str, tmp_path: Path
) -> None:
    """Two live at once, then one; what does not hold is in the log and in readiness; no token is ever written."""
    authority = Authority()
    ca = put(tmp_path / "ca.pem", authority.pem)
    authority.sign("billing.test").write(tmp_path, "server")
    gateway = _line("gateway", "token-of-the-gateway", "gateway")
    access = put(tmp_path / "access", gateway + _line("shop", "the-old-token"))
    async with _serving(database_url, tmp_path) as (running, where):

        async def answered() -> list[bool]:
            return [await _ask(where["grpc"], ca, token) for token in ("the-old-token", "the-new-token")]

        seen = [await answered()]
        put(access, gateway + _line("shop", "the-old-token") + _line("shop", "the-new-token"))
        await running.until("reloaded", what="BILLING_ACCESS_FILE")
        seen.append(await answered())
        put(access, "token shop caller the-new-token\n")
        await running.until("reload_refused", what="BILLING_ACCESS_FILE")
        seen.append(await answered())
        assert "BILLING_ACCESS_FILE: line 1 must have the token's SHA-256" in await _warnings(where["ops"])
        put(access, gateway + _line("shop", "the-new-token"))
        await running.until("reloaded", what="BILLING_ACCESS_FILE")
        seen.append(await answered())
        assert "BILLING_ACCESS_FILE" not in await _warnings(where["ops"])
        running.process.terminate()
        _, rest = await running.process.communicate()
    assert seen == [[True, False], [True, True], [True, True], [False, True]]
    log = b"".join(running.raw) + rest
    assert b'"caller":"shop"' in log
    for secret in (b"the-old-token", b"the-new-token", b"token-of-the-gateway"):
        assert secret not in log


async def _readyz(session: aiohttp.ClientSession, address: str, status: int) -> str:
    """Ask a gateway whether it is ready until it answers with this status; give what it says."""
    async with asyncio.timeout(BOUND_S):
        while True:
            async with session.get(f"http://{address}/readyz") as response:
                said = await response.text()
                if response.status == status:
                    return said
            await asyncio.sleep(0.05)


async def test_a_gateway_that_is_refused_is_not_ready_and_is_again_without_a_webhook(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token is taken out: /readyz says what is missing, and not which; another one in its file heals it."""
    authority = Authority()
    authority.sign("billing.test").write(tmp_path, "server")
    shop = _line("shop", "a-token")
    access = put(tmp_path / "access", shop + _line("gateway", "the-old-token", "gateway"))
    put(tmp_path / "gateway_webhook_secrets", "main=whsec_1")
    token = put(tmp_path / "gateway_internal_token", "the-old-token")
    put(tmp_path / "ca.pem", authority.pem)
    monkeypatch.setattr(readiness, "LET_IN_S", 0.0)
    async with _serving(database_url, tmp_path) as (running, where), aiohttp.ClientSession() as session:
        for name, value in {
            "ADDRESS": "127.0.0.1:0",
            "FULFILLMENT_TARGET": where["internal"],
            "SECRETS_DIR": str(tmp_path),
            "TLS_CA": str(tmp_path / "ca.pem"),
            "TLS_SERVER_NAME": "billing.test",
            "RELOAD_INTERVAL_S": "0.05",
        }.items():
            monkeypatch.setenv(f"GATEWAY_{name}", value)
        gateway = Server(load_settings())
        try:
            address = await gateway.start()
            said = [await _readyz(session, address, 200)]
            put(access, shop + _line("gateway", "the-new-token", "gateway"))
            said.append(await _readyz(session, address, 503))
            put(token, "the-new-token")
            said.append(await _readyz(session, address, 200))
            put(access, shop + _line("gateway", "the-new-token", "admin"))
            said.append(await _readyz(session, address, 503))
        finally:
            await gateway.stop()
        running.process.terminate()
        _, rest = await running.process.communicate()
    refused = "fulfillment: our token or certificate is refused"
    assert [json.loads(one) for one in said] == [
        {"ready": True},
        {"ready": False, "reason": f"{refused} (unauthenticated)"},
        {"ready": True},
        {"ready": False, "reason": f"{refused} (permission_denied)"},
    ]
    assert not any(f"the-{which}-token".encode() in b"".join(running.raw) + rest for which in ("old", "new"))


async def _to_its_end(stream: Any) -> None:
    """Read until gRPC says how it ended, which it does behind the last message."""
    while True:
        await stream.read()


async def test_streams_of_a_token_that_is_taken_out_end_and_others_go_on(database_url: str, tmp_path: Path) -> None:
    """Also where its name stays, because another token has it: whoever took the old one hears no more."""
    authority = Authority()
    authority.sign("billing.test").write(tmp_path, "server")
    known = {"the-old-token": "shop", "the-new-token": "shop", "the-third-token": "desk"}
    gateway = _line("gateway", "token-of-the-gateway", "gateway")
    access = put(tmp_path / "access", gateway + "".join(_line(name, token) for token, name in known.items()))
    secured = grpc.ssl_channel_credentials(authority.pem)
    names = (("grpc.ssl_target_name_override", "billing.test"),)
    async with (
        _serving(database_url, tmp_path) as (running, where),
        grpc.aio.secure_channel(where["grpc"], secured, options=names) as channel,
    ):
        watch = billing_service_pb2_grpc.BillingServiceStub(channel).WatchEntitlements
        ask = watch_pb2.WatchEntitlementsRequest(customer_ids=["ann"])
        streams = {token: watch(ask, metadata=(("authorization", f"Bearer {token}"),)) for token in known}
        for stream in streams.values():
            assert await asyncio.wait_for(stream.read(), BOUND_S)
        put(access, gateway + "".join(_line(name, token) for token, name in known.items() if token != "the-old-token"))
        await running.until("reloaded", what="BILLING_ACCESS_FILE")
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await _to_its_end(streams["the-old-token"])
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE, "with another token it goes on"
        line = await running.until("call", method="/billing.v1.BillingService/WatchEntitlements")
        assert (line["code"], line["caller"]) == ("UNAVAILABLE", "shop")
        assert not streams["the-new-token"].done()
        assert not streams["the-third-token"].done()


async def test_a_cache_lives_through_a_rotation_also_where_its_new_token_comes_late(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented order gives the new token first. One that comes after the old one is gone is refused once, and not for ever."""
    monkeypatch.setattr(cache_module, "AGAIN_S", 0.05)
    authority = Authority()
    authority.sign("billing.test").write(tmp_path, "server")
    ca = put(tmp_path / "ca.pem", authority.pem)
    gateway = _line("gateway", "token-of-the-gateway", "gateway")
    access = put(tmp_path / "access", gateway + _line("shop", "the-old-token"))
    shown = ["the-old-token"]
    watch = "/billing.v1.BillingService/WatchEntitlements"
    async with _serving(database_url, tmp_path) as (running, where):
        how = Options([where["grpc"]], token=lambda: shown[0], tls=TLS(ca=ca, server_name="billing.test"))
        client = BillingClient(how)
        policies = {"projects": Closed()}
        cache = EntitlementCache(client, policies=policies, customer_ids=["ann"], stale_after=timedelta(seconds=2))
        async with client, cache, asyncio.timeout(BOUND_S):
            await cache.ready()
            put(access, gateway + _line("shop", "the-new-token"))
            assert (await running.until("call", method=watch))["code"] == "UNAVAILABLE"
            assert (await running.until("call", method=watch))["code"] == "UNAUTHENTICATED"
            await eventually(lambda: cache.check("ann", "projects").fell_back)
            shown[0] = "the-new-token"
            await eventually(lambda: not cache.check("ann", "projects").fell_back)


async def test_certificates_are_replaced_while_the_service_runs(database_url: str, tmp_path: Path) -> None:
    """A key without its certificate is not taken; with it, who connects next sees the new one. Numbers say both, and when it ends."""
    first, second = Authority(), Authority("the next one")
    ca, next_ca = put(tmp_path / "ca.pem", first.pem), put(tmp_path / "next.pem", second.pem)
    first.sign("billing.test").write(tmp_path, "server")
    put(tmp_path / "access", _line("shop", "a-token") + _line("gateway", "token-of-the-gateway", "gateway"))
    async with _serving(database_url, tmp_path) as (running, where):
        assert await _ask(where["grpc"], ca, "a-token")
        successor = second.sign("billing.test", ends_in=timedelta(days=3))
        put(tmp_path / "server.key", successor.key)
        await running.until("reload_refused", what="BILLING_TLS_CERTIFICATE")
        assert "BILLING_TLS_CERTIFICATE: " in await _warnings(where["ops"])
        assert await _files(where["ops"]) == (1, _end((tmp_path / "server.pem").read_bytes()))
        assert await _ask(where["grpc"], ca, "a-token")
        put(tmp_path / "server.pem", successor.certificate)
        await running.until("reloaded", what="BILLING_TLS_CERTIFICATE")
        assert await _ask(where["grpc"], next_ca, "a-token")
        assert await _files(where["ops"]) == (0, _end(successor.certificate))


async def test_both_listeners_speak_tls_and_nothing_else(database_url: str, tmp_path: Path) -> None:
    Authority().sign("billing.test").write(tmp_path, "server")
    put(tmp_path / "access", _line("gateway", "token-of-the-gateway", "gateway"))
    async with _serving(database_url, tmp_path) as (_, where):
        codes = []
        for listener in ("grpc", "internal"):
            async with grpc.aio.insecure_channel(where[listener]) as channel:
                stub: Any = billing_service_pb2_grpc.BillingServiceStub(channel)
                try:
                    await stub.ListPlans(_ASK, timeout=BOUND_S)
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code())
    assert codes == [grpc.StatusCode.UNAVAILABLE] * 2


async def _knock(address: str, ca: bytes, shown: Pair | None, folder: Path) -> None:
    """Connect with a certificate, or with none, and wait until the other side has closed."""
    context = ssl.create_default_context(cadata=ca.decode())
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        context.load_cert_chain(*shown.write(folder, "shown"))
    host, _, port = address.rpartition(":")
    with suppress(OSError):  # ssl.SSLError among them
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="billing.test")
        await reader.read()
        writer.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_certificate_that_has_expired_or_is_nobody_s_is_refused_counted_and_logged(
    database_url: str, tmp_path: Path, workers: str
) -> None:
    """The handshake fails before there is a call: the log has why, once in a while, and nothing that the peer sent."""
    ours, strangers = Authority(), Authority("hunter2")
    ours.sign("billing.test").write(tmp_path, "server")
    put(tmp_path / "ca.pem", ours.pem)
    put(tmp_path / "access", "certificate shop caller shop.test\ncertificate gateway gateway gateway.test\n")
    knocks = {
        "certificate_expired": ours.sign("shop.test", ends_in=timedelta(hours=-1)),
        "certificate_of_another_authority": strangers.sign("hunter2.test"),
        "no_certificate": None,
    }
    more = {"BILLING_TLS_CLIENT_CA": str(tmp_path / "ca.pem"), "BILLING_WORKERS": workers}
    async with _serving(database_url, tmp_path, **more) as (running, where):
        for reason, shown in knocks.items():
            await _knock(where["grpc" if shown else "internal"], ours.pem, shown, tmp_path)
            line = await running.until("tls_handshake_failed", reason=reason)
            assert (line["level"], line["count"]) == ("warning", 1)
        page = await _numbers(where["ops"])
        certificate, key = ours.sign("shop.test").write(tmp_path, "shop")
        good = TLS(ca=tmp_path / "ca.pem", certificate=certificate, key=key)
        async with BillingClient(Options([where["grpc"]], tls=good)) as client:
            await client.list_plans(_ASK)
        running.process.terminate()
        _, rest = await running.process.communicate()
    assert running.process.returncode == 0
    counted = re.findall(r'^billing_tls_handshakes_failed_total{.*?reason="(\w+)".*?} (\d+)\.0$', page, re.MULTILINE)
    assert {reason for reason, count in counted if count != "0"} == set(knocks)
    log = b"".join(running.raw) + rest
    assert b"hunter2" not in log
    assert all(line.startswith(b"{") for line in log.splitlines())
