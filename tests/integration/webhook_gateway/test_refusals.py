"""What is not a fresh, signed event of the right mode is refused with what to check, and never reaches the service."""

from __future__ import annotations

import asyncio
import gzip
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial

import pytest
from structlog.testing import capture_logs

from tests.integration.webhook_gateway.conftest import StartGateway
from tests.integration.webhook_gateway.fulfillment import FulfillmentServer
from tests.integration.webhook_gateway.sender import PATH, Answer, Sender, event, signature
from webhook_gateway import server
from webhook_gateway.inflight import InFlight

BODY = event()
NOT_UTF8 = event().replace(b"sub_1", b"sub_\xff")
MEBIBYTE = 1024 * 1024


@pytest.fixture(autouse=True)
def _nothing_arrives(fulfillment: FulfillmentServer) -> Iterator[None]:
    yield
    assert fulfillment.batches == []


def sign_bytes(body: bytes) -> str:
    """Sign what is not UTF-8, which the SDK cannot."""
    now = int(time.time())
    return f"t={now},v1={hmac.new(b'whsec_test_main', f'{now}.'.encode() + body, 'sha256').hexdigest()}"


Send = Callable[[Sender], Awaitable[Answer]]
REFUSED: dict[str, tuple[Send, int, str]] = {
    "no signature": (lambda s: s.post(BODY, Stripe_Signature=None), 400, "signature_missing"),
    "junk for a signature": (lambda s: s.post(BODY, Stripe_Signature="junk"), 400, "signature_malformed"),
    "forged": (
        lambda s: s.post(BODY, Stripe_Signature=signature(BODY, secret="whsec_mine")),
        400,
        "signature_mismatch",
    ),
    "signature not ASCII": (lambda s: s.post(BODY, Stripe_Signature="t=1,v1=" + "ü" * 64), 400, "signature_mismatch"),
    "stale": (lambda s: s.post(BODY, Stripe_Signature=signature(BODY, age_s=400)), 400, "signature_stale"),
    "future-dated": (
        lambda s: s.post(BODY, Stripe_Signature=signature(BODY, age_s=-400)),
        400,
        "signature_in_future",
    ),
    "truncated": (lambda s: s.post(BODY[:-1], Stripe_Signature=signature(BODY)), 400, "signature_mismatch"),
    "altered by a proxy": (lambda s: s.post(BODY + b"\n", Stripe_Signature=signature(BODY)), 400, "signature_mismatch"),
    "not UTF-8, not signed": (
        lambda s: s.post(NOT_UTF8, Stripe_Signature=signature(BODY)),
        400,
        "signature_mismatch",
    ),
    "not UTF-8, signed": (
        lambda s: s.post(NOT_UTF8, Stripe_Signature=sign_bytes(NOT_UTF8)),
        400,
        "body_not_utf8",
    ),
    "empty": (lambda s: s.post(b""), 400, "body_not_json"),
    "not JSON": (lambda s: s.post(b"{"), 400, "body_not_json"),
    "not an object": (lambda s: s.post(b"[1]"), 400, "body_not_an_event"),
    "no id": (lambda s: s.post(b'{"type": "a.b", "livemode": false}'), 400, "body_not_an_event"),
    "a live event in test mode": (lambda s: s.post(event(livemode=True)), 400, "livemode_mismatch"),
    "2 MiB": (lambda s: s.post(b"x" * 2 * MEBIBYTE), 413, "body_too_large"),
    "one byte too many": (lambda s: s.post(b"x" * (MEBIBYTE + 1)), 413, "body_too_large"),
    "a form": (
        lambda s: s.post(BODY, Content_Type="application/x-www-form-urlencoded"),
        415,
        "content_type_not_json",
    ),
    "no content type": (lambda s: s.post(BODY, Content_Type=None), 415, "content_type_not_json"),
    "a content type that is none": (lambda s: s.post(BODY, Content_Type=";;;="), 415, "content_type_not_json"),
    "gzip": (
        lambda s: s.post(
            gzip.compress(BODY),
            Content_Encoding="gzip",
            Stripe_Signature=sign_bytes(gzip.compress(BODY)),
        ),
        415,
        "content_encoding_not_supported",
    ),
    "another path": (lambda s: s.request("POST", "/webhooks/other", BODY), 404, "not_found"),
}


