"""The example of docs/reading.md, run as it is printed but for the customer and the address."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from billing.v1 import entitlement_pb2

from tests.acceptance.world import ROOT, World

PAGE = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")


async def test_the_example_of_the_page_runs_as_it_is_printed(world: World, customer_id: str) -> None:
    session = await world.checkout(customer_id)
    await world.control("webhooks", paused=True)
    try:
        await world.pay(session)
        blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        first, second = blocks
        # The second block goes on inside the first one's client; the purchase is asked for first.
        opening, _, rest = first.partition("    check =")
        code = opening + second + "    check =" + rest
        code = code.replace("127.0.0.1:50051", world.addresses["grpc"]).replace('"ann"', repr(customer_id))
        code = code.replace('Path(".sandbox/grpc_token").read_text()', repr(world.addresses["grpc_token"]))
        values: dict[str, Any] = {"session_id": session.checkout_session_id}
        exec(f"async def example():\n{textwrap.indent(code, '    ')}\n    return locals()", values)  # noqa: S102 - our own page
        found = await values["example"]()
    finally:
        await world.control("webhooks", paused=False)
    assert found["answer"].checkout_outcome == entitlement_pb2.CHECKOUT_OUTCOME_ENTITLED
    assert found["check"].allowed
    assert found["limits"] == {"projects": 50, "seats": 1}
