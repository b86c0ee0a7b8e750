"""Who may call what, over real sockets: each method of the contract, each way of not being allowed to."""

from __future__ import annotations

import asyncio
import importlib
import json
import pkgutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import billing
import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # ships no types
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from billing_service.access import Credentials, Identity, Role
from billing_service.certificates import Certificates
from billing_service.rpc.guard import Gate, Share
from billing_service.rpc.roles import declared_roles
from billing_service.rpc.server import PUBLIC_SERVICE, Listener, internal_listener, public_listener
from billing_service.rpc.tls import server_credentials
from tests.certificates import Authority, Pair
from tests.integration.rpc.wire import ANY_PORT, Fulfills, error_info
from tests.unserved import Unserved
from tests.unserved_admin import UnservedAdmin

_TOKENS = {role: f"token-of-a-{role}" for role in Role}
_OURS, _STRANGERS = Authority(), Authority("somebody else")
_SERVER = _OURS.sign("billing.test")
_LIMIT_S = 20


def _services() -> list[ServiceDescriptor]:
    """Every service in the stubs."""
    modules = pkgutil.walk_packages(billing.__path__, "billing.")
    files = [importlib.import_module(module.name) for module in modules if module.name.endswith("_pb2")]
    return [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]


_METHODS = [method for service in _services() for method in service.methods]
_each_method = pytest.mark.parametrize("method", _METHODS, ids=lambda method: method.name)


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _role(method: MethodDescriptor) -> Role:
    return declared_roles(method.containing_service)[_path(method)]


def _known(*roles: Role) -> Credentials:
    known = Credentials(certificates={f"{role}.test": Identity(f"certified-{role}", role) for role in roles})
    for role in roles:
        known = known.with_tokens(Identity(f"known-{role}", role), [_TOKENS[role]])
    return known


def _listener(method: MethodDescriptor, gate: Gate, tls: grpc.ServerCredentials | None = None) -> Listener:
    if method.containing_service is PUBLIC_SERVICE:
        return public_listener(Unserved(), gate=gate, credentials=tls)
    return internal_listener(Fulfills(), UnservedAdmin(), gate=gate, credentials=tls)


@asynccontextmanager
async def _listening(listener: Listener) -> AsyncIterator[str]:
    address = await listener.start(ANY_PORT, "TEST_ADDRESS")
    try:
        yield str(address)
    finally:
        await listener.stop(0)


def _channel(address: str, tls: tuple[bytes, Pair | None] | None = None) -> grpc.aio.Channel:
    if tls is None:
        return grpc.aio.insecure_channel(address)
    ca, own = tls
    key, certificate = (None, None) if own is None else (own.key, own.certificate)
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return grpc.aio.secure_channel(address, credentials)