@pytest.mark.parametrize(("send", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
async def test_is_refused(sender: Sender, send: Send, status: int, code: str) -> None:
    answer = await send(sender)
    assert (answer.status, answer.code) == (status, code)
    assert answer.content["error"]["message"]
    assert "Retry-After" not in answer.headers
    assert "aiohttp" not in answer.headers["Server"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
async def test_other_methods_are_told_which_one_is_allowed(sender: Sender, method: str) -> None:
    answer = await sender.request(method, PATH)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_a_test_event_in_live_mode_is_refused(start_gateway: StartGateway) -> None:
    running = await start_gateway(livemode=True)
    answer = await running.sender.post(event(livemode=False))
    assert (answer.status, answer.code) == (400, "livemode_mismatch")


async def test_a_chunked_body_is_counted_while_it_is_read(sender: Sender) -> None:
    """It promises no length, and would be read without end."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    headers = {"Content-Type": "application/json", "Stripe-Signature": "t=1,v1=1"}
    answer = await sender.request("POST", PATH, endless(), headers)
    assert (answer.status, answer.code) == (413, "body_too_large")


async def test_a_body_without_a_length_is_refused(sender: Sender) -> None:
    request = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    assert (await sender.raw(request.encode())).startswith(b"HTTP/1.1 411 ")


@pytest.mark.parametrize(
    "junk",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GARBAGE\r\n\r\n",
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n".encode(),
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n".encode(),
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nStripe-Signature: {'1' * 20_000}\r\n\r\n".encode(),
    ],
)
async def test_what_is_not_http_gets_400(sender: Sender, junk: bytes) -> None:
    answer = await sender.raw(junk)
    assert answer.split(b" ", 2)[1] == b"400"
    assert b'"code": "not_http"' in answer
    assert b"aiohttp" not in answer


async def test_what_is_not_http_is_neither_quoted_nor_fills_the_log(
    sender: Sender, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a proxy miscounts, the rest of a body is read as the next request: here it is a name. Also on a connection that was good before."""
    rest = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + b'"name": "Smithers"}\r\n\r\n'
    with capture_logs() as told:
        answers = [await sender.raw(sent) for sent in (rest, b"Smithers : x\r\n\r\n", rest, rest)]
    assert all(b"Smithers" not in answer and answer.count(b" 400 ") == 1 for answer in answers)
    assert [(line["event"], line["count"]) for line in told if line["event"] == "not_http"] == [("not_http", 1)]
    assert "aiohttp.server" not in {record.name for record in caplog.records}


async def test_who_expects_what_is_not_known_is_told_so(sender: Sender) -> None:
    answer = await sender.post(BODY, Expect="200-ok")
    assert (answer.status, answer.code) == (417, "expectation_unknown")
    assert "aiohttp" not in answer.headers["Server"]


async def test_a_body_that_drips_is_given_up(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow senders must not hold their place for ever."""
    monkeypatch.setattr("webhook_gateway.body._READ_TIMEOUT_S", 0.05)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    answer = await sender.raw(head.encode() + b"{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in answer


async def test_a_sender_who_leaves_in_the_middle_of_a_body_harms_nobody(sender: Sender) -> None:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Stripe-Signature: {signature(BODY)}\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    answers = await asyncio.gather(*(sender.raw(head.encode() + BODY[:-1], hang_up=True) for _ in range(5)))
    assert all(not answer.startswith(b"HTTP/1.1 2") for answer in answers)
    assert (await sender.request("GET", "/livez")).status == 200


async def test_bodies_that_drip_do_not_take_the_room_of_one_that_comes_in_one_piece(
    start_gateway: StartGateway, fulfillment: FulfillmentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds the address needs no signature for that. The one that has dripped for the longest makes room."""
    monkeypatch.setattr(server, "InFlight", partial(InFlight, limit=2))
    gateway = await start_gateway()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{"
    dripping = []
    for number in (1, 2):
        dripping.append(asyncio.create_task(gateway.sender.raw(head.encode())))
        async with asyncio.timeout(30):
            while len(gateway.server._in_flight._bodies) < number:  # noqa: ASYNC110 - another program's connection has no event for us
                await asyncio.sleep(0.001)
    answer = await gateway.sender.post(BODY)
    assert answer.status == 200
    assert fulfillment.batches.pop() == [BODY]
    told = [await one for one in dripping]
    assert [one.split(b" ", 2)[1] for one in told] == [b"503", b"408"]
    assert b"Retry-After" in told[0]
