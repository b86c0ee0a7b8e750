"""Traces of programs that run, as a collector gets them: one for each webhook, one for each call, and nothing personal."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from billing.v1.checkout_pb2 import CreateCheckoutSessionRequest
from billing_client import BillingClient, Options
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from sandbox.channel import credentials
from tests import stripe_events
from tests.acceptance.world import Sandbox, World, eventually, running

Span = dict[str, Any]


@pytest.fixture(scope="module")
def sandbox(reachable_folder: Path) -> Iterator[Sandbox]:
    """A sandbox whose programs are traced."""
    folder = reachable_folder / "traced"
    with running(folder, "--traces", "--no-storefront", log=reachable_folder / "traced.log") as started:
        yield started


@pytest.fixture
async def traced(sandbox: Sandbox) -> AsyncIterator[World]:
    """The world around it."""
    async with (
        grpc.aio.secure_channel(sandbox["grpc"], credentials(sandbox["grpc_token"])) as channel,
        aiohttp.ClientSession() as http,
    ):
        yield World(sandbox.addresses, channel, http)


async def until(world: World, holds: Callable[[Sequence[Sequence[Span]]], bool]) -> list[list[Span]]:
    """Give all traces once they are as they should be."""

    async def ask() -> list[list[Span]]:
        async with world.http.get(f"{world.addresses['traces']}/traces.json") as answer:
            found: list[list[Span]] = await answer.json()
            return found

    return await eventually(ask, holds)


def of_event(traces: Sequence[Sequence[Span]], event_id: str) -> list[Span]:
    """Give the trace of the webhook that brought an event; empty while it is not there."""
    return next(
        (
            list(spans)
            for spans in traces
            if any(s["name"] == "forward" and s["attributes"]["billing.event.id"] == event_id for s in spans)
        ),
        [],
    )


def named(spans: Sequence[Span], name: str) -> list[Span]:
    return [span for span in spans if span["name"] == name]


def chain(spans: Sequence[Span], span: Span) -> list[str]:
    """Give the names from the root of a trace down to a span."""
    by_id = {one["span_id"]: one for one in spans}
    names = [span["name"]]
    while span["parent_id"]:
        span = by_id[span["parent_id"]]
        names.insert(0, span["name"])
    return names


def unused(event_id: str) -> bytes:
    return stripe_events.event("customer.created", {"id": f"cus_{event_id}", "object": "customer"}, event_id=event_id)


async def test_a_webhook_is_one_trace_from_the_socket_to_postgres(traced: World, sandbox: Sandbox) -> None:
    """The gateway's request, its wait, the call, the event, the transaction and its statements; the log names the trace."""
    body = unused("evt_traced_alone")
    assert (await traced.post(body, traced.signed(body)))[0] == 200
    traces = await until(traced, lambda found: bool(named(of_event(found, "evt_traced_alone"), "write batch")))
    spans = of_event(traces, "evt_traced_alone")
    call = "billing.internal.v1.FulfillmentService/Fulfill"
    written = named(spans, "postgresql round trip")
    assert chain(spans, written[0]) == [
        "POST /webhooks/stripe", "forward", call, call, "fulfill event", "write batch", "postgresql round trip",
    ]  # fmt: skip
    assert "INSERT stripe_events" in written[0]["attributes"]["db.query.summary"]
    assert written[-1]["attributes"]["db.query.summary"].endswith("COMMIT")
    assert {span["program"] for span in spans} == {"webhook-gateway", "billing-service"}
    # Of a type that we do not use.
    assert named(spans, "fulfill event")[0]["attributes"]["billing.event.outcome"] == "ignored"
    lines = [line for line in sandbox.words().splitlines() if spans[0]["trace_id"] in line]
    assert {json.loads(line.partition("| ")[2])["event"] for line in lines} >= {"webhook_taken", "call"}


async def test_each_of_many_webhooks_at_once_is_followed_to_the_transaction_that_wrote_it(traced: World) -> None:
    """A batch hangs below one of its events; the traces of the others point to it, and it points to them."""
    ids = [f"evt_traced_{number}" for number in range(40)]
    bodies = [unused(event_id) for event_id in ids]
    answers = await asyncio.gather(*(traced.post(body, traced.signed(body)) for body in bodies))
    assert {status for status, _ in answers} == {200}
    traces = await until(
        traced, lambda found: all(named(of_event(found, event_id), "fulfill event") for event_id in ids)
    )
    spans_by_id = {span["span_id"]: span for spans in traces for span in spans}
    batches = set()
    for event_id in ids:
        (event,) = named(of_event(traces, event_id), "fulfill event")
        below = [one for one in spans_by_id.values() if one["parent_id"] == event["span_id"]]
        batch = below[0] if below else spans_by_id[event["links"][0][1]]
        assert batch["name"] == "write batch"
        assert below or [event["trace_id"], event["span_id"]] in batch["links"]
        batches.add(batch["span_id"])
    assert sum(spans_by_id[one]["attributes"]["billing.events"] != "1" for one in batches) > 0


async def test_a_caller_finds_the_service_and_stripe_in_his_own_trace(traced: World, customer_id: str) -> None:
    """The client passes the span on that its caller is in; the spans name operations, and nobody."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("a caller")
    options = Options([traced.addresses["grpc"]], traced.addresses["grpc_token"])
    with tracer.start_as_current_span("checkout") as span:
        async with BillingClient(options) as client:
            request = CreateCheckoutSessionRequest(
                request_id=f"traced-{time.time_ns()}", customer_id=customer_id, plan_key="pro",
                success_url="https://shop.example/", cancel_url="https://shop.example/",
            )  # fmt: skip
            made = await client.create_checkout_session(request)
    ours = f"{span.get_span_context().trace_id:032x}"
    method = "billing.v1.BillingService/CreateCheckoutSession"  # its span ends last, and so is sent last
    traces = await until(
        traced, lambda found: any(spans[0]["trace_id"] == ours and named(spans, method) for spans in found)
    )
    spans = next(spans for spans in traces if spans[0]["trace_id"] == ours)
    (call,) = named(spans, method)
    assert call["parent_id"] == f"{span.get_span_context().span_id:016x}"
    assert call["attributes"]["rpc.response.status_code"] == "OK"
    (at_stripe,) = named(spans, "stripe checkout.sessions.create")
    assert (at_stripe["parent_id"], at_stripe["attributes"]) == (
        call["span_id"],
        {"billing.stripe.outcome": "answered"},
    )
    everything = json.dumps(traces)
    for secret in (
        customer_id,
        made.checkout_session.checkout_session_id,
        traced.addresses["grpc_token"],
        "whsec_",
        "@",
    ):
        assert secret not in everything


async def test_a_read_of_stripe_points_to_what_asked_for_it(traced: World, customer_id: str) -> None:
    await traced.pay(await traced.checkout(customer_id))
    await traced.until_plan(customer_id, "pro")
    traces = await until(
        traced, lambda found: any(spans[0]["name"].startswith("reread ") and spans[0]["links"] for spans in found)
    )
    reread = next(spans for spans in traces if spans[0]["name"].startswith("reread ") and spans[0]["links"])
    asked = {span["span_id"]: span["name"] for spans in traces for span in spans}
    assert asked[reread[0]["links"][0][1]] == "write batch"
    assert any(span["name"].startswith("stripe ") for span in reread)


def test_the_span_of_the_caller_is_not_needed() -> None:
    """Outside of any span the client sends nothing of the kind."""
    assert not trace.get_current_span().get_span_context().is_valid
    assert [key for key, _ in Options(["127.0.0.1:1"], "a-token").metadata()] == ["authorization"]
