"""What may not be overheard is found wherever the programs under test say it, and shown masked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.overheard.search import Finding, masked_of, search

ROOT = Path(__file__).parents[2]
# Put together here, so that none of it stands in any log of this test.
ADDRESS = "ann@" + "shop.example"
KEY = "sk_" + "test_4eC39HqLyjWDarjtT1zdp7dc"
CARD = "4242" * 4
TOKEN = "the-token-" + "of-this-test"

PLANTED = {
    "by a program within a test": f"""
import structlog
def test_it():
    structlog.get_logger().info("sent", to={ADDRESS!r})
""",
    "by a program that a test starts": f"""
import subprocess, sys
def test_it():
    subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write({KEY!r})"], env={{}}, capture_output=True, check=True)
""",
    "in the error of a call": f"""
import grpc
async def test_it():
    async def fail(request, context):
        await context.abort(grpc.StatusCode.INTERNAL, "card " + {CARD!r})
    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("s", {{"m": grpc.unary_unary_rpc_method_handler(fail)}})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        try:
            await channel.unary_unary("/s/m")(b"")
        except grpc.aio.AioRpcError:
            pass
    await server.stop(0)
""",
    "in the error of a call without asyncio": f"""
import grpc
from concurrent.futures import ThreadPoolExecutor
def test_it():
    def fail(request, context):
        context.abort(grpc.StatusCode.INTERNAL, "to " + {ADDRESS!r})
    def fail_later(request, context):
        yield b""
        fail(request, context)
    server = grpc.server(ThreadPoolExecutor(2))
    methods = {{"m": grpc.unary_unary_rpc_method_handler(fail), "w": grpc.unary_stream_rpc_method_handler(fail_later)}}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{{port}}") as channel:
        for call in (lambda: channel.unary_unary("/s/m")(b""), lambda: list(channel.unary_stream("/s/w")(b""))):
            try:
                call()
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.INTERNAL
    server.stop(0).wait()
""",
    "on a page of numbers": f"""
import aiohttp
from aiohttp import web
from pydantic import SecretStr
async def test_it():
    SecretStr({TOKEN!r})
    app = web.Application()
    async def page(request):
        return web.Response(text="billing_calls{{by=\\"" + {TOKEN!r} + "\\"}} 1")
    app.router.add_get("/metrics", page)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    async with aiohttp.ClientSession() as http, http.get(f"http://{{host}}:{{port}}/metrics") as answer:
        await answer.text()
    await runner.cleanup()
""",
}


def run(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run one test in a pytest of its own, with the suite's own listening."""
    (folder / "conftest.py").write_text(
        "from tests.overheard.plugin import (\n"
        "    pytest_configure, pytest_runtest_logreport, pytest_sessionfinish, pytest_terminal_summary)\n"
    )
    (folder / "test_planted.py").write_text(test)
    command = (sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*command, *options, str(folder)],
        cwd=ROOT, env=environment | {"TMPDIR": str(folder)}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_a_run_fails_where_something_is_overheard_and_names_the_file_without_the_words(tmp_path: Path) -> None:
    """Each of what is planted passes its own test, in a worker; the run fails for all of them."""
    tests = (text.replace("test_it", f"test_{number}") for number, text in enumerate(PLANTED.values()))
    done = run(tmp_path, "".join(tests), "-n", "1")
    assert f"{len(PLANTED)} passed" in done.stdout, done.stdout + done.stderr
    lines = len(PLANTED) + 1  # a call and a stream without asyncio
    assert (done.returncode, f"{lines} lines that nobody may overhear" in done.stdout) == (1, True), done.stdout
    for file in ("captured-", "-c", "grpc-errors-", "pages-"):
        assert f"\n{file}" in done.stdout
    assert not any(planted in done.stdout for planted in (ADDRESS, KEY, CARD, TOKEN))


def test_a_run_in_which_nothing_is_overheard_passes_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, "def test_it():\n    print('nothing')\n")
    assert (done.returncode, list(tmp_path.glob("billing-overheard-*"))) == (0, []), done.stdout + done.stderr


