"""`billing_client` over TLS and mutual TLS: it shows its token, believes one authority, and looks at the server's name."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from billing.v1.entitlement_pb2 import GetEntitlementsRequest, GetEntitlementsResponse
from billing.v1.watch_pb2 import WatchEntitlementsResponse
from billing_client import TLS, BillingClient, Options, SyncBillingClient, TransportError
from billing_client.errors import UnauthenticatedError

from tests.integration.clients.tls import Authority, Files, secured
from tests.integration.rpc.wire import Reads

ASK = GetEntitlementsRequest(customer_id="ann")
NAME = "billing.internal"  # what the server's certificate says; it is reached at 127.0.0.1
TOKEN = "a-token-of-the-test"
LIMIT = timedelta(seconds=5)
both = pytest.mark.parametrize("kind", ["async", "sync"])


class Service(Reads):
    """Answers, and remembers who called: the certificate's name and the token."""

    def __init__(self) -> None:
        super().__init__(self._read)
        self.callers: list[str] = []
        self.tokens: list[str] = []

    async def _read(self, request: Any, context: Any) -> GetEntitlementsResponse:
        self._note(context)
        return GetEntitlementsResponse(customer_id=request.customer_id, revision=7)

    async def WatchEntitlements(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - the contract's name
        """Tell one thing."""
        self._note(context)
        yield WatchEntitlementsResponse(kind=WatchEntitlementsResponse.KIND_PROGRESS, cursor="here")

    def _note(self, context: Any) -> None:
        auth = context.auth_context()
        assert auth["transport_security_type"] == [b"ssl"]
        self.callers += [name.decode() for name in auth.get("x509_common_name", ())]
        self.tokens.append(dict(context.invocation_metadata())["authorization"])


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority, which nobody believes."""
    return Authority(tmp_path_factory.mktemp("certificates") / "theirs")


@pytest.fixture(scope="module")
def server(authority: Authority) -> Files:
    return authority.issue(NAME)


def options(address: str, ca: Authority, *, own: Files | None = None, name: str | None = NAME) -> Options:
    tls = TLS(ca.certificate, own.certificate if own else None, own.key if own else None, server_name=name)
    return Options([address], token=TOKEN, tls=tls)


async def ask(kind: str, how: Options) -> int:
    """Read once with the client of that kind; the revision."""

    def in_a_thread() -> int:
        with SyncBillingClient(how) as client:
            return client.get_entitlements(ASK, timeout=LIMIT).revision

    if kind == "sync":
        return await asyncio.to_thread(in_a_thread)
    async with BillingClient(how) as client:
        return (await client.get_entitlements(ASK, timeout=LIMIT)).revision


@both
async def test_a_call_over_tls_shows_its_token(
    kind: str, service: Service, server: Files, authority: Authority
) -> None:
    async with secured(service, server, tokens=[TOKEN]) as address:
        assert await ask(kind, options(address, authority)) == 7
    assert service.tokens == [f"Bearer {TOKEN}"]


@both
async def test_over_mutual_tls_the_service_knows_the_caller_by_its_certificate(
    kind: str, service: Service, server: Files, authority: Authority
) -> None:
    own = authority.issue(f"checkout-backend-{kind}")
    async with secured(service, server, tokens=[TOKEN], clients=authority) as address:
        assert await ask(kind, options(address, authority, own=own)) == 7
    assert service.callers == [f"checkout-backend-{kind}"]
    assert service.tokens == [f"Bearer {TOKEN}"]


@both
async def test_a_server_of_another_authority_is_refused_and_never_sees_the_token(
    kind: str, service: Service, server: Files, stranger: Authority
) -> None:
    async with secured(service, server, tokens=[TOKEN]) as address:
        with pytest.raises(TransportError) as raised:
            await ask(kind, options(address, stranger))
    assert "CERTIFICATE_VERIFY_FAILED" in raised.value.message
    assert TOKEN not in str(raised.value)
    assert service.tokens == []


@both
async def test_a_server_with_a_certificate_for_another_name_is_refused(
    kind: str, service: Service, server: Files, authority: Authority
) -> None:
    """The certificate is good, but speaks of another host than the one that was called."""
    async with secured(service, server, tokens=[TOKEN]) as address:
        for name in (None, "billing.elsewhere"):
            with pytest.raises(TransportError):
                await ask(kind, options(address, authority, name=name))
    assert service.tokens == []


async def test_a_certificate_for_the_address_needs_no_server_name(service: Service, authority: Authority) -> None:
    identity = authority.issue("by-address", addresses=["127.0.0.1"])
    async with secured(service, identity, tokens=[TOKEN]) as address:
        assert await ask("async", options(address, authority, name=None)) == 7


@both
async def test_mutual_tls_lets_nobody_in_without_a_certificate_of_its_authority(
    kind: str, service: Service, server: Files, authority: Authority, stranger: Authority
) -> None:
    theirs = stranger.issue(f"checkout-backend-{kind}")
    async with secured(service, server, tokens=[TOKEN], clients=authority) as address:
        for own in (None, theirs):
            with pytest.raises(TransportError):
                await ask(kind, options(address, authority, own=own))
    assert service.tokens == []


@both
async def test_a_token_that_is_not_known_is_a_typed_error(
    kind: str, service: Service, server: Files, authority: Authority
) -> None:
    async with secured(service, server, tokens=["another-token-of-the-test"]) as address:
        with pytest.raises(UnauthenticatedError):
            await ask(kind, options(address, authority))
    assert service.tokens == []


@both
async def test_plain_text_is_no_way_into_a_listener_with_tls(kind: str, service: Service, server: Files) -> None:
    async with secured(service, server, tokens=[TOKEN]) as address:
        with pytest.raises(TransportError):
            await ask(kind, Options([address], token=TOKEN))
    assert service.tokens == []


async def test_a_watch_over_tls_shows_its_token_too(service: Service, server: Files, authority: Authority) -> None:
    async with (
        secured(service, server, tokens=[TOKEN]) as address,
        BillingClient(options(address, authority)) as client,
    ):
        async with asyncio.timeout(LIMIT.total_seconds()):
            assert (await anext(client.watch_entitlements())).cursor == "here"
    assert service.tokens == [f"Bearer {TOKEN}"]


def test_a_certificate_that_is_not_there_is_said_when_the_client_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        SyncBillingClient(Options(["127.0.0.1:1"], tls=TLS(ca=tmp_path / "gone.pem")))
