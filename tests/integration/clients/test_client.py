"""`billing_client` against a real listener: deadlines, tokens, typed errors, and retries only where the contract allows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest
from billing.v1 import billing_service_pb2, entitlement_pb2, error_reason_pb2
from billing.v1.checkout_pb2 import CreateCheckoutSessionRequest, CreateCheckoutSessionResponse
from billing.v1.entitlement_pb2 import GetEntitlementsRequest, GetEntitlementsResponse
from billing_client import BillingClient, BillingError, Options, SyncBillingClient, TransportError
from billing_client.errors import AlreadySubscribedError, DatabaseUnavailableError, InvalidFieldsError
from billing_client.options import SERVICE, service_config

from billing_service.domain.errors import AlreadySubscribedError as Held
from billing_service.domain.errors import DatabaseUnavailableError as Away
from billing_service.domain.errors import FieldViolation
from billing_service.domain.errors import InvalidFieldsError as Invalid
from billing_service.rpc.server import public_listener
from tests.integration.rpc.wire import Reads, Wire, serving

ALWAYS_SAFE = {
    "CreateCheckoutSession", "GetCheckoutSession", "GetEntitlements", "ListPlans", "UpdateSubscription",
    "PreviewSubscriptionUpdate", "CancelSubscription", "ResumeSubscription",
}  # fmt: skip
ASK = GetEntitlementsRequest(customer_id="ann")


class Service(Reads):
    """Answers as the test says, and remembers what came with each call."""

    def __init__(self) -> None:
        super().__init__(self._read)
        self.failures: list[Exception] = []
        self.seen: list[tuple[str, float | None, dict[str, Any]]] = []

    async def _read(self, request: Any, context: Any) -> GetEntitlementsResponse:
        self._note("GetEntitlements", context)
        return GetEntitlementsResponse(customer_id=request.customer_id, revision=7)

    async def CreateCheckoutSession(self, request: Any, context: Any) -> CreateCheckoutSessionResponse:  # noqa: ARG002, N802 - the contract's name
        """Answer with nothing."""
        self._note("CreateCheckoutSession", context)
        return CreateCheckoutSessionResponse(reused=True)

    def _note(self, method: str, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.seen.append((method, context.time_remaining(), metadata))
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def wire(service: Service) -> AsyncIterator[Wire]:
    async with serving(public_listener(service)) as one:
        yield one


def options(*wires: Wire, **more: Any) -> Options:
    return Options([str(wire.address) for wire in wires], **more)


def test_every_method_of_the_contract_is_a_method_of_both_clients() -> None:
    for method in billing_service_pb2.DESCRIPTOR.services_by_name["BillingService"].methods:
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in method.name).lstrip("_")
        for client in (BillingClient, SyncBillingClient):
            assert callable(getattr(client, name, None)), f"{client.__name__}.{name}"


def test_every_reason_of_the_contract_has_a_class() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    assert BillingError.by_reason.keys() == reasons - {"UNSPECIFIED"}


def test_only_what_the_contract_calls_safe_is_tried_again() -> None:
    """Marked in the protos, so that a new method is not retried by accident; and no mark may get lost."""
    (config,) = service_config()["methodConfig"]
    assert {one["method"] for one in config["name"]} >= ALWAYS_SAFE
    level = {m.name: m.GetOptions().idempotency_level for m in SERVICE.methods}
    assert {one["method"] for one in config["name"]} == {
        method.name for method in SERVICE.methods if level[method.name] and not method.server_streaming
    }


async def test_a_call_brings_its_deadline_and_its_token_and_each_call_asks_for_the_token_anew(
    wire: Wire, service: Service
) -> None:
    tokens = iter(["first", "second"])
    async with BillingClient(options(wire, token=lambda: next(tokens))) as client:
        answer = await client.get_entitlements(ASK, timeout=timedelta(seconds=3))
        await client.get_entitlements(ASK)
    assert answer.revision == 7
    assert [metadata["authorization"] for _, _, metadata in service.seen] == ["Bearer first", "Bearer second"]
    for (_, remaining, _), limit in zip(service.seen, (3, 10), strict=True):
        assert remaining is not None
        assert limit - 2 < remaining < limit + 1  # gRPC rounds a deadline up


@pytest.mark.parametrize("call", ["read", "checkout"])
async def test_what_is_safe_is_tried_again_after_unavailable(wire: Wire, service: Service, call: str) -> None:
    service.failures = [Away(), Away()]
    async with BillingClient(options(wire)) as client:
        if call == "read":
            await client.get_entitlements(ASK)
        else:
            await client.create_checkout_session(CreateCheckoutSessionRequest(request_id="r", customer_id="ann"))
    assert len(service.seen) == 3


async def test_a_refusal_is_not_tried_again_and_says_which_fields_do_not_hold(wire: Wire, service: Service) -> None:
    service.failures = [Invalid([FieldViolation("customer_id", "must not be empty")])]
    async with BillingClient(options(wire)) as client:
        with pytest.raises(InvalidFieldsError) as raised:
            await client.get_entitlements(ASK)
    assert raised.value.violations == {"customer_id": "must not be empty"}
    assert (raised.value.code, raised.value.reason, len(service.seen)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELDS",
        1,
    )


async def test_metadata_and_the_time_to_come_again_reach_the_caller(wire: Wire, service: Service) -> None:
    async with BillingClient(options(wire)) as client:
        service.failures = [Held(metadata={"plan_group": "main"})]
        with pytest.raises(AlreadySubscribedError) as held:
            await client.get_entitlements(ASK)
        service.failures = [Away()] * 5
        with pytest.raises(DatabaseUnavailableError) as away:
            await client.get_entitlements(ASK)
    assert held.value.metadata["plan_group"] == "main"
    assert away.value.retry_after is not None
    assert "ann" not in str(held.value)


async def test_a_service_that_is_not_there_is_a_typed_error_within_the_deadline() -> None:
    async with BillingClient(Options(["127.0.0.1:9"])) as client:
        with pytest.raises(TransportError):
            await client.get_entitlements(ASK, timeout=timedelta(seconds=2))


async def test_calls_are_shared_by_all_addresses_and_go_on_when_one_is_gone(service: Service) -> None:
    other = Service()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving(public_listener(service)))
        second = await stack.enter_async_context(serving(public_listener(other)))
        client = await stack.enter_async_context(BillingClient(options(first, second)))
        while not (service.seen and other.seen):  # in turn, once both are connected
            await client.get_entitlements(ASK)
        await first.listener.stop(0)
        before = len(other.seen)
        for _ in range(10):
            await client.get_entitlements(ASK)
        assert len(other.seen) == before + 10


async def test_threads_share_the_sync_client(wire: Wire, service: Service) -> None:
    service.failures = [Away()]

    def work(client: SyncBillingClient) -> int:
        return client.get_entitlements(ASK).revision

    with SyncBillingClient(options(wire)) as client:
        found = await asyncio.gather(*(asyncio.to_thread(work, client) for _ in range(8)))
        service.failures = [Invalid([FieldViolation("customer_id", "no")])]
        with pytest.raises(InvalidFieldsError):
            await asyncio.to_thread(work, client)
    assert found == [7] * 8


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        (["billing.internal:50051"], "dns:///billing.internal:50051"),
        (["10.0.0.1:50051"], "ipv4:10.0.0.1:50051"),
        (["10.0.0.1:1", "10.0.0.2:2"], "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
    ],
)
def test_addresses_become_one_target(addresses: list[str], target: str) -> None:
    assert Options(addresses).target == target


@pytest.mark.parametrize("make", [
    lambda: Options([]),
    lambda: Options("10.0.0.1:1"),
    lambda: Options(["nowhere"]),
    lambda: Options(["a:1", "b:2"]).target,
    lambda: Options(["10.0.0.1:1", "[::1]:1"]).target,
])  # fmt: skip
def test_addresses_that_cannot_be_used_are_refused_with_a_sentence(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"address|host:port"):
        make()


def test_options_never_show_the_token() -> None:
    assert "s3cret" not in repr(Options(["a:1"], token="s3cret"))


def test_the_stubs_messages_are_what_callers_build() -> None:
    assert entitlement_pb2.GetEntitlementsRequest(customer_id="ann") == ASK
