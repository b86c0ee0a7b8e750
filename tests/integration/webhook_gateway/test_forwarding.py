"""200 is said only after the service has committed the event; events that come together are sent together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial

import grpc
import pytest
from billing.internal.v1 import fulfillment_service_pb2 as pb
from structlog.testing import capture_logs

from tests.forgetful import Forgetful
from tests.integration.webhook_gateway.conftest import Running, StartGateway
from tests.integration.webhook_gateway.fulfillment import TOKEN, FulfillmentServer, event_id
from tests.integration.webhook_gateway.sender import Answer, Sender, event, signature
from webhook_gateway import fulfillment as gateway_fulfillment
from webhook_gateway import server
from webhook_gateway.forward import Limits
from webhook_gateway.fulfillment import CallFailed, Failure, FulfillmentClient, VerifiedEvent
from webhook_gateway.inflight import InFlight

MEBIBYTE = 1024 * 1024
SHORT = Limits(batch_s=0.5)  # for what is known to fail: nobody needs to wait 5 s for it


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop to others until the condition holds, 30 s at most."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the state of another's queue has no event
            await asyncio.sleep(0.001)


async def hold_one(gateway: Running, fulfillment: FulfillmentServer) -> asyncio.Task[Answer]:
    """Have one call in flight at the service, which stays there until it is opened."""
    fulfillment.open.clear()
    task = asyncio.create_task(gateway.sender.post(event("evt_held")))
    await fulfillment.begun.wait()
    return task


async def queue(gateway: Running, bodies: list[bytes]) -> list[asyncio.Task[Answer]]:
    """Have these wait in the gateway, behind the call in flight."""
    tasks = [asyncio.create_task(gateway.sender.post(body)) for body in bodies]
    await until(lambda: sum(len(one._queue) for one in gateway.server._forwarders) == len(bodies))
    return tasks


async def test_an_event_is_received_when_it_is_committed_byte_for_byte(
    sender: Sender, fulfillment: FulfillmentServer
) -> None:
    body = b'{ "id":"evt_1",\n"type" : "a.b", "livemode":false, "name":"Z\xc3\xbcrich" }'
    answer = await sender.post(body)
    assert (answer.status, answer.content) == (200, {"received": True})
    assert fulfillment.committed == [body]


async def test_nothing_is_answered_before_the_commit(gateway: Running, fulfillment: FulfillmentServer) -> None:
    task = await hold_one(gateway, fulfillment)
    assert (await gateway.sender.request("GET", "/livez")).status == 200  # the gateway itself is not held
    assert not task.done()
    fulfillment.open.set()
    assert (await task).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "application/json; charset=utf-8"},
        {"Content_Type": "Application/JSON"},
        {"Content_Encoding": "identity"},
    ],
)
async def test_these_are_good_too(sender: Sender, headers: dict[str, str]) -> None:
    assert (await sender.post(event(), **headers)).status == 200


async def test_any_secret_that_lives_will_do(sender: Sender) -> None:
    body = event()
    answer = await sender.post(body, Stripe_Signature=signature(body, secret="whsec_test_rolled"))
    assert answer.status == 200


@pytest.mark.parametrize("kind", ["v2.core.event", "v9.event"])
async def test_thin_and_unknown_events_are_forwarded(sender: Sender, fulfillment: FulfillmentServer, kind: str) -> None:
    assert (await sender.post(event(kind=kind))).status == 200
    assert fulfillment.ids() == ["evt_1"]


async def test_a_body_of_1_mib_is_taken(sender: Sender, fulfillment: FulfillmentServer) -> None:
    body = event(padding=MEBIBYTE - len(event()))
    assert len(body) == MEBIBYTE
    assert (await sender.post(body)).status == 200
    assert fulfillment.committed == [body]


async def test_a_live_event_in_live_mode_is_taken(start_gateway: StartGateway) -> None:
    running = await start_gateway(livemode=True)
    assert (await running.sender.post(event(livemode=True))).status == 200


async def test_what_arrives_while_a_call_is_held_is_the_next_call(
    gateway: Running, fulfillment: FulfillmentServer
) -> None:
    first = await hold_one(gateway, fulfillment)
    others = await queue(gateway, [event(f"evt_{n}") for n in range(40)])
    fulfillment.open.set()
    assert {answer.status for answer in await asyncio.gather(first, *others)} == {200}
    assert [len(batch) for batch in fulfillment.batches] == [1, 40]


async def test_what_happens_now_does_not_wait_behind_what_comes_late(
    gateway: Running, fulfillment: FulfillmentServer
) -> None:
    """A call with a backlog is in flight and stays there; another late event waits for it, and one of now does not."""
    fulfillment.open.clear()
    late = [asyncio.create_task(gateway.sender.post(event("evt_late", age_s=3_600)))]
    await fulfillment.begun.wait()
    fulfillment.begun.clear()
    late.append(asyncio.create_task(gateway.sender.post(event("evt_late_too", age_s=3_600))))
    await until(lambda: len(gateway.server._forwarders[1]) == 1)
    now = asyncio.create_task(gateway.sender.post(event("evt_now")))
    async with asyncio.timeout(30):
        await fulfillment.begun.wait()
    assert len(gateway.server._forwarders[1]) == 1
    fulfillment.open.set()
    assert {answer.status for answer in await asyncio.gather(now, *late)} == {200}


async def test_a_batch_stays_under_the_message_limit(gateway: Running, fulfillment: FulfillmentServer) -> None:
    first = await hold_one(gateway, fulfillment)
    others = await queue(gateway, [event(f"evt_{n}", padding=MEBIBYTE - 1000) for n in range(7)])
    fulfillment.open.set()
    assert {answer.status for answer in await asyncio.gather(first, *others)} == {200}
    assert [len(batch) for batch in fulfillment.batches] == [1, 3, 3, 1]


async def test_a_sender_who_hangs_up_leaves_his_neighbours_and_his_event_on_their_way(
    gateway: Running, fulfillment: FulfillmentServer
) -> None:
    first = await hold_one(gateway, fulfillment)
    others = await queue(gateway, [event(f"evt_{n}") for n in range(6)])
    for leaver in (first, others[0], others[3]):
        leaver.cancel()
    await asyncio.wait({first, others[0], others[3]})
    fulfillment.open.set()
    stayed = [others[n] for n in (1, 2, 4, 5)]
    assert {answer.status for answer in await asyncio.gather(*stayed)} == {200}
    assert sorted(fulfillment.ids()) == ["evt_0", "evt_1", "evt_2", "evt_3", "evt_4", "evt_5", "evt_held"]


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    ],
)
async def test_every_failure_of_the_service_has_stripe_come_again(
    start_gateway: StartGateway, fulfillment: FulfillmentServer, code: grpc.StatusCode
) -> None:
    sender = (await start_gateway(limits=SHORT)).sender
    fulfillment.code = code
    answer = await sender.post(event())
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert answer.code == ("overloaded" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else "not_available")
    assert "told to" not in json.dumps(answer.content)
    fulfillment.code = None
    assert (await sender.post(event())).status == 200


async def test_a_wrong_token_is_our_fault_and_not_stripes(start_gateway: StartGateway) -> None:
    answer = await (await start_gateway(limits=SHORT, token="wrong")).sender.post(event())
    assert (answer.status, answer.code) == (503, "not_available")


async def test_a_call_that_does_not_end_is_given_up(
    start_gateway: StartGateway, fulfillment: FulfillmentServer
) -> None:
    sender = (await start_gateway(limits=SHORT)).sender
    fulfillment.open.clear()
    assert (await sender.post(event())).status == 503
    fulfillment.open.set()
    assert (await sender.post(event())).status == 200


async def test_a_full_queue_has_stripe_come_again(start_gateway: StartGateway, fulfillment: FulfillmentServer) -> None:
    gateway = await start_gateway(limits=Limits(queue_events=2))
    first = await hold_one(gateway, fulfillment)
    others = await queue(gateway, [event("evt_a"), event("evt_b")])
    answer = await gateway.sender.post(event("evt_c"))
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "overloaded", "5")
    fulfillment.open.set()
    assert {answer.status for answer in await asyncio.gather(first, *others)} == {200}


async def test_what_there_is_no_room_for_is_refused_at_the_door_counted_and_told_once_in_a_while(
    start_gateway: StartGateway, fulfillment: FulfillmentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has looked at what it is: it counts as of no type. Of five in a moment the log tells of the first at once."""
    monkeypatch.setattr(server, "InFlight", partial(InFlight, limit=1))
    with capture_logs() as lines:
        gateway = await start_gateway()
        first = await hold_one(gateway, fulfillment)
        answers = [await gateway.sender.post(event()) for _ in range(5)]
        assert {(one.status, one.code, one.headers["Retry-After"]) for one in answers} == {(503, "overloaded", "5")}
        shown = gateway.server._metrics.registry.get_sample_value
        labels = {"type": "none", "outcome": "overloaded", "status": "503"}
        assert shown("gateway_webhooks_total", labels) == shown("gateway_answers_total", {"answer": "overloaded"}) == 5
        fulfillment.open.set()
        assert (await first).status == 200
    told = [line for line in lines if line["event"] == "webhooks_turned_away"]
    assert (told[0]["log_level"], told[0]["code"], told[0]["count"]) == ("warning", "overloaded", 1)
    assert len(told) < len(answers)