async def _refusal(method: MethodDescriptor, channel: grpc.aio.Channel, token: str | None = None) -> Any:
    """Call with an empty request, and give the error. What is let through ends in the servicer's own error, or None."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    kind: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    try:
        call = kind(_path(method))(b"", metadata=metadata, timeout=_LIMIT_S)
        if method.server_streaming:
            await call.read()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


def _passed(error: grpc.aio.AioRpcError | None) -> bool:
    """Whether the guard let it through: the servicers of these tests fail, or answer."""
    return error is None or error.code() is grpc.StatusCode.INTERNAL


def test_every_method_of_every_service_declares_its_role() -> None:
    assert {_path(method) for method in _METHODS} == {
        path for service in _services() for path in declared_roles(service)
    }
    assert {method.name for method in _METHODS if _role(method) is Role.GATEWAY} == {"Fulfill"}


@_each_method
async def test_without_a_credential_a_method_is_refused(method: MethodDescriptor) -> None:
    known = _known(*Role)
    for gate in (Gate(lambda: known), Gate(lambda: Credentials(known.tokens))):
        async with _listening(_listener(method, gate)) as address, _channel(address) as channel:
            error = await _refusal(method, channel)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error_info(error).reason == "UNAUTHENTICATED"


@_each_method
async def test_only_the_declared_role_may_call_and_the_log_names_who_without_the_token(
    method: MethodDescriptor,
) -> None:
    known = _known(*Role)
    with capture_logs(processors=[merge_contextvars]) as lines:
        async with _listening(_listener(method, Gate(lambda: known))) as address, _channel(address) as channel:
            errors = {role: await _refusal(method, channel, token) for role, token in _TOKENS.items()}
    for role, error in errors.items():
        if role is _role(method):
            assert _passed(error)
        else:
            assert error_info(error).reason == "PERMISSION_DENIED"
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    calls = {line["caller"]: line for line in lines if line["event"] == "call"}
    denied = {f"known-{role}" for role in Role if role is not _role(method)}
    assert {name for name, line in calls.items() if line.get("reason") == "PERMISSION_DENIED"} == denied
    assert all(calls[name]["log_level"] == "warning" for name in denied)
    assert "token-of-a" not in json.dumps(lines, default=str)


@_each_method
async def test_a_revoked_token_is_refused_and_not_logged_while_its_successor_is_taken(
    method: MethodDescriptor,
) -> None:
    """Two are taken at once, then one, on the same connection."""
    role = _role(method)
    identity = Identity("shop", role)
    now = [Credentials().with_tokens(identity, ["the-old-token", "the-new-token"])]
    with capture_logs(processors=[merge_contextvars]) as lines:
        async with _listening(_listener(method, Gate(lambda: now[0]))) as address, _channel(address) as channel:
            assert _passed(await _refusal(method, channel, "the-old-token"))
            assert _passed(await _refusal(method, channel, "the-new-token"))
            now[0] = Credentials().with_tokens(identity, ["the-new-token"])
            error = await _refusal(method, channel, "the-old-token")
            assert _passed(await _refusal(method, channel, "the-new-token"))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    refused = [line for line in lines if line.get("reason") == "UNAUTHENTICATED"]
    assert [line["log_level"] for line in refused] == ["warning"]
    assert "the-old-token" not in f"{json.dumps(lines, default=str)}{error.details()}{error.trailing_metadata()}"


@_each_method
async def test_a_method_that_declares_no_role_is_refused_to_everybody(method: MethodDescriptor) -> None:
    """Also where nobody needs a credential."""
    known = _known(*Role)
    service = method.containing_service
    for gate in (Gate(lambda: known), Gate(Credentials, Identity("anonymous", _role(method)))):
        bare = Listener(service, lambda server: _register(server, method), gate=gate, roles={})
        async with _listening(bare) as address, _channel(address) as channel:
            for token in _TOKENS.values():
                error = await _refusal(method, channel, token)
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED


def _register(server: grpc.aio.Server, method: MethodDescriptor) -> None:
    async def behaviour(_request: bytes, _context: Any) -> bytes:
        raise AssertionError("nobody may come here")

    handler: Any = grpc.unary_unary_rpc_method_handler(behaviour)
    service = method.containing_service.full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method.name: handler}),))


def _tls(pair: Pair = _SERVER) -> grpc.ServerCredentials:
    current = Certificates(pair.certificate, pair.key, _OURS.pem)
    return server_credentials(lambda: current)


@_each_method
@pytest.mark.parametrize("kind", ["none", "expired", "of another authority"])
async def test_without_a_valid_certificate_nobody_gets_as_far_as_a_method(method: MethodDescriptor, kind: str) -> None:
    name = f"{_role(method)}.test"
    own = {
        "none": None,
        "expired": _OURS.sign(name, ends_in=timedelta(seconds=-1)),
        "of another authority": _STRANGERS.sign(name),
    }[kind]
    known = _known(*Role)
    with capture_logs() as lines:
        async with (
            _listening(_listener(method, Gate(lambda: known), _tls())) as address,
            _channel(address, (_OURS.pem, own)) as channel,
        ):
            error = await _refusal(method, channel, _TOKENS[_role(method)])
    assert error.code() is grpc.StatusCode.UNAVAILABLE  # the handshake failed
    assert not [line for line in lines if line["event"] == "call"]


@_each_method
async def test_a_certificate_says_who_calls(method: MethodDescriptor) -> None:
    """The declared role passes, another is denied, and one that nobody named is not known."""
    known = _known(*Role)
    role = _role(method)
    other = next(one for one in Role if one is not role)
    async with _listening(_listener(method, Gate(lambda: known), _tls())) as address:
        errors = []
        for name in (role, other, "stranger"):
            async with _channel(address, (_OURS.pem, _OURS.sign(f"{name}.test"))) as channel:
                errors.append(await _refusal(method, channel))
    assert _passed(errors[0])
    assert [error.code() for error in errors[1:]] == [
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    ]


async def test_a_token_that_is_shown_decides_and_the_common_name_only_without_other_names() -> None:
    method = PUBLIC_SERVICE.methods_by_name["ListPlans"]
    known = _known(*Role)
    alone = _OURS.sign(common_name="caller.test")
    both = _OURS.sign("stranger.test", common_name="caller.test")
    async with _listening(_listener(method, Gate(lambda: known), _tls())) as address:
        async with _channel(address, (_OURS.pem, alone)) as channel:
            assert _passed(await _refusal(method, channel))
            denied = await _refusal(method, channel, _TOKENS[Role.ADMIN])
            unknown = await _refusal(method, channel, "no-such-token")
        async with _channel(address, (_OURS.pem, both)) as channel:
            stranger = await _refusal(method, channel)
    assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
    assert unknown.code() is stranger.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_replaced_certificate_is_shown_to_the_next_who_connects() -> None:
    """Those who are connected go on; the new one is of another authority, so that a client can tell."""
    method = PUBLIC_SERVICE.methods_by_name["ListPlans"]
    known = _known(*Role)
    now = [Certificates(_SERVER.certificate, _SERVER.key, None)]
    listener = public_listener(Unserved(), gate=Gate(lambda: known), credentials=server_credentials(lambda: now[0]))
    token = _TOKENS[Role.CALLER]
    async with _listening(listener) as address, _channel(address, (_OURS.pem, None)) as before:
        assert _passed(await _refusal(method, before, token))
        successor = _STRANGERS.sign("billing.test")
        now[0] = Certificates(successor.certificate, successor.key, None)
        async with _channel(address, (_STRANGERS.pem, None)) as after:
            assert _passed(await _refusal(method, after, token))
        assert _passed(await _refusal(method, before, token))


async def test_health_answers_everybody() -> None:
    known = _known(*Role)
    listener = public_listener(Unserved(), gate=Gate(lambda: known))
    async with _listening(listener) as address, _channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_one_caller_does_not_use_up_what_others_need() -> None:
    """Calls and streams are counted by who calls, and each for itself."""
    held, go_on = asyncio.Event(), asyncio.Event()

    class Held(Unserved):
        async def ListPlans(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - the contract's name
            held.set()
            await go_on.wait()
            raise NotImplementedError

    callers = Credentials().with_tokens(Identity("one", Role.CALLER), ["token-one", "token-one-too"])
    known = callers.with_tokens(Identity("two", Role.CALLER), ["token-two"])
    listener = Listener(
        PUBLIC_SERVICE,
        lambda server: _add(Held(), server),
        gate=Gate(lambda: known),
        share=Share(calls=1, streams=1),
    )
    plans, check = (PUBLIC_SERVICE.methods_by_name[name] for name in ("ListPlans", "CheckEntitlement"))
    watch = PUBLIC_SERVICE.methods_by_name["WatchEntitlements"]
    async with _listening(listener) as address, _channel(address) as channel, asyncio.timeout(_LIMIT_S):
        first = asyncio.create_task(_refusal(plans, channel, "token-one"))
        await held.wait()
        full = await _refusal(check, channel, "token-one-too")
        assert _passed(await _refusal(check, channel, "token-two"))
        stream = await _refusal(watch, channel, "token-one")
        go_on.set()
        assert _passed(await first)
        assert _passed(await _refusal(check, channel, "token-one"))
    assert full.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_info(full).reason == "OVERLOADED"
    assert _passed(stream)


def _add(servicer: Unserved, server: grpc.aio.Server) -> None:
    importlib.import_module("billing.v1.billing_service_pb2_grpc").add_BillingServiceServicer_to_server(
        servicer, server
    )
