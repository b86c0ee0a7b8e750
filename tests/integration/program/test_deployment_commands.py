"""The commands of a deployment as processes: exit codes that a pipeline can rely on, consent, and a secret that is told once."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import stat
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
import stripe
from aiohttp import web

from tests.integration.program.commands import account, environment, run, shop
from tests.integration.program.conftest import KEY, ROOT
from tests.unit.domain.offered import TEXT

pytestmark = pytest.mark.slow

CATALOG = str(ROOT / "catalog.toml")
URL = "https://billing.example.com/webhooks/stripe"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
async def stripe_url() -> AsyncIterator[str]:
    async with account() as url:
        yield url


@pytest.fixture
def variables(stripe_url: str) -> Mapping[str, str]:
    return environment(stripe_url)


async def catalog(variables: Mapping[str, str], step: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Run a step that ends in a report."""
    code, out, said = await run(variables, "catalog", step, "--catalog", CATALOG, "--json", *words)
    assert out, said
    found: dict[str, Any] = json.loads(out)
    return code, found


async def test_the_exit_codes_are_those_of_a_pipeline(variables: Mapping[str, str]) -> None:
    """2 while there is something to do, 0 once there is nothing, and again 2 where something is out of sale unexpectedly."""
    assert [(await catalog(variables, step))[0] for step in ("check", "plan")] == [2, 2]
    code, report = await catalog(variables, "apply", "--yes")
    assert (code, len(report["done"]), report["actions"], report["problems"]) == (0, 9, [], [])
    for step in ("check", "plan", "apply"):
        code, report = await catalog(variables, step)
        assert (code, report["actions"], report["problems"], report["livemode"]) == (0, [], [], False)
    price = next(one["id"] for one in await listed(variables, "prices") if one["lookup_key"] == "pro_monthly")
    await post(variables, f"prices/{price}", active="false")
    code, report = await catalog(variables, "check")
    assert (code, [one["place"] for one in report["problems"]]) == (2, ["plans.pro.prices.monthly"])
    assert (await catalog(variables, "check", "--allow-inactive"))[0] == 0


async def listed(variables: Mapping[str, str], noun: str) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {KEY}"}
    base = variables["BILLING_STRIPE_API_BASE"]
    async with aiohttp.ClientSession(base, headers=headers) as session, session.get(f"/v1/{noun}?limit=100") as answer:
        data: list[dict[str, Any]] = (await answer.json())["data"]
        return data