SAYS_IT = "import sys; sys.stderr.write(open(sys.argv[1]).read())"
REPLACES_AND_SAYS_IT = f"import sys; open(sys.argv[1], 'w').write('other-' + {TOKEN!r}); {SAYS_IT}"


SAYS_TOKEN = f"import sys; sys.stderr.write({TOKEN!r})"
URL = f"postgresql://billing:{TOKEN}" + "@127.0.0.1/billing"


@pytest.mark.parametrize(
    ("variable", "named", "holds", "program"),
    [
        ("BILLING_ADMIN_TOKEN_FILE", "token", f"{TOKEN}\n", SAYS_IT),
        ("BILLING_ADMIN_TOKEN_FILE", "token", "before", REPLACES_AND_SAYS_IT),
        ("BILLING_ACCESS_FILE", "callers", f"token shop caller sha256:{'0a' * 32}", SAYS_IT),
        ("GATEWAY_SECRETS_DIR", "gateway_internal_token", f"{TOKEN},another", SAYS_IT),
        ("BILLING_SECRETS_DIR", "billing_read_database_url", URL, SAYS_TOKEN),
        ("BILLING_READ_DATABASE_URL", None, URL, SAYS_TOKEN),
    ],
)
def test_what_a_program_was_given_is_known_whatever_it_looks_like_and_in_whichever_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, named: str | None, holds: str, program: str
) -> None:
    """Also what was put in its place while the program ran."""
    heard, given = tmp_path / "heard", tmp_path / "given"
    heard.mkdir()
    given.mkdir()
    file = given / (named or "unused")
    file.write_text(holds)
    value = holds if named is None else str(given if variable.endswith("_DIR") else file)
    monkeypatch.setenv("OVERHEARD_FOLDER", str(heard))  # or it would be heard by the run of this test itself
    command = [sys.executable, "-c", program, str(file)]
    subprocess.run(command, env={variable: value}, capture_output=True, check=True, timeout=60)
    assert [found.kind for found in search(heard)] == ["a secret of the tests"]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (f"key {KEY}", "a Stripe key"),
        ("rk_" + "live_abc", "a Stripe key"),
        ("secret whsec" + "_abc", "a webhook secret"),
        ("authorization: " + "Bearer abcdefgh1", "a bearer token"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "a private key"),
        ("postgresql://billing:" + "pa55@127.0.0.1/billing", "a password in a URL"),
        (f"to {ADDRESS}", "an e-mail address"),
        (f"card {CARD}", "a card number"),
        ("card 4000 0566" + " 5566 5556", "a card number"),
        ("card 3782-822463" + "-10005", "a card number"),
        (TOKEN, "a secret of the tests"),
    ],
)
def test_each_kind_is_found_and_masked(line: str, kind: str) -> None:
    kinds, masked = masked_of(f"before {line} after", [TOKEN])
    assert kinds == [kind]
    assert line.rsplit(maxsplit=1)[-1] not in masked


@pytest.mark.parametrize(
    "line",
    [
        "The endpoint's signing secret (whsec_...) is not the one of this URL",
        '{"trace_id": "42424242424242424242424242424242", "span_id": "4242424242424242"}',
        "billing_events_total 1.7644246561230e+09",
        "4242424242424243 is no card, its last digit is another",
        "took 1790000000000000000 ns, at 1790000000123 ms",
        "evt_4242424242424242 of cus_4242424242424242",
        "grpcio 1.85.0 @ 127.0.0.1:50051, a@b",
    ],
)
def test_what_only_looks_like_it_is_left_alone(line: str) -> None:
    assert masked_of(line, [TOKEN])[0] == []


def test_a_finding_names_the_file_the_line_and_the_test(tmp_path: Path) -> None:
    (tmp_path / "captured-1.log").write_text(f">>> tests/a.py::test_a Captured stdout call\nfine\nto {ADDRESS}\n")
    (found,) = search(tmp_path)
    assert found == Finding(
        "captured-1.log", 3, "an e-mail address", "to <an e-mail address>", "tests/a.py::test_a Captured stdout call"
    )
