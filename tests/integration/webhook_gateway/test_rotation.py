"""Secrets and certificates of the gateway that change while it runs, against the service's real listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from billing.internal.v1 import fulfillment_service_pb2 as pb
from billing.internal.v1 import fulfillment_service_pb2_grpc as pb_grpc

from billing_service.access import Credentials, Identity, Role
from billing_service.address import Address
from billing_service.certificates import Certificates
from billing_service.rpc.guard import Gate
from billing_service.rpc.server import internal_listener
from billing_service.rpc.tls import server_credentials
from tests.certificates import Authority, put
from tests.integration.webhook_gateway.fulfillment import FulfillmentServer, event_id
from tests.integration.webhook_gateway.sender import Sender, event, signature
from webhook_gateway.expiry import first_end, last_end
from webhook_gateway.server import Server
from webhook_gateway.settings import load_settings

_LIMIT_S = 20
_OLD = "whsec_old"
_GATEWAY = Identity("gateway", Role.GATEWAY)


class _Fulfills(pb_grpc.FulfillmentServiceServicer):
    async def Fulfill(self, request: pb.FulfillRequest, context: Any) -> pb.FulfillResponse:  # noqa: ARG002, N802 - the contract's name
        """Say that everything was applied."""
        ids = [event_id(one.payload) for one in request.events]
        applied = pb.FulfillResult.OUTCOME_APPLIED
        return pb.FulfillResponse(results=[pb.FulfillResult(event_id=one, outcome=applied) for one in ids])


@asynccontextmanager
async def _gateway(
    monkeypatch: pytest.MonkeyPatch, folder: Path, **settings: str
) -> AsyncIterator[tuple[Server, Sender]]:
    """Run a gateway whose secrets are files in a folder."""
    for name, value in {
        "ADDRESS": "127.0.0.1:0",
        "SECRETS_DIR": str(folder),
        "RELOAD_INTERVAL_S": "0.05",
        **settings,
    }.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    async with AsyncExitStack() as stack:
        server = Server(load_settings())
        stack.push_async_callback(server.stop)
        address = await server.start()
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield server, Sender(session, address)


async def _status(sender: Sender, secret: str = _OLD) -> int:
    """Send an event signed with this secret, and give what the gateway answers."""
    body = event()
    return (await sender.post(body, Stripe_Signature=signature(body, secret=secret))).status


async def _until(holds: Callable[[], bool]) -> None:
    """Give the watch of the files its turns until something holds."""
    async with asyncio.timeout(_LIMIT_S):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


async def test_a_webhook_secret_is_rolled_without_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fulfillment: FulfillmentServer
) -> None:
    """Old alone, both, new alone; a file that does not hold keeps what there was, and readiness says so."""
    file = put(tmp_path / "gateway_webhook_secrets", "main=whsec_old")
    put(tmp_path / "gateway_internal_token", "the-token-of-gateways")
    async with _gateway(monkeypatch, tmp_path, FULFILLMENT_TARGET=fulfillment.address) as (server, sender):
        live = server._live

        async def taken() -> list[int]:
            return [await _status(sender, secret) for secret in ("whsec_old", "whsec_new")]

        seen = [await taken()]
        put(file, "main=whsec_old,next=whsec_new")
        await _until(lambda: len(live.secrets()) == 2)
        seen.append(await taken())
        put(file, "next=sk_test_of_something_else")
        await _until(lambda: bool(live.watch.warnings()))
        seen.append(await taken())
        (warning,) = live.watch.warnings()
        put(file, "next=whsec_new")
        await _until(lambda: len(live.secrets()) == 1)
        seen.append(await taken())
        assert live.watch.warnings() == []
    assert seen == [[200, 400], [200, 200], [200, 200], [400, 200]]
    assert warning.startswith("GATEWAY_WEBHOOK_SECRETS: entry 1 must have a secret that starts with whsec_")
    assert "sk_test" not in warning


async def test_the_token_for_the_service_is_replaced_without_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The service takes both, then the gateway shows the new one, then the service takes that alone."""
    put(tmp_path / "gateway_webhook_secrets", "main=whsec_old")
    file = put(tmp_path / "gateway_internal_token", "the-old-token")
    known = [Credentials().with_tokens(_GATEWAY, ["the-old-token", "the-new-token"])]
    listener = internal_listener(_Fulfills(), gate=Gate(lambda: known[0]))
    address = await listener.start(Address("127.0.0.1", 0), "TEST_ADDRESS")
    await listener.set_serving(serving=True)
    try:
        async with _gateway(monkeypatch, tmp_path, FULFILLMENT_TARGET=str(address)) as (server, sender):
            seen = [await _status(sender)]
            put(file, "the-new-token")
            await _until(lambda: server._live.token() == "the-new-token")
            known[0] = Credentials().with_tokens(_GATEWAY, ["the-new-token"])
            seen.append(await _status(sender))
            known[0] = Credentials().with_tokens(_GATEWAY, ["another-token"])
            seen.append(await _status(sender))
    finally:
        await listener.stop(0)
    assert seen == [200, 200, 503]


async def test_a_certificate_lets_the_gateway_in_and_is_replaced_without_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Mutual TLS without any token; the successor's name is the only one that the service knows then."""
    authority = Authority()
    pair = authority.sign("billing.test")
    put(tmp_path / "gateway_webhook_secrets", "main=whsec_old")
    put(tmp_path / "ca.pem", authority.pem)
    certificate, key = authority.sign("gateway.test").write(tmp_path, "gateway")
    known = [Credentials(certificates={"gateway.test": _GATEWAY})]
    current = Certificates(pair.certificate, pair.key, authority.pem)
    listener = internal_listener(
        _Fulfills(), gate=Gate(lambda: known[0]), credentials=server_credentials(lambda: current)
    )
    address = await listener.start(Address("127.0.0.1", 0), "TEST_ADDRESS")
    await listener.set_serving(serving=True)
    tls = {"TLS_CA": str(tmp_path / "ca.pem"), "TLS_CERTIFICATE": str(certificate), "TLS_KEY": str(key)}
    try:
        async with _gateway(monkeypatch, tmp_path, FULFILLMENT_TARGET=str(address), **tls) as (server, sender):
            seen = [await _status(sender)]
            known[0] = Credentials(certificates={"successor.test": _GATEWAY})
            seen.append(await _status(sender))
            before = server._live.tls()
            authority.sign("successor.test").write(tmp_path, "gateway")
            await _until(lambda: server._live.tls() != before)
            seen.append(await _status(sender))
            ends = {"own": first_end(certificate.read_bytes()), "authorities": last_end(authority.pem)}
            put(certificate, "nothing")
            await _until(lambda: bool(server._live.watch.warnings()))
            shown = server._metrics.registry.get_sample_value
            assert shown("gateway_reload_problems") == 1
            name = "gateway_certificate_end_timestamp_seconds"
            assert {of: shown(name, {"of": of}) for of in ends} == ends
    finally:
        await listener.stop(0)
    assert seen == [200, 503, 200]
