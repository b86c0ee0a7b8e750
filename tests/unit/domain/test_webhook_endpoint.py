"""What an endpoint should be, and what is said of one that is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from billing_service.domain.observation import HANDLED_TYPES, PRICE_TYPES
from billing_service.domain.webhook_endpoint import Endpoint, create_body, request_key, state_of, update_body

URL = "https://billing.example.com/webhooks/stripe"
VERSION = "2026-10-28.endive"
GOOD = Endpoint(
    "we_1",
    URL,
    enabled=True,
    api_version=VERSION,
    types=frozenset({*HANDLED_TYPES, *PRICE_TYPES}),
    livemode=False,
    ours=True,
)


def test_the_types_are_those_that_the_code_uses() -> None:
    """What is made needs no mending, and gets each type that has an effect, those of prices too, and no other."""
    body = create_body(URL, VERSION, "default")
    assert set(body["enabled_events"]) == {*HANDLED_TYPES, *PRICE_TYPES}
    made = replace(GOOD, types=frozenset(body["enabled_events"]), api_version=body["api_version"])
    assert state_of([made], URL, VERSION).problems == ()


@pytest.mark.parametrize(
    ("other", "said", "mendable"),
    [
        ({"enabled": False}, "disabled", True),
        ({"types": GOOD.types - {"invoice.paid"}}, "it does not get invoice.paid", True),
        (
            {"types": frozenset(HANDLED_TYPES)},
            "it does not get price.created, price.deleted, price.updated, product.",
            True,
        ),
        ({"types": GOOD.types | {"invoice.created"}}, "holds invoices back", True),
        ({"types": frozenset({"*"})}, "it gets every type", True),
        ({"api_version": None}, "the account's default", False),
        ({"api_version": "2020-08-27"}, "2020-08-27", False),
    ],
)
def test_names_what_is_wrong(other: dict[str, Any], said: str, *, mendable: bool) -> None:
    """And mends it only where this deployment made the endpoint, and Stripe lets it."""
    state = state_of([replace(GOOD, **other)], URL, VERSION)
    (problem,) = state.problems
    assert said in problem.message
    assert state.mendable is mendable
    assert not state_of([replace(GOOD, ours=False, **other)], URL, VERSION).mendable


def test_types_that_do_no_harm_stay_when_it_is_mended() -> None:
    body = update_body(replace(GOOD, types=frozenset({"payout.paid", "invoice.created", "*"})))
    assert set(body["enabled_events"]) == {"payout.paid", *GOOD.types}


def test_an_endpoint_elsewhere_is_none_and_two_are_one_too_many() -> None:
    (problem,) = state_of([replace(GOOD, url="https://elsewhere.example")], URL, VERSION).problems
    assert problem.message == "no endpoint has this URL"
    foreign = replace(GOOD, endpoint_id="we_2", ours=False)
    state = state_of([foreign, GOOD], URL, VERSION)
    assert (state.endpoint, len(state.problems)) == (GOOD, 1)
    assert "we_1, we_2" in state.problems[0].message


def test_the_same_request_from_the_same_state_has_one_key() -> None:
    body = create_body(URL, VERSION, "default")
    assert request_key("default", body, []) == request_key("default", dict(body), [])
    assert request_key("default", body, ["we_1"]) != request_key("default", body, [])
