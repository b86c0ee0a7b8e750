"""The environment configures the service, or every problem of it is named at once and no value is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from billing_service.address import Address
from billing_service.catalog_source import load_with_catalog, read_catalog
from billing_service.settings import DatabaseSettings, Settings, SettingsError, load_settings
from tests.certificates import Authority

_CATALOG = Path(__file__).parents[2] / "catalog.toml"
_GOOD = {
    "BILLING_DATABASE_URL": "postgresql://billing:hunter2@db.example/billing",
    "BILLING_STRIPE_API_KEY": "sk_test_hunter2",
    "BILLING_CATALOG": str(_CATALOG),
    "BILLING_INTERNAL_TOKEN": "hunter2-hunter2-hunter2",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("BILLING_")]:
        monkeypatch.delenv(name)
    for name, value in _GOOD.items():
        monkeypatch.setenv(name, value)


def _problems(kind: type[DatabaseSettings] = Settings) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(kind)
    assert "hunter2" not in f"{caught.value}{caught.value.__cause__!r}"
    return caught.value.problems


def test_four_variables_are_enough_and_the_rest_has_the_documented_defaults() -> None:
    settings = load_settings(Settings)
    assert settings.stripe_api_base == "https://api.stripe.com"
    assert (settings.deployment, settings.log_level) == ("default", "INFO")
    assert (settings.grpc_address, settings.internal_address) == (
        Address("127.0.0.1", 50051),
        Address("127.0.0.1", 50052),
    )
    assert settings.ops_address == Address("127.0.0.1", 9091)
    assert settings.internal_tokens() == ("hunter2-hunter2-hunter2",)
    assert "hunter2" not in f"{settings!r}{settings}"


def test_migrate_needs_the_database_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BILLING_STRIPE_API_KEY", "BILLING_CATALOG", "BILLING_INTERNAL_TOKEN"):
        monkeypatch.delenv(name)
    assert load_settings(DatabaseSettings).database_url.get_secret_value() == _GOOD["BILLING_DATABASE_URL"]


def test_names_every_variable_that_is_missing_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _GOOD:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BILLING_CATALOG", "")
    assert sorted(_problems()) == sorted(f"{name}: is not set" for name in _GOOD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BILLING_DATABASE_URL", "mysql://billing:hunter2@db/billing"),
        ("BILLING_DATABASE_URL", "postgresql://billing:hunter2@db/billing?nonsense=1"),
        ("BILLING_STRIPE_API_KEY", "pk_test_hunter2"),
        ("BILLING_STRIPE_API_KEY", "whsec_hunter2"),
        ("BILLING_STRIPE_API_KEY", "sk_test_hunter2\n"),
        ("BILLING_STRIPE_API_BASE", "api.stripe.com"),
        ("BILLING_STRIPE_API_BASE", "https://[x"),
        ("BILLING_STRIPE_API_BASE", "https://user:hunter2@api.stripe.com"),
        ("BILLING_CATALOG", "/nowhere/catalog.toml"),
        ("BILLING_CATALOG", "/"),
        ("BILLING_DEPLOYMENT", "my deployment"),
        ("BILLING_GRPC_ADDRESS", "50051"),
        ("BILLING_GRPC_ADDRESS", "127.0.0.1:65536"),
        ("BILLING_GRPC_ADDRESS", "127.0.0.1:http"),
        ("BILLING_GRPC_ADDRESS", "::1:50051"),
        ("BILLING_INTERNAL_ADDRESS", ":50052"),
        ("BILLING_OPS_ADDRESS", "localhost:"),
        ("BILLING_INTERNAL_TOKEN", "hunter2"),
        ("BILLING_INTERNAL_TOKEN", "hunter2-hunter2 hunter2"),
        ("BILLING_INTERNAL_TOKEN", "hunter2-hunter2-hunter2,"),
        ("BILLING_INTERNAL_TOKEN", f"sha256:{'A' * 64}"),
        ("BILLING_INTERNAL_TOKEN", "sha256:hunter2-hunter2"),
        ("BILLING_INTERNAL_TOKEN", ",".join(["hunter2-hunter2-hunter2"] * 5)),
        ("BILLING_LOG_LEVEL", "loud"),
        ("BILLING_INSECURE_LISTEN", "perhaps"),
        ("BILLING_INSECURE_OPS", "perhaps"),
        ("BILLING_ACCESS_FILE", "/nowhere"),
        ("BILLING_ACCESS_FILE", str(_CATALOG)),
        ("BILLING_TLS_CERTIFICATE", str(_CATALOG)),
        ("BILLING_REDIRECT_HOSTS", "https://shop.example"),
        ("BILLING_REDIRECT_HOSTS", "shop.example,,"),
        ("BILLING_REDIRECT_HOSTS", "*.example"),
        ("BILLING_RELOAD_INTERVAL_S", "0"),
    ],
)
def test_refuses_a_value_that_does_not_hold_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    problems = _problems()
    assert len(problems) == 1
    assert problems[0].startswith(f"{name}: ")


def test_reports_every_problem_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BILLING_INTERNAL_TOKEN")
    monkeypatch.setenv("BILLING_STRIPE_API_KEY", "pk_live_hunter2")
    monkeypatch.setenv("BILLING_GRPC_ADDRESS", "0.0.0.0:50051")
    assert [problem.partition(":")[0] for problem in _problems()] == [
        "BILLING_STRIPE_API_KEY",
        "BILLING_GRPC_ADDRESS",
        "BILLING_INTERNAL_TOKEN",
    ]


def test_a_folder_of_secrets_that_is_not_there_hides_no_other_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What may stand in it is not said to be missing, and what is wrong elsewhere is named all the same."""
    for name in ("BILLING_STRIPE_API_KEY", "BILLING_DATABASE_URL", "BILLING_INTERNAL_TOKEN"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("BILLING_SECRETS_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("BILLING_CATALOG", "")
    monkeypatch.setenv("BILLING_LOG_LEVEL", "loud")
    monkeypatch.setenv("BILLING_OPS_ADDRESS", "0.0.0.0:1")
    assert sorted(problem.partition(":")[0] for problem in _problems()) == [
        "BILLING_CATALOG",
        "BILLING_LOG_LEVEL",
        "BILLING_OPS_ADDRESS",
        "BILLING_SECRETS_DIR",
    ]


def test_an_address_says_what_it_surely_lacks_beside_a_file_that_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_GRPC_ADDRESS", "0.0.0.0:1")
    monkeypatch.setenv("BILLING_ACCESS_FILE", "/nowhere")
    access, address = _problems()
    assert access.startswith("BILLING_ACCESS_FILE: ")
    assert "needs BILLING_TLS_CERTIFICATE; or set" in address


def test_mistakes_in_the_catalog_are_named_with_those_in_the_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "catalog.toml"
    monkeypatch.setenv("BILLING_CATALOG", str(file))
    monkeypatch.setenv("BILLING_LOG_LEVEL", "loud")
    for text in (b"no catalog", b"\xff"):
        file.write_bytes(text)
        with pytest.raises(SettingsError) as caught:
            load_with_catalog(Settings)
        assert {problem.partition(":")[0] for problem in caught.value.problems} == {
            "BILLING_LOG_LEVEL",
            "BILLING_CATALOG",
        }
    monkeypatch.delenv("BILLING_LOG_LEVEL")
    monkeypatch.setenv("BILLING_CATALOG", str(_CATALOG))
    settings, catalog = load_with_catalog(Settings)
    assert catalog == read_catalog(settings.catalog, "BILLING_CATALOG")


@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "billing.example:50051", "10.0.0.7:50051"])
def test_callers_from_other_machines_need_a_word_from_the_operator(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("BILLING_GRPC_ADDRESS", address)
    assert "BILLING_INSECURE_LISTEN" in _problems()[0]
    monkeypatch.setenv("BILLING_INSECURE_LISTEN", "true")
    assert str(load_settings(Settings).grpc_address) == address


@pytest.mark.parametrize("flag", ["BILLING_INSECURE_OPS", "BILLING_INSECURE_LISTEN"])
def test_the_page_for_operators_is_not_open_to_other_machines_without_a_word_from_them(
    monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    """It asks nobody who they are."""
    monkeypatch.setenv("BILLING_OPS_ADDRESS", "0.0.0.0:9091")
    (problem,) = _problems()
    assert problem.startswith("BILLING_OPS_ADDRESS: ")
    assert "BILLING_INSECURE_OPS=true" in problem
    monkeypatch.setenv(flag, "true")
    assert str(load_settings(Settings).ops_address) == "0.0.0.0:9091"


def test_a_word_for_the_page_for_operators_is_none_for_the_other_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_INSECURE_OPS", "true")
    monkeypatch.setenv("BILLING_GRPC_ADDRESS", "0.0.0.0:50051")
    monkeypatch.setenv("BILLING_INTERNAL_ADDRESS", "0.0.0.0:50052")
    assert [problem.partition(":")[0] for problem in _problems()] == [
        "BILLING_GRPC_ADDRESS",
        "BILLING_INTERNAL_ADDRESS",
    ]


def test_two_listeners_do_not_share_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_GRPC_ADDRESS", "127.0.0.1:50052")
    assert _problems() == ("BILLING_INTERNAL_ADDRESS: must not be the same as BILLING_GRPC_ADDRESS",)


def test_a_live_key_does_not_travel_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_STRIPE_API_BASE", "http://127.0.0.1:12111")
    assert load_settings(Settings).stripe_api_base == "http://127.0.0.1:12111"
    monkeypatch.setenv("BILLING_STRIPE_API_KEY", "rk_live_hunter2")
    assert _problems() == ("BILLING_STRIPE_API_BASE: must begin with https:// when the API key is a live one",)


def test_several_tokens_are_taken_so_that_one_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_INTERNAL_TOKEN", "a" * 16 + "," + "b" * 16)
    assert load_settings(Settings).internal_tokens() == ("a" * 16, "b" * 16)


def test_secrets_may_come_from_a_folder_of_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BILLING_STRIPE_API_KEY")
    (tmp_path / "billing_stripe_api_key").write_text("sk_test_from_file\n", encoding="utf-8")
    monkeypatch.setenv("BILLING_SECRETS_DIR", str(tmp_path))
    assert load_settings(Settings).stripe_api_key.get_secret_value() == "sk_test_from_file"
    monkeypatch.setenv("BILLING_SECRETS_DIR", str(tmp_path / "nowhere"))
    assert _problems() == ("BILLING_SECRETS_DIR: must be the path of a folder that exists",)


@pytest.mark.parametrize("key", ["sk_live_hunter2", "rk_live_hunter2"])
def test_time_cannot_be_moved_with_a_live_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str) -> None:
    """The sandbox's clock and a live key together stop the start, with one sentence."""
    monkeypatch.setenv("BILLING_STRIPE_API_KEY", key)
    monkeypatch.setenv("BILLING_SANDBOX_CLOCK", str(tmp_path / "clock"))
    assert _problems() == (
        "BILLING_SANDBOX_CLOCK: must not be set with a live API key: real customers live in real time",
    )


def test_a_file_that_is_no_clock_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("noon")
    monkeypatch.setenv("BILLING_SANDBOX_CLOCK", str(tmp_path / "clock"))
    assert _problems() == ("BILLING_SANDBOX_CLOCK: must be a sandbox clock: a file with a number of seconds",)


def _access(folder: Path, role: str = "caller") -> str:
    file = folder / "access"
    file.write_text(f"token hunter2 {role} sha256:{'a' * 64}\n", encoding="utf-8")
    return str(file)


def test_other_machines_may_call_once_there_are_credentials_and_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each listener says what it lacks; with both, no word of the operator's is needed."""
    for name in ("GRPC", "INTERNAL"):
        monkeypatch.setenv(f"BILLING_{name}_ADDRESS", f"0.0.0.0:{len(name)}")
    assert [("ACCESS_FILE" in problem, "TLS_CERTIFICATE" in problem) for problem in _problems()] == [
        (True, True),
        (False, True),
    ]
    monkeypatch.setenv("BILLING_ACCESS_FILE", _access(tmp_path))
    certificate, key = Authority().sign("billing.test").write(tmp_path, "server")
    monkeypatch.setenv("BILLING_TLS_CERTIFICATE", str(certificate))
    assert _problems() == ("BILLING_TLS_CERTIFICATE: needs BILLING_TLS_KEY beside it",)
    monkeypatch.setenv("BILLING_TLS_KEY", str(key))
    files = load_settings(Settings).certificate_files()
    assert files is not None
    assert (files.chain, files.key, files.client_ca) == (certificate, key, None)


def test_a_key_that_is_not_the_certificates_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate, _ = Authority().sign("a.test").write(tmp_path, "a")
    _, key = Authority().sign("b.test").write(tmp_path, "b")
    monkeypatch.setenv("BILLING_TLS_CERTIFICATE", str(certificate))
    monkeypatch.setenv("BILLING_TLS_KEY", str(key))
    (problem,) = _problems()
    assert problem.startswith("BILLING_TLS_CERTIFICATE: the certificate and the key do not belong together")
    monkeypatch.delenv("BILLING_TLS_CERTIFICATE")
    assert _problems() == ("BILLING_TLS_CERTIFICATE: is needed with BILLING_TLS_KEY and BILLING_TLS_CLIENT_CA",)


def test_the_internal_token_is_needed_unless_somebody_else_may_bring_events(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("BILLING_INTERNAL_TOKEN")
    monkeypatch.setenv("BILLING_ACCESS_FILE", _access(tmp_path))
    assert _problems() == ("BILLING_INTERNAL_TOKEN: is not set",)
    monkeypatch.setenv("BILLING_ACCESS_FILE", _access(tmp_path, "gateway"))
    assert load_settings(Settings).internal_tokens() == ()
    certified = tmp_path / "certified"
    certified.write_text("certificate gateway gateway gateway.test\n", encoding="utf-8")
    monkeypatch.setenv("BILLING_ACCESS_FILE", str(certified))
    assert _problems() == ("BILLING_INTERNAL_TOKEN: is not set",), "without TLS nobody can show a certificate"


def test_redirect_hosts_are_names_in_lower_case(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(Settings).redirect_hosts == ()
    monkeypatch.setenv("BILLING_REDIRECT_HOSTS", "Shop.example, account.shop.example.,127.0.0.1")
    assert load_settings(Settings).redirect_hosts == ("shop.example", "account.shop.example", "127.0.0.1")