async def test_while_the_service_is_away_stripe_comes_again_until_it_is_back(
    start_gateway: StartGateway, fulfillment: FulfillmentServer
) -> None:
    sender = (await start_gateway(limits=SHORT)).sender
    await fulfillment.stop()
    answer = await sender.post(event())
    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    await fulfillment.start()
    async with asyncio.timeout(30):
        while (await sender.post(event())).status != 200:
            pass
    assert set(fulfillment.ids()) == {"evt_1"}


async def test_a_call_waits_for_a_service_that_is_away(fulfillment: FulfillmentServer) -> None:
    """It fails for want of time, not at the first refused connection."""
    await fulfillment.stop()
    client = FulfillmentClient(target=fulfillment.address, token=lambda: TOKEN)
    try:
        answer = await client.fulfill([VerifiedEvent("evt_1", event())], 1.5)  # longer than all of gRPC's own attempts
    finally:
        await client.close()
    assert answer == CallFailed(Failure.TIMEOUT, perhaps_one_event=False)


async def test_a_restart_of_the_service_costs_no_retry(gateway: Running, fulfillment: FulfillmentServer) -> None:
    """The call in flight is cut off, and made again when the service is back; what waits behind it goes too."""
    first = await hold_one(gateway, fulfillment)
    others = await queue(gateway, [event(f"evt_{n}") for n in range(3)])
    await fulfillment.stop()
    fulfillment.open.set()
    await fulfillment.start()
    assert {answer.status for answer in await asyncio.gather(first, *others)} == {200}
    assert set(fulfillment.ids()) == {"evt_held", "evt_0", "evt_1", "evt_2"}


