"""A person with a browser: pricing page, checkout, account; on a desktop and on a phone.

Every page is seen to fit both. What a person does with most of the buttons is done on both; the rest, whose answers do not hang on the
screen, on a desktop alone.

Set SCREENSHOTS to a folder to keep a picture of every page that is visited.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import aiohttp
import grpc
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, Response, async_playwright, expect

from sandbox.channel import credentials
from tests.acceptance.world import Sandbox, World, eventually

_CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
_FLAGS = [
    "--no-sandbox",  # tests may run as root, where Chromium's own sandbox does not start
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
_numbers = count(1)
_on_both = pytest.mark.parametrize("person", _SIZES, indirect=True)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium on the PATH; install it with `apt-get install chromium`"),
]


class Person:
    """Somebody at a browser, signed in to the storefront as a customer of their own."""

    def __init__(self, page: Page, shop: str, size: str) -> None:
        self.page = page
        self.shop = shop
        self._size = size

    async def sign_in(self, customer_id: str) -> None:
        """Become a customer by the demo's sign-in."""
        await self.page.goto(f"{self.shop}/sign-in")
        await self.page.get_by_label("Somebody else").fill(customer_id)
        await self.look("sign-in")
        await self.page.get_by_role("button", name="Sign in").click()
        await expect(self.page.get_by_role("heading", name="Plans that grow with your work")).to_be_visible()

    async def look(self, name: str) -> None:
        """See that the page fits the width of each screen, the person's own last; keep pictures where somebody wants them."""
        for size in sorted(_SIZES, key=lambda size: size == self._size):
            await self._turn_to(size)
            assert await self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
                f"{name} is wider than the screen of a {size}"
            )
            if folder := os.environ.get("SCREENSHOTS"):
                await self.page.screenshot(path=Path(folder) / f"{name}-{size}.png", full_page=True)

    async def _turn_to(self, size: str) -> None:
        width, height = _SIZES[size]
        await self.page.set_viewport_size({"width": width, "height": height})

    async def upgrade(self) -> None:
        """Press the upgrade button of the pricing page, and arrive at the checkout."""
        await self.page.goto(self.shop)
        await self.look("pricing")
        await self.page.get_by_role("button", name="Upgrade to Pro").click()
        await expect(self.page.get_by_role("heading", name="Subscribe to Pro")).to_be_visible()
        await self.look("checkout")

    async def press(self, button: str) -> None:
        """Press a button whose name begins so."""
        await self.page.get_by_role("button", name=re.compile(f"^{button}")).click()

    async def expect_notice(self, title: str) -> None:
        """Wait until the notice on top of the page says so; a page that looks again by itself may take a while."""
        await expect(self.page.locator(".notice strong")).to_have_text(title, timeout=30_000)

    async def expect_plan(self, name: str) -> None:
        """See that the account is on this plan."""
        await expect(self.page.locator(".current strong")).to_have_text(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(sandbox: Sandbox) -> AsyncIterator[World]:
    """The world around the shared sandbox, on the loop of all these tests."""
    async with (
        grpc.aio.secure_channel(sandbox["grpc"], credentials(sandbox["grpc_token"])) as channel,
        aiohttp.ClientSession() as http,
    ):
        yield World(sandbox.addresses, channel, http)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[BrowserContext]:
    """One browser for all, with its window open: to open one costs it a second of a processor, for what is around the pages."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        context = await started.new_context()
        await context.new_page()
        yield context
        await started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def person(browser: BrowserContext, world: World, request: pytest.FixtureRequest) -> AsyncIterator[Person]:
    """A new customer, signed in, with a desktop or with what the test says; nothing is left of whoever was there before."""
    size = getattr(request, "param", "desktop")
    width, height = _SIZES[size]
    await browser.clear_cookies()
    page = await browser.new_page()
    await page.set_viewport_size({"width": width, "height": height})
    someone = Person(page, world.addresses["storefront"], size)
    await someone.sign_in(f"visitor-{next(_numbers)}")
    yield someone
    await page.close()


@_on_both
async def test_a_person_buys_pro_and_has_it(person: Person) -> None:
    """From the upgrade button over the hosted page back to an account that shows the plan, its features, and until when."""
    await person.upgrade()
    await person.press("Pay €")
    await person.expect_notice("Thank you!")
    await person.expect_plan("Pro")
    await expect(person.page.locator(".facts div", has_text="Projects")).to_contain_text("50")
    await expect(person.page.locator(".sources")).to_contain_text("Active, renews by")
    await person.look("account-pro")
    await person.page.goto(person.shop)
    await expect(person.page.locator(".plan", has_text="For people who ship.")).to_contain_text("Your plan")
    await person.press("Upgrade to Team")
    await person.expect_notice("That did not work")
    await expect(person.page.locator(".notice")).to_contain_text("You already have a plan of this group")
    await person.look("already-subscribed")


@_on_both
async def test_a_person_changes_cancels_keeps_and_manages_what_they_have(person: Person) -> None:
    """All from the account page; a declined card changes nothing and says what to do."""
    await person.upgrade()
    await person.press("Pay €")
    await person.expect_notice("Thank you!")
    await person.page.get_by_role("combobox").select_option(label="Team, €9 per seat and month")
    await person.page.get_by_role("spinbutton").fill("4")
    await person.look("account-manage")
    await person.press("Change now")
    await person.expect_notice("Changed")
    await person.expect_plan("Team")
    await expect(person.page.locator(".facts div", has_text="Seats")).to_contain_text("4")
    await person.press("Cancel when the period ends")
    await person.expect_notice("Cancelled")
    await expect(person.page.locator(".sources")).to_contain_text("Ends on")
    await person.look("account-cancelled")
    await person.press("Keep Team")
    await person.expect_notice("Welcome back")
    await person.press("Change when the period ends")
    await person.expect_notice("That did not work")
    await person.press("Payment and invoices")
    await expect(person.page.get_by_role("heading", name="Your subscriptions")).to_be_visible()
    await person.look("portal")
    await person.page.get_by_role("link", name="Back to the shop").click()
    await person.expect_plan("Team")


async def test_a_person_pays_by_bank_debit(person: Person, world: World) -> None:
    """A delayed payment grants nothing until it has settled; the account says so meanwhile."""
    await person.upgrade()
    await person.press("Pay by bank debit")
    await person.expect_notice("Payment on its way")
    await person.expect_plan("Free")
    await person.look("account-processing")
    session_id = person.page.url.partition("checkout_session_id=")[2].partition("&")[0]
    await world.control(f"checkout/sessions/{session_id}/settle", outcome="succeeded")
    await world.until_delivered()
    await person.page.reload()
    await person.expect_notice("Thank you!")
    await person.expect_plan("Pro")


@contextmanager
def accounts_shown(person: Person) -> Iterator[list[Response]]:
    """Gather every account page that the browser is given."""
    shown: list[Response] = []

    def note(response: Response) -> None:
        if response.request.resource_type == "document" and "/account?" in response.url:
            shown.append(response)

    person.page.on("response", note)
    yield shown
    person.page.remove_listener("response", note)


async def test_the_account_never_shows_the_old_plan_where_the_webhook_comes_five_seconds_late(
    person: Person, world: World
) -> None:
    """Stripe sends the person back at once, and its webhook later: the first page that is shown has what was bought."""
    await person.upgrade()
    await world.control("webhooks", paused=True)
    with accounts_shown(person) as shown:
        late = asyncio.create_task(let_go_later(world))
        await person.press("Pay €")
        await person.expect_notice("Thank you!")
        await person.expect_plan("Pro")
        assert len(shown) == 1
        assert "You are on <strong>Pro</strong>" in await shown[0].text()
        await late
        await world.until_delivered()
        await person.page.reload()
        await person.expect_plan("Pro")


async def let_go_later(world: World) -> None:
    """Have the webhooks be five seconds late."""
    await asyncio.sleep(5)
    await world.control("webhooks", paused=False)


async def test_the_account_never_shows_the_old_plan_where_the_webhook_is_lost(person: Person, world: World) -> None:
    await person.upgrade()
    await world.control("faults", deliveries={"drop": 1})
    try:
        with accounts_shown(person) as shown:
            await person.press("Pay €")
            await person.expect_notice("Thank you!")
            await person.expect_plan("Pro")
        await person.look("account-webhook-lost")
        assert len(shown) == 1
        assert "You are on <strong>Pro</strong>" in await shown[0].text()
    finally:
        await world.control("faults")


async def test_a_person_is_declined_and_then_turns_back(person: Person) -> None:
    """A declined card can be tried again; whoever turns back has bought nothing, and finds the same page again."""
    await person.upgrade()
    first = person.page.url
    await person.press("Decline")
    await expect(person.page.get_by_role("alert")).to_contain_text("declined")
    await person.look("checkout-declined")
    await person.page.get_by_role("link", name="Back").click()
    await person.expect_notice("Nothing was bought")
    await person.look("cancelled")
    await person.page.goto(f"{person.shop}/account")
    await person.expect_plan("Free")
    await person.upgrade()
    assert person.page.url.partition("?")[0] == first.partition("?")[0]


async def test_a_forged_success_url_grants_nothing(person: Person, world: World, customer_id: str) -> None:
    """Neither an invented session, nor somebody else's, nor one's own that was not paid, makes the account more than free."""
    others = await world.checkout(customer_id)
    await world.pay(others)
    await world.until_plan(customer_id, "pro")
    for forged in ("cs_test_invented", others.checkout_session_id, "not an id", "%27%3B--"):
        await person.page.goto(f"{person.shop}/account?checkout_session_id={forged}")
        await person.expect_notice("No such purchase")
        await person.expect_plan("Free")
    await person.look("account-forged")
    await person.upgrade()
    session_id = person.page.url.rpartition("/")[2].partition("?")[0].partition("#")[0]
    await person.page.goto(f"{person.shop}/account?checkout_session_id={session_id}")
    await person.expect_notice("Confirming your payment…")
    await person.expect_plan("Free")
    await person.look("account-confirming")
    # The page that is open looks again by itself, which could cross the next line.
    context = person.page.context
    await person.page.close()
    person.page = await context.new_page()

    async def last_look() -> int:
        await person.page.goto(f"{person.shop}/account?checkout_session_id={session_id}&looks=5")
        return await person.page.get_by_role("link", name="Check again").count()

    # It stops looking by itself. Each look is given a second and a half, which a busy machine may need for other things.
    await eventually(last_look, lambda links: links == 1)
    assert await person.page.locator("meta[http-equiv=refresh]").count() == 0


async def test_a_double_click_is_one_order(person: Person, world: World) -> None:
    """The same form sent twice leads to one page to pay on."""
    await person.page.goto(person.shop)
    form = person.page.locator("form", has=person.page.get_by_role("button", name="Upgrade to Pro"))
    fields: dict[str, str | float | bool] = {
        name: await form.locator(f"[name={name}]").first.input_value()
        for name in ("request_id", "plan_key", "price_key")
    }
    urls = set()
    for _ in range(2):
        answer = await person.page.request.post(
            f"{person.shop}/checkout", form=fields, headers={"Origin": person.shop}, max_redirects=0
        )
        assert answer.status == 303
        urls.add(answer.headers["location"])
    assert len(urls) == 1
    assert urls.pop().startswith(world.addresses["stripe"])
