"""What happens around every call, over a real socket."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from billing.v1 import entitlement_pb2
from structlog.testing import capture_logs
from structlog.typing import EventDict

from billing_service.deadline import remaining_s
from billing_service.domain.errors import DatabaseUnavailableError, FieldViolation, InvalidFieldsError
from billing_service.rpc.interceptors import DEFAULT_DEADLINE_S
from tests.integration.rpc.wire import Wire, answered, error_info, public

_ASK = entitlement_pb2.GetEntitlementsRequest(customer_id="u1")
_GET = "/billing.v1.BillingService/GetEntitlements"


def _raising(error: BaseException) -> Any:
    async def behaviour(_request: Any, _context: Any) -> Any:
        raise error

    return behaviour


async def _refused(wire: Wire, **options: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await wire.billing.GetEntitlements(_ASK, **options)
    return caught.value


def _raw(wire: Wire) -> Any:
    """GetEntitlements, taking bytes as they are."""
    return wire.channel.unary_unary(_GET)


def _calls(lines: list[EventDict]) -> list[EventDict]:
    return [line for line in lines if line["event"] == "call"]


async def test_an_expected_error_arrives_with_its_code_and_reason() -> None:
    async with public(_raising(DatabaseUnavailableError())) as wire:
        error = await _refused(wire)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error_info(error).reason == "DATABASE_UNAVAILABLE"


async def test_an_unknown_error_tells_the_caller_nothing_and_the_log_everything_under_one_id() -> None:
    with capture_logs() as lines:
        async with public(_raising(RuntimeError("password hunter2"))) as wire:
            error = await _refused(wire)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in f"{error.details()}{error.trailing_metadata()}{error.debug_error_string()}"
    logged = [line for line in lines if line["event"] == "unexpected error"]
    assert [type(line["exc_info"]) for line in logged] == [RuntimeError]
    assert error_info(error).metadata["call_id"] == dict(error.trailing_metadata())["x-request-id"]


async def test_bytes_that_are_no_request_are_refused_as_invalid_and_not_in_the_decoders_words() -> None:
    async with public(answered) as wire:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _raw(wire)(b"\x0a\x05ab\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value).reason == "INVALID_FIELDS"


async def test_an_error_as_large_as_it_gets_still_reaches_the_caller() -> None:
    violations = [FieldViolation(f'metadata["{number}"]', "不" * 300) for number in range(300)]
    async with public(_raising(InvalidFieldsError(violations))) as wire:
        error = await _refused(wire)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).reason == "INVALID_FIELDS"


async def test_a_call_takes_the_callers_id_where_it_has_the_form_of_one() -> None:
    async with public(answered) as wire:
        call = wire.billing.GetEntitlements(_ASK, metadata=(("x-request-id", "shop-17"),))
        await call
        assert dict(await call.trailing_metadata())["x-request-id"] == "shop-17"
        forged = wire.billing.GetEntitlements(_ASK, metadata=(("x-request-id", 'a", "code": "OK'),))
        await forged
        assert dict(await forged.trailing_metadata())["x-request-id"].isalnum()


async def test_every_call_leaves_one_line_with_method_code_and_duration_and_nothing_of_its_content() -> None:
    with capture_logs() as lines:
        async with public(answered) as wire:
            await wire.billing.GetEntitlements(_ASK)
            await _raw(wire)(_ASK.SerializeToString())
        async with public(_raising(DatabaseUnavailableError())) as wire:
            await _refused(wire)
    calls = _calls(lines)
    assert [(line["method"], line["code"], line["log_level"]) for line in calls] == [
        (_GET, "OK", "info"),
        (_GET, "OK", "info"),
        (_GET, "UNAVAILABLE", "warning"),
    ]
    assert all(line["duration_ms"] >= 0 for line in calls)
    assert "u1" not in json.dumps(calls)


async def test_the_waits_inside_a_call_end_before_its_caller_gives_up() -> None:
    seen: list[float] = []

    async def behaviour(request: Any, context: Any) -> Any:
        seen.append(remaining_s(1_000))
        return await answered(request, context)

    async with public(behaviour) as wire:
        await wire.billing.GetEntitlements(_ASK, timeout=20)
        await wire.billing.GetEntitlements(_ASK)
        await wire.billing.GetEntitlements(_ASK, timeout=86_400)
    with_deadline, without, with_a_day = seen
    assert with_deadline < 20  # gRPC rounds a deadline up by less than the margin
    assert without <= DEFAULT_DEADLINE_S - 0.25
    assert with_a_day <= 60


async def test_work_that_outlives_the_deadline_is_ended_and_says_so_itself() -> None:
    ended = asyncio.Event()

    async def behaviour(_request: Any, _context: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with public(behaviour) as wire:
        error = await _refused(wire, timeout=1)
        async with asyncio.timeout(10):
            await ended.wait()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error_info(error).reason == "DEADLINE_EXCEEDED"


async def test_a_caller_that_goes_away_cancels_its_call_and_is_logged_as_cancelled() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def behaviour(_request: Any, _context: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with capture_logs() as lines:
        async with public(behaviour) as wire:
            call = wire.billing.GetEntitlements(_ASK)
            async with asyncio.timeout(10):
                await begun.wait()
                call.cancel()
                await ended.wait()
    assert [line["code"] for line in _calls(lines)] == ["CANCELLED"]


async def test_one_call_too_many_is_told_to_come_again_and_the_others_are_answered() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def behaviour(request: Any, context: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await answered(request, context)

    async with public(behaviour, max_calls=1) as wire:
        first = asyncio.ensure_future(wire.billing.GetEntitlements(_ASK))
        async with asyncio.timeout(10):
            await begun.wait()
        error = await _refused(wire)
        go_on.set()
        assert (await first).customer_id == "u1"
        assert (await wire.billing.GetEntitlements(_ASK)).customer_id == "u1"
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_info(error).reason == "OVERLOADED"


async def test_a_message_above_the_limit_is_refused_before_any_of_our_code() -> None:
    async with public(answered) as wire:
        huge = entitlement_pb2.GetEntitlementsRequest(customer_id="x" * (4 * 1024 * 1024 + 1))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await wire.billing.GetEntitlements(huge)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
