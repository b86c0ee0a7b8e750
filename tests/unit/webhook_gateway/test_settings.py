"""Every problem with the environment is named at once, and no value of it is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.certificates import Authority
from webhook_gateway.settings import SettingsError, load_settings, parse_secrets, split_address

GOOD = {"GATEWAY_INTERNAL_TOKEN": "token-1", "GATEWAY_WEBHOOK_SECRETS": "main=whsec_1, old=whsec_2=="}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GATEWAY_")]:
        monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_two_variables_are_enough() -> None:
    settings = load_settings()
    assert (settings.address, settings.fulfillment_target) == ("127.0.0.1:8080", "127.0.0.1:50052")
    assert settings.livemode is False
    assert [(named.name, named.secret) for named in settings.named_secrets()] == [
        ("main", "whsec_1"),
        ("old", "whsec_2=="),
    ]


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ("127.0.0.1:1,127.0.0.2:2", "ipv4:127.0.0.1:1,127.0.0.2:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
        ("localhost:1", "localhost:1"),
    ],
)
def test_several_services_are_one_target(monkeypatch: pytest.MonkeyPatch, given: str, target: str) -> None:
    monkeypatch.setenv("GATEWAY_FULFILLMENT_TARGET", given)
    assert load_settings().target() == target


@pytest.mark.parametrize(
    "given", ["localhost:1,127.0.0.1:2", "127.0.0.1:1,[::1]:2", "127.0.0.1:1,", ",".join(["127.0.0.1:1"] * 33)]
)
def test_several_services_that_grpc_cannot_take_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("GATEWAY_FULFILLMENT_TARGET", given)
    with pytest.raises(SettingsError, match="GATEWAY_FULFILLMENT_TARGET"):
        load_settings()


def test_no_one_of_several_services_may_be_elsewhere_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_FULFILLMENT_TARGET", "127.0.0.1:1,10.0.0.1:1")
    with pytest.raises(SettingsError, match="GATEWAY_INSECURE_TARGET"):
        load_settings()


def test_every_problem_is_named_and_no_value_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GATEWAY_INTERNAL_TOKEN")
    monkeypatch.setenv("GATEWAY_ADDRESS", "shown?")
    monkeypatch.setenv("GATEWAY_FULFILLMENT_TARGET", "shown?:99999")
    monkeypatch.setenv("GATEWAY_LIVEMODE", "shown?")
    monkeypatch.setenv("GATEWAY_WEBHOOK_SECRETS", "one=sk_test_shown,whsec_shown,two=whsec_ok,two=whsec_ok")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    lines = str(refused.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == [
        "GATEWAY_ADDRESS",
        "GATEWAY_FULFILLMENT_TARGET",
        "GATEWAY_INTERNAL_TOKEN",
        "GATEWAY_LIVEMODE",
        "GATEWAY_WEBHOOK_SECRETS",
    ]
    for problem in ("entry 1", "entry 2", "twice"):
        assert problem in str(refused.value)
    assert "shown" not in str(refused.value)


def test_secrets_can_stand_in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, "")  # as a compose file leaves it
        (tmp_path / name.lower()).write_text(value + "\n")
    monkeypatch.setenv("GATEWAY_SECRETS_DIR", str(tmp_path))
    token = load_settings().internal_token
    assert token is not None
    assert token.get_secret_value() == "token-1"
    monkeypatch.setenv("GATEWAY_SECRETS_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GATEWAY_ADDRESS", "nowhere")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["GATEWAY_SECRETS_DIR", "GATEWAY_ADDRESS"]


def test_settings_do_not_print_their_secrets() -> None:
    assert "token-1" not in repr(load_settings())
    assert "whsec_1" not in repr(load_settings())


@pytest.mark.parametrize("token", ["", "one,two", "with space", "with\nnewline", "ü"])
def test_a_token_that_metadata_cannot_carry_is_refused(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("GATEWAY_INTERNAL_TOKEN", token)
    with pytest.raises(SettingsError, match="GATEWAY_INTERNAL_TOKEN"):
        load_settings()


@pytest.mark.parametrize("text", ["", ",", "=whsec_1", "a b=whsec_1", "a=", "a=whsec_", "a=whsec_ 1"])
def test_secrets_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_secrets(text)


def test_the_number_of_secrets_is_bounded() -> None:
    with pytest.raises(ValueError, match="at most"):
        parse_secrets(",".join(f"n{number}=whsec_{number}" for number in range(9)))


@pytest.mark.parametrize(
    ("address", "split"),
    [("10.0.0.1:0", ("10.0.0.1", 0)), ("[::1]:8080", ("::1", 8080)), ("localhost:65535", ("localhost", 65535))],
)
def test_addresses_are_split(address: str, split: tuple[str, int]) -> None:
    assert split_address(address) == split


@pytest.mark.parametrize("address", ["", "host", ":80", "host:", "host:65536", "host:http", "::1:80", "http://host:80"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)


@pytest.mark.parametrize("target", ["service:50052", "10.0.0.7:50052"])
def test_a_service_on_another_machine_needs_tls_or_a_word_from_the_operator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str
) -> None:
    monkeypatch.setenv("GATEWAY_FULFILLMENT_TARGET", target)
    with pytest.raises(SettingsError, match=r"^GATEWAY_FULFILLMENT_TARGET: .*GATEWAY_TLS_CA.*GATEWAY_INSECURE_TARGET"):
        load_settings()
    (tmp_path / "ca.pem").write_bytes(Authority().pem)
    monkeypatch.setenv("GATEWAY_TLS_CA", str(tmp_path / "ca.pem"))
    assert load_settings().fulfillment_target == target
    monkeypatch.delenv("GATEWAY_TLS_CA")
    monkeypatch.setenv("GATEWAY_INSECURE_TARGET", "true")
    assert load_settings().tls_files() is None


@pytest.mark.parametrize("address", ["0.0.0.0:9092", "[::]:9092", "gateway.example:9092"])
def test_the_metrics_are_not_open_to_other_machines_without_a_word_from_the_operator(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("GATEWAY_OPS_ADDRESS", address)
    with pytest.raises(SettingsError, match=r"^GATEWAY_OPS_ADDRESS: .*GATEWAY_INSECURE_OPS=true"):
        load_settings()
    monkeypatch.setenv("GATEWAY_INSECURE_OPS", "true")
    assert load_settings().ops_address == address


def test_a_certificate_stands_for_the_token_and_needs_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    certificate, key = authority.sign("gateway.test").write(tmp_path, "gateway")
    monkeypatch.delenv("GATEWAY_INTERNAL_TOKEN")
    monkeypatch.setenv("GATEWAY_TLS_CA", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("GATEWAY_TLS_CERTIFICATE", str(certificate))
    with pytest.raises(SettingsError, match="GATEWAY_TLS_CERTIFICATE: and GATEWAY_TLS_KEY need each other"):
        load_settings()
    monkeypatch.setenv("GATEWAY_TLS_KEY", str(key))
    assert load_settings().internal_token is None
    monkeypatch.setenv("GATEWAY_TLS_CA", str(key))
    with pytest.raises(SettingsError, match="GATEWAY_TLS_CA: "):
        load_settings()
