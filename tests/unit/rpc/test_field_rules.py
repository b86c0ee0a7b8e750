"""Each field of a request is held to the rules that the contract's comments state."""

from __future__ import annotations

import pytest

from billing_service.rpc import field_rules


@pytest.mark.parametrize("value", ["r", "a" * 128, "0b8e-41 ~!", "2f1c0a2e-7b1e-4a53-9d53-2f4dd4d8a0f1"])
def test_takes_request_ids_of_printable_ascii(value: str) -> None:
    assert field_rules.request_id_problem(value) is None


@pytest.mark.parametrize("value", ["", "a" * 129, "é", "a\n", "a\0", "a\x7f"])
def test_refuses_other_request_ids(value: str) -> None:
    assert field_rules.request_id_problem(value) is not None


@pytest.mark.parametrize("value", ["u", "x" * 200, "team 7", "用户", "a@b.example"])
def test_takes_opaque_customer_ids(value: str) -> None:
    assert field_rules.customer_id_problem(value) is None


@pytest.mark.parametrize("value", ["", "x" * 201, " u", "u ", "u\u00a0", "a\0b", "a\x85b", "\n", "a\tb"])
def test_refuses_customer_ids_that_could_not_be_told_apart_or_kept(value: str) -> None:
    assert field_rules.customer_id_problem(value) is not None


@pytest.mark.parametrize(
    ("value", "holds"), [(0, False), (-1, False), (1, True), (1_000_000, True), (1_000_001, False)]
)
def test_holds_quantities_to_their_range(value: int, *, holds: bool) -> None:
    assert (field_rules.quantity_problem(value) is None) is holds


@pytest.mark.parametrize(
    "value",
    [
        "https://shop.example/done?session={CHECKOUT_SESSION_ID}#top",
        "https://shop.example",
        "HTTPS://shop.example:8443/a%20b",
        "https://größe.example/ü",
        "https://[2001:db8::1]/",
        "http://localhost:8000/account",
        "http://app.localhost/",
        "http://127.0.0.1:8000/",
        "http://[::1]:8000/",
        "https://a.example/" + "p" * (2048 - len("https://a.example/")),
    ],
)
def test_takes_urls_that_a_browser_can_be_sent_to(value: str) -> None:
    assert field_rules.url_problem(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "shop.example/done",
        "/done",
        "//shop.example/done",
        "https:///done",
        "https:shop.example",
        "ftp://shop.example/",
        "javascript:alert(1)",
        "data:text/html,x",
        "http://shop.example/",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
        "https://user@shop.example/",
        "https://user:pass@shop.example/",
        "https://@shop.example/",
        "https://evil.example\\@shop.example/",
        "https://shop.example/a b",
        " https://shop.example/",
        "https://shop.example/\n",
        "https://shop.example/\u2028",
        "https://shop.example/\0",
        "https://shop.example:port/",
        "https://shop.example:99999/",
        "https://[::1/",
        "https://[v1.x]/",
        "https://{CHECKOUT_SESSION_ID}/",
        "https://a..example/",
        "https://a.example/" + "p" * 2048,
    ],
)
def test_refuses_urls_that_lead_nowhere_or_elsewhere(value: str) -> None:
    assert field_rules.url_problem(value) is not None


@pytest.mark.parametrize("value", ["a@b.example", "first.last+tag@mail.shop.example", "ü@größe.example"])
def test_takes_plausible_email_addresses(value: str) -> None:
    assert field_rules.email_problem(value) is None


@pytest.mark.parametrize(
    "value",
    ["", "a", "@b.example", "a@", "a@b", "a@b@c.example", "a b@c.example", "a@b.example\n", "a" * 250 + "@b.ex"],
)
def test_refuses_what_is_no_email_address(value: str) -> None:
    assert field_rules.email_problem(value) is not None


@pytest.mark.parametrize(("key", "value"), [("k", ""), ("k" * 40, "v" * 500), ("order id", "a\nb"), ("Billing_x", "v")])
def test_takes_metadata_within_the_limits(key: str, value: str) -> None:
    assert field_rules.metadata_entry_problem(key, value) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "v"),
        ("k" * 41, "v"),
        ("a\0", "v"),
        ("billing_customer_id", "v"),
        ("a[b]", "v"),
        ("k", "v" * 501),
        ("k", "\0"),
    ],
)
def test_refuses_metadata_that_stripe_would_not_keep_or_that_is_ours(key: str, value: str) -> None:
    assert field_rules.metadata_entry_problem(key, value) is not None


@pytest.mark.parametrize(("value", "holds"), [("cs_a", True), ("cs_" + "a" * 255, True), ("cs_", False), ("", False)])
def test_knows_the_form_of_checkout_session_ids(value: str, *, holds: bool) -> None:
    assert (field_rules.checkout_session_id_problem(value) is None) is holds


@pytest.mark.parametrize("value", ["cs_a\n", "xcs_a", "cs_é", "cs_a/../b", "cs_" + "a" * 256])
def test_refuses_checkout_session_ids_that_could_change_a_path(value: str) -> None:
    assert field_rules.checkout_session_id_problem(value) is not None


def test_never_repeats_a_value_in_a_description() -> None:
    secret = "hunter2@@\0"
    for rule in (
        field_rules.request_id_problem,
        field_rules.customer_id_problem,
        field_rules.url_problem,
        field_rules.email_problem,
        field_rules.checkout_session_id_problem,
    ):
        assert "hunter2" not in (rule(secret) or "")


@pytest.mark.parametrize("url", ["https://shop.example/x", "https://SHOP.example.:8443/", "http://localhost:1/"])
def test_a_url_may_lead_to_a_host_that_is_named(url: str) -> None:
    assert field_rules.url_problem(url, ("shop.example", "localhost")) is None


@pytest.mark.parametrize(
    "url",
    ["https://evil.example/", "https://shop.example.evil.example/", "https://a.shop.example/", "http://127.0.0.1/"],
)
def test_a_url_may_lead_nowhere_else(url: str) -> None:
    assert field_rules.url_problem(url) is None
    assert field_rules.url_problem(url, ("shop.example",)) == "must lead to a host that the operator has named"