async def test_a_connection_that_was_forgotten_on_the_way_is_given_up(
    fulfillment: FulfillmentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes by it, and no end of it either; what lies between acknowledges for the service. The next events go by another one."""
    hasty = {"grpc.keepalive_time_ms": 100, "grpc.http2.ping_timeout_ms": 500}
    options = tuple((name, hasty.get(name, value)) for name, value in gateway_fulfillment._CHANNEL_OPTIONS)
    monkeypatch.setattr(gateway_fulfillment, "_CHANNEL_OPTIONS", options)
    async with Forgetful(int(fulfillment.address.rpartition(":")[2])).run() as forgetful:
        client = FulfillmentClient(target=forgetful.address, token=lambda: TOKEN)
        try:
            await client.fulfill([VerifiedEvent("evt_1", event("evt_1"))], 5)
            forgetful.forget()
            await until(lambda: forgetful.connections == 2)
            await client.fulfill([VerifiedEvent("evt_2", event("evt_2"))], 5)
        finally:
            await client.close()
    assert fulfillment.ids() == ["evt_1", "evt_2"]


async def test_a_poison_event_fails_alone(gateway: Running, fulfillment: FulfillmentServer) -> None:
    def refuse_poison(request: pb.FulfillRequest) -> None:
        if any(event_id(one.payload) == "evt_poison" for one in request.events):
            raise ZeroDivisionError  # a bug over there: UNKNOWN for the whole call

    fulfillment.answering = refuse_poison
    first = await hold_one(gateway, fulfillment)
    others = await queue(gateway, [event("evt_a"), event("evt_poison"), event("evt_b"), event("evt_c")])
    fulfillment.open.set()
    answers = await asyncio.gather(first, *others)
    assert [answer.status for answer in answers] == [200, 200, 503, 200, 200]
    assert fulfillment.ids() == ["evt_held", "evt_a", "evt_b", "evt_c"]


async def test_a_batch_that_is_too_large_for_the_service_is_sent_in_parts(start_gateway: StartGateway) -> None:
    """Its limit may be lower than ours: gRPC refuses the message, and the halves pass."""
    fulfillment = FulfillmentServer(max_message_bytes=MEBIBYTE)
    await fulfillment.start()
    try:
        gateway = await start_gateway(target=fulfillment.address)
        first = await hold_one(gateway, fulfillment)
        others = await queue(gateway, [event(f"evt_{n}", padding=MEBIBYTE // 3) for n in range(6)])
        fulfillment.open.set()
        assert {answer.status for answer in await asyncio.gather(first, *others)} == {200}
        assert len(fulfillment.ids()) == 7
    finally:
        fulfillment.open.set()
        await fulfillment.stop()


async def test_overload_is_not_met_with_more_calls(gateway: Running, fulfillment: FulfillmentServer) -> None:
    first = await hold_one(gateway, fulfillment)
    others = await queue(gateway, [event(f"evt_{n}") for n in range(4)])
    fulfillment.code, fulfillment.reason = grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"
    fulfillment.open.set()
    assert {answer.status for answer in await asyncio.gather(first, *others)} == {503}
    assert [len(batch) for batch in fulfillment.batches] == [1, 4]


OUTCOMES = [value for value in pb.FulfillResult.Outcome.values() if value != pb.FulfillResult.OUTCOME_UNSPECIFIED]


@pytest.mark.parametrize("outcome", [*OUTCOMES, 99], ids=str)
async def test_every_outcome_is_final(
    sender: Sender, fulfillment: FulfillmentServer, outcome: pb.FulfillResult.Outcome.ValueType
) -> None:
    """Also one that only a newer service knows."""
    fulfillment.answering = lambda _request: pb.FulfillResponse(results=[pb.FulfillResult(outcome=outcome)])
    assert (await sender.post(event())).status == 200


@pytest.mark.parametrize(
    "results",
    [
        [],
        [pb.FulfillResult()],
        [pb.FulfillResult(event_id="evt_other", outcome=pb.FulfillResult.OUTCOME_APPLIED)],
        [pb.FulfillResult(event_id="evt_1", outcome=pb.FulfillResult.OUTCOME_APPLIED)] * 2,
    ],
    ids=["none", "unspecified", "of another event", "too many"],
)
async def test_an_answer_that_is_not_of_the_contract_commits_nothing(
    sender: Sender, fulfillment: FulfillmentServer, results: list[pb.FulfillResult]
) -> None:
    fulfillment.answering = lambda _request: pb.FulfillResponse(results=results)
    answer = await sender.post(event())
    assert (answer.status, answer.code) == (503, "not_available")


async def test_each_event_of_a_batch_has_its_own_answer(gateway: Running, fulfillment: FulfillmentServer) -> None:
    outcome_of = {
        "evt_held": pb.FulfillResult.OUTCOME_APPLIED,
        "evt_a": pb.FulfillResult.OUTCOME_DUPLICATE,
        "evt_b": pb.FulfillResult.OUTCOME_UNSPECIFIED,
        "evt_c": pb.FulfillResult.OUTCOME_QUARANTINED,
    }

    def answer(request: pb.FulfillRequest) -> pb.FulfillResponse:
        ids = [event_id(one.payload) for one in request.events]
        return pb.FulfillResponse(results=[pb.FulfillResult(event_id=i, outcome=outcome_of[i]) for i in ids])

    fulfillment.answering = answer
    first = await hold_one(gateway, fulfillment)
    others = await queue(gateway, [event("evt_a"), event("evt_b"), event("evt_c")])
    fulfillment.open.set()
    assert [answer.status for answer in await asyncio.gather(first, *others)] == [200, 200, 503, 200]
