from __future__ import annotations

import re

import pytest

from tests.integration.sandbox_stripe.conftest import CANCEL_URL, SUCCESS_URL, World


async def _page(world: World, session_id: str) -> tuple[int, str]:
    async with world.http.get(f"{world.url}/pay/{session_id}") as response:
        return response.status, await response.text()


async def _press(world: World, session_id: str, action: str) -> tuple[int, str]:
    url = f"{world.url}/pay/{session_id}"
    async with world.http.post(url, data={"action": action}, allow_redirects=False) as response:
        return response.status, response.headers.get("Location", "")


async def test_the_page_shows_what_is_bought_and_says_that_no_money_moves(world: World) -> None:
    price = await world.price("pro_monthly")
    session = await world.session(line_items=[{"price": price, "quantity": 3}])
    status, html = await _page(world, session.id)
    assert status == 200
    for text in (
        "Pro",
        "For people who ship.",
        "Qty 3 × €12.00",
        "€36.00",
        "ada@example.com",
        "no money moves",
        CANCEL_URL,
    ):
        assert text in html


async def test_the_card_fields_have_no_name_and_stand_outside_the_form(world: World) -> None:
    _, html = await _page(world, (await world.session()).id)
    assert re.findall(r"<input[^>]*\bname=", html) == []
    form = html[html.index("<form") : html.index("</form>")]
    assert "<input" not in form


async def test_paying_sends_the_customer_back_with_the_sessions_id_after_the_webhook_was_answered(world: World) -> None:
    session = await world.session()
    status, location = await _press(world, session.id, "pay")
    assert (status, location) == (303, SUCCESS_URL.replace("{CHECKOUT_SESSION_ID}", session.id))
    assert world.receiver.last("checkout.session.completed")["data"]["object"]["id"] == session.id
    assert (await world.reread(session.id)).payment_status == "paid"


async def test_a_refused_webhook_does_not_hold_the_customer_back(world: World) -> None:
    world.receiver.refuse_next = 1_000
    status, _ = await _press(world, (await world.session()).id, "pay")
    assert status == 303
    world.receiver.refuse_next = 0


async def test_a_bank_debit_goes_back_too_and_is_unpaid(world: World) -> None:
    session = await world.session("pass")
    status, location = await _press(world, session.id, "bank_debit")
    assert (status, location.startswith("https://shop.example/paid")) == (303, True)
    assert (await world.reread(session.id)).payment_status == "unpaid"


async def test_a_declined_card_says_so_and_can_be_tried_again(world: World) -> None:
    session = await world.session()
    status, location = await _press(world, session.id, "decline")
    assert status == 303
    async with world.http.get(f"{world.url}{location}") as response:
        assert "Your card was declined" in await response.text()
    assert (await _press(world, session.id, "pay"))[0] == 303
    assert (await world.reread(session.id)).status == "complete"


async def test_pressing_twice_buys_once(world: World) -> None:
    session = await world.session()
    await _press(world, session.id, "pay")
    assert (await _press(world, session.id, "pay"))[0] == 200
    assert len((await world.client.v1.subscriptions.list_async()).data) == 1


async def test_a_session_that_is_not_open_has_a_page_that_says_why(world: World) -> None:
    assert (await _page(world, "cs_test_none"))[0] == 404
    complete = await world.bought()
    status, html = await _page(world, complete.id)
    assert (status, "Already done" in html) == (200, True)
    session = await world.session()
    world.clock.now += 86_400
    status, html = await _page(world, session.id)
    assert (status, "This checkout has expired" in html, CANCEL_URL in html) == (410, True, True)


@pytest.mark.parametrize("lookup_key", ["pro_monthly", "pass"])
async def test_names_and_addresses_from_outside_are_escaped(world: World, lookup_key: str) -> None:
    price = await world.client.v1.prices.retrieve_async(await world.price(lookup_key))
    await world.client.v1.products.update_async(str(price.product), {"name": '<script>alert("x")</script>'})
    session = await world.session(lookup_key, cancel_url='https://shop.example/"><script>')
    _, html = await _page(world, session.id)
    assert "<script" not in html


async def test_the_page_loads_nothing_from_elsewhere_and_cannot_be_framed(world: World) -> None:
    session = await world.session()
    async with world.http.get(session.url) as response:
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
