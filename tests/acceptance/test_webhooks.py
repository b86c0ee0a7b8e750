"""What reaches the gateway from outside: duplicates have one effect, and what is hostile leaves no trace."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import Counter

import pytest

from tests import stripe_events
from tests.acceptance.world import World

_COPIES = 50
_TWO_MIB = 2 * 1024 * 1024


async def test_fifty_copies_at_once_have_one_effect(world: World, customer_id: str) -> None:
    """Each event of a purchase, posted 50 times at once: 50 times 200, one row, one effect."""
    bodies = [_of_sandbox(body) for body in stripe_events.purchase(customer_id, int(time.time()))]
    for body in bodies:
        headers = world.signed(body)
        answers = await asyncio.gather(*(world.post(body, headers) for _ in range(_COPIES)))
        assert [status for status, _ in answers] == [200] * _COPIES
    before = await world.entitlements(customer_id)
    assert list(before.plan_keys) == ["pro"]
    again = await asyncio.gather(*(world.post(body, world.signed(body)) for body in bodies for _ in range(_COPIES)))
    assert {status for status, _ in again} == {200}
    after = await world.entitlements(customer_id)
    assert (after.revision, list(after.sources)) == (before.revision, list(before.sources))
    assert max(Counter(world.recorded_event_ids()).values()) == 1


async def test_an_event_of_a_type_that_we_do_not_use_is_taken(world: World) -> None:
    body = stripe_events.event(
        "terminal.reader.action_failed", {"id": "tmr_1", "object": "terminal.reader"}, event_id="evt_acceptance_unused"
    )
    status, _ = await world.post(body, world.signed(body))
    assert status == 200
    assert "evt_acceptance_unused" in world.recorded_event_ids()


def _of_sandbox(body: bytes) -> bytes:
    return body.replace(b'"billing_deployment": "default"', b'"billing_deployment": "sandbox"')


_GOOD = stripe_events.event("customer.created", {"id": "cus_hostile", "object": "customer"}, event_id="evt_hostile")


def _signed_by_hand(body: bytes, secret: str) -> dict[str, str]:
    """Sign bytes that are no text, which the SDK's own signing does not take."""
    now = int(time.time())
    mac = hmac.new(secret.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={now},v1={mac}"}


@pytest.mark.parametrize(
    "case",
    [
        "forged",
        "unsigned",
        "stale",
        "future",
        "truncated",
        "truncated and signed",
        "no text",
        "no text and signed",
        "2 MiB",
        "empty",
        "live",
        "form",
    ],
)
async def test_what_is_hostile_is_refused_and_writes_no_row(world: World, case: str) -> None:
    """A body that Stripe did not send gets a 4xx that tells nothing about us, and no table has a row more."""
    await world.until_delivered()
    before = world.row_counts()
    secret = world.addresses["webhook_secret"]
    live = _GOOD.replace(b'"livemode": false', b'"livemode": true')
    body, headers = {
        "forged": (_GOOD, world.signed(_GOOD, secret="whsec_guess")),
        "unsigned": (_GOOD, {}),
        "stale": (_GOOD, world.signed(_GOOD, at=time.time() - 3_600)),
        "future": (_GOOD, world.signed(_GOOD, at=time.time() + 3_600)),
        "truncated": (_GOOD[:-20], world.signed(_GOOD)),
        "truncated and signed": (_GOOD[:-20], world.signed(_GOOD[:-20])),
        "no text": (b"\xff\xfe" + _GOOD, world.signed(_GOOD)),
        "no text and signed": (b"\xff\xfe" + _GOOD, _signed_by_hand(b"\xff\xfe" + _GOOD, secret)),
        "2 MiB": (b" " * _TWO_MIB, world.signed(b" " * _TWO_MIB)),
        "empty": (b"", world.signed(b"")),
        "live": (live, world.signed(live)),
        "form": (_GOOD, {**world.signed(_GOOD), "Content-Type": "application/x-www-form-urlencoded"}),
    }[case]
    status, text = await world.post(body, headers)
    assert 400 <= status < 500, text
    assert secret not in text
    assert "Traceback" not in text
    assert world.row_counts() == before


async def test_only_post_is_taken(world: World) -> None:
    async with world.http.get(f"{world.addresses['gateway']}/webhooks/stripe") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
