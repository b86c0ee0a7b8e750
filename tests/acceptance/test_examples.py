"""The pages' examples with the Python client run as they stand, against the running service."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
from billing.v1 import entitlement_pb2

from tests.acceptance.world import ROOT, World

CLIENT, READING, WATCHING = "clients/python/README.md", "docs/reading.md", "docs/watching.md"
LIMIT_S = 60
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = re.compile(r"[\w.]+:50051")


def code_of(page: Path) -> str:
    """Give a page's Python; a block that is indented goes on where the one before it was."""
    return "".join(_BLOCK.findall(page.read_text(encoding="utf-8")))


class Here(ast.NodeTransformer):
    """Puts the test's own service, customer and request id in the place of the page's, and changes nothing else."""

    def __init__(self, world: World, customer_id: str, token_file: Path) -> None:
        self._address = world.addresses["grpc"]
        self._own = {
            "ann": customer_id,
            "9b2d...": str(uuid.uuid4()),
            "...": world.addresses["grpc_token"],
            ".sandbox/grpc_token": str(token_file),
        }

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Replace what is the page's own."""
        if not isinstance(node.value, str):
            return node
        own = self._address if _ADDRESS.fullmatch(node.value) else self._own.get(node.value, node.value)
        return ast.copy_location(ast.Constant(own), node)


async def run(page: str, world: World, customer_id: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run a page's example; give the names that it has made."""
    with NamedTemporaryFile("w") as token_file:
        token_file.write(world.addresses["grpc_token"])
        token_file.flush()
        return await _run(Here(world, customer_id, Path(token_file.name)), page, given)


async def _run(here: Here, page: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
    tree = here.visit(ast.parse(code_of(ROOT / page)))
    names: dict[str, Any] = dict(given or {})
    code = compile(tree, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with asyncio.timeout(LIMIT_S):
        running = eval(code, names)  # noqa: S307 - our own page
        assert inspect.isawaitable(running), "the example waits for nothing"
        await running
    return names


def test_every_page_with_the_client_is_run_here() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("clients/python/*.md")]
    assert {str(page.relative_to(ROOT)) for page in pages if "billing_client" in code_of(page)} == {
        CLIENT,
        READING,
        WATCHING,
    }


async def test_the_clients_own_page_makes_a_page_to_pay_on(world: World, customer_id: str) -> None:
    made = await run(CLIENT, world, customer_id)
    assert made["answer"].customer_id == customer_id
    assert made["made"].checkout_session.url.startswith("http")


async def test_the_clients_own_page_knows_who_has_bought_already(world: World, customer_id: str) -> None:
    """The example's second branch: the refusal that it catches."""
    await world.pay(await world.checkout(customer_id))
    await world.until_plan(customer_id, "pro")
    assert "made" not in await run(CLIENT, world, customer_id)


async def test_the_page_about_reading_waits_for_a_purchase(world: World, customer_id: str) -> None:
    """Asked in the moment after the payment, by the id that the browser came back with, whether its webhook was there or not."""
    session = await world.checkout(customer_id)
    await world.pay(session)
    made = await run(READING, world, customer_id, {"session_id": session.checkout_session_id})
    assert made["answer"].checkout_outcome == entitlement_pb2.CHECKOUT_OUTCOME_ENTITLED
    assert list(made["answer"].plan_keys) == ["pro"]


async def test_the_page_about_reading_says_what_to_buy_and_that_nothing_was_paid(
    world: World, customer_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    session = await world.checkout(customer_id)
    made = await run(READING, world, customer_id, {"session_id": session.checkout_session_id})
    assert "You could buy: pro" in capsys.readouterr().out
    assert made["limits"] == {"projects": 3, "seats": 1}
    assert made["answer"].checkout_outcome == entitlement_pb2.CHECKOUT_OUTCOME_STILL_OPEN


async def test_the_page_about_watching_checks_without_a_call(
    world: World, customer_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.pay(await world.checkout(customer_id))
    await world.until_plan(customer_id, "pro")
    made = await run(WATCHING, world, customer_id)
    assert (made["check"].allowed, made["check"].value, made["check"].fell_back) == (True, 50, False)
    assert capsys.readouterr().out.startswith("True 50 ")