async def post(variables: Mapping[str, str], path: str, **form: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {KEY}"}
    base = variables["BILLING_STRIPE_API_BASE"]
    async with (
        aiohttp.ClientSession(base, headers=headers) as session,
        session.post(f"/v1/{path}", data=form) as answer,
    ):
        assert answer.status == 200, await answer.text()
        body: dict[str, Any] = await answer.json()
        return body


@pytest.mark.parametrize(
    ("words", "changed", "said"),
    [
        (["catalog", "check", "--catalog", CATALOG, "--bogus"], {}, "--bogus"),
        (["catalog"], {}, "STEP"),
        (["catalog", "check"], {}, "--catalog"),
        (["catalog", "check", "--catalog", "/nowhere.toml"], {}, "cannot be read"),
        (["catalog", "check", "--catalog", "Makefile"], {}, "not TOML"),
        (
            ["catalog", "check", "--catalog", CATALOG],
            {"BILLING_STRIPE_API_KEY": ""},
            "BILLING_STRIPE_API_KEY: is not set",
        ),
        (["catalog", "check", "--catalog", CATALOG], {"BILLING_STRIPE_API_KEY": "sk_test_wrong_key"}, "permission"),
        (["catalog", "check", "--catalog", CATALOG], {"BILLING_STRIPE_API_BASE": NOWHERE}, "goes on where it was"),
        (["catalog", "impact", "--catalog", CATALOG], {}, "BILLING_DATABASE_URL: is not set"),
        (
            ["catalog", "impact", "--catalog", CATALOG],
            {"BILLING_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/x"},
            "broken off",
        ),
        (["webhook-endpoint", "check", "--url", "billing.example.com"], {}, "must be a URL"),
        (["webhook-endpoint", "create", "--url", URL, "--yes"], {}, "--secret-file: is needed"),
        (
            ["webhook-endpoint", "check", "--url", "http://127.0.0.1/"],
            {"BILLING_STRIPE_API_KEY": "sk_live_not_one", "BILLING_STRIPE_API_BASE": "https://127.0.0.1:9"},
            "must begin with https://",
        ),
    ],
)
async def test_what_stands_in_the_way_is_a_failure_and_never_a_difference(
    variables: Mapping[str, str], words: list[str], changed: dict[str, str], said: str
) -> None:
    """A pipeline must not take a wrong argument for a difference; and no value that might be a secret is repeated."""
    code, out, errors = await run({**variables, **changed}, *words)
    assert (code, out) == (1, ""), errors
    assert said in errors
    assert "Traceback" not in errors
    assert "sk_" not in errors.replace("(sk_..., rk_...)", "")


async def test_nothing_is_done_without_consent(variables: Mapping[str, str], tmp_path: Path) -> None:
    """Where nobody can be asked, and where somebody says no."""
    code, out, said = await run(variables, "catalog", "apply", "--catalog", CATALOG)
    assert (code, "--yes" in said, "create_product" in out) == (2, True, True)
    for answer, expected in (("no", 2), ("", 2), ("yes", 0)):
        assert await listed(variables, "products") == []
        code, shown = await at_terminal(variables, answer, "catalog", "apply", "--catalog", CATALOG)
        assert (code, "9 actions at Stripe, in test mode?" in shown) == (expected, True), shown
    assert len(await listed(variables, "products")) == 3
    file = tmp_path / "secret"
    words = ("webhook-endpoint", "create", "--url", URL, "--secret-file", str(file))
    assert (await run(variables, *words))[0] == 2
    assert (await listed(variables, "webhook_endpoints"), file.exists()) == ([], False)


async def at_terminal(variables: Mapping[str, str], answer: str, *words: str) -> tuple[int, str]:
    """Run a command for somebody at a terminal, who answers what is asked; give the exit code and all that is shown."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "billing_service", *words),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=variables,
        cwd=ROOT,
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    shown = await asyncio.to_thread(_read_all, ours)
    os.close(ours)
    return await process.wait(), shown


def _read_all(descriptor: int) -> str:
    read = b""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # how Linux says that nobody holds the other end any more
            return read.decode()
        if not piece:
            return read.decode()
        read += piece


async def test_the_impact_is_told_in_counts_and_by_example(database_url: str, tmp_path: Path) -> None:
    """0 where nothing changes, 2 where something does; losses alone where only these are asked for."""
    await shop(database_url, "ann", "ben")
    variables = environment(NOWHERE, database_url)
    with_more, with_less = tmp_path / "more.toml", tmp_path / "less.toml"
    text = TEXT
    with_more.write_text(text.replace("projects = 50", "projects = 60"))
    with_less.write_text(text.replace("projects = 50", "projects = 40"))
    codes, out = {}, ""
    for file in (Path(CATALOG), with_more, with_less):
        for fail_on in ("any", "loss"):
            words = ("catalog", "impact", "--catalog", str(file), "--fail-on", fail_on, "--json")
            codes[file.stem, fail_on], out, _ = await run(variables, *words)
    assert list(codes.values()) == [0, 0, 2, 0, 2, 2]
    assert json.loads(out)["features"] == [
        {
            "feature_key": "projects",
            "direction": "loss",
            "customers": 2,
            "examples": [
                {"customer_id": "ann", "before": 50, "after": 40},
                {"customer_id": "ben", "before": 50, "after": 40},
            ],
        }
    ]
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM catalog_versions").fetchone() == (1,)


async def test_the_secret_is_told_once_to_its_owner_alone(variables: Mapping[str, str], tmp_path: Path) -> None:
    """In a file that only its owner may read, never on the way of logs; a second run makes no second endpoint."""
    file = tmp_path / "gateway_webhook_secrets"
    words = ("webhook-endpoint", "create", "--url", URL, "--secret-file", str(file), "--yes", "--json")
    code, out, said = await run(variables, *words)
    assert (code, json.loads(out)["problems"], json.loads(out)["made_by_this_program"]) == (0, [], True), said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    name, _, secret = file.read_text().strip().partition("=")
    assert (name, secret.startswith("whsec_")) == ("stripe", True)
    assert "whsec_" not in out + said
    before = file.read_text()
    code, out, said = await run(variables, *words)
    assert (code, file.read_text(), len(await listed(variables, "webhook_endpoints"))) == (0, before, 1)
    assert "whsec_" not in out + said


async def test_a_file_that_is_there_is_not_written_over_and_none_is_left_where_stripe_refuses(
    variables: Mapping[str, str], tmp_path: Path
) -> None:
    """The file is taken before there is a secret that could be lost."""
    file = tmp_path / "secret"
    file.write_text("precious")
    words = ("webhook-endpoint", "create", "--url", URL, "--yes", "--secret-file")
    code, _, said = await run(variables, *words, str(file))
    assert (code, file.read_text(), "is there already" in said) == (1, "precious", True)
    assert await listed(variables, "webhook_endpoints") == []
    for number in range(16):
        await post(variables, "webhook_endpoints", **{"url": f"https://{number}.example", "enabled_events[]": "*"})
    other = tmp_path / "other"
    code, _, said = await run(variables, *words, str(other))
    assert (code, other.exists(), "maximum of 16" in said) == (1, False, True)


async def test_at_a_terminal_the_secret_is_shown(variables: Mapping[str, str]) -> None:
    code, shown = await at_terminal(variables, "yes", "webhook-endpoint", "create", "--url", URL)
    assert (code, shown.count("whsec_")) == (0, 1)


async def test_an_endpoint_of_ours_is_mended_and_another_is_left_alone(
    variables: Mapping[str, str], tmp_path: Path
) -> None:
    words = ("webhook-endpoint", "create", "--url", URL, "--secret-file", str(tmp_path / "s"), "--yes")
    await run(variables, *words)
    (made,) = await listed(variables, "webhook_endpoints")
    path = f"webhook_endpoints/{made['id']}"
    for _ in range(2):  # the same twice: Stripe must not be repeating its first answer
        await post(variables, path, **{"enabled_events[0]": "invoice.created", "disabled": "true"})
        code, out, _ = await run(variables, "webhook-endpoint", "check", "--url", URL)
        assert (code, out.count("!")) == (2, 3)
        assert (await run(variables, *words))[0] == 0
        (mended,) = await listed(variables, "webhook_endpoints")
        assert (set(mended["enabled_events"]), mended["status"]) == (set(made["enabled_events"]), "enabled")
    await post(variables, path, **{"metadata[billing_deployment]": "another", "disabled": "true"})
    assert (await run(variables, *words))[0] == 2
    assert (await listed(variables, "webhook_endpoints"))[0]["status"] == "disabled"


async def test_what_stripe_sends_to_the_new_endpoint_is_signed_with_the_secret_in_the_file(
    variables: Mapping[str, str], tmp_path: Path
) -> None:
    """From the command to a delivery: the type is one of those asked for, and the gateway could verify it."""
    arrived: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await arrived.put((await request.read(), request.headers["Stripe-Signature"]))
        return web.Response()

    app = web.Application()
    app.router.add_post("/webhooks/stripe", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url, file = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/stripe", tmp_path / "secret"
    await run(variables, "webhook-endpoint", "create", "--url", url, "--secret-file", str(file), "--yes")
    customer = await post(variables, "customers", name="Ann")  # customer.created is not asked for
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(variables["BILLING_STRIPE_API_BASE"], headers=headers) as session:
        await session.delete(f"/v1/customers/{customer['id']}")
    async with asyncio.timeout(30):
        body, signature = await arrived.get()
    await runner.cleanup()
    secret = file.read_text().strip().removeprefix("stripe=")
    assert stripe.WebhookSignature.verify_header(body, signature, secret, tolerance=300)
    assert json.loads(body)["type"] == "customer.deleted"
