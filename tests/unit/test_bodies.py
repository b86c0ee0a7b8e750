"""What is kept of a body is small, and gives it back byte for byte."""

import json

import pytest

from billing_service.storage import bodies

BODY = json.dumps(
    {"id": "evt_1", "data": {"object": {"id": "in_1", "lines": [{"n": n, "m": "é"} for n in range(200)]}}},
    indent=2,
    ensure_ascii=False,
).encode()


@pytest.mark.parametrize("body", [BODY, b"{}", b'{"a":1}', b"x" * 1_000_000, bytes(range(256)) * 20])
def test_a_body_comes_back_byte_for_byte_with_its_size_known_from_the_head(body: bytes) -> None:
    kept = bodies.packed(body)
    assert bodies.unpacked(kept) == body
    assert bodies.size_of(kept[: bodies.HEAD_BYTES], len(kept)) == len(body)


def test_a_body_of_an_event_takes_a_fraction_of_its_size() -> None:
    assert len(bodies.packed(BODY)) < len(BODY) / 3


@pytest.mark.parametrize("body", [BODY, b"", b" {}", b"[]"])
def test_what_a_release_before_kept_is_given_as_it_is(body: bytes) -> None:
    assert bodies.unpacked(body) == body
    assert bodies.size_of(body[: bodies.HEAD_BYTES], len(body)) == len(body)
