"""The hosted checkout page: what a customer sees at a session's `url`, and the buttons that pay."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from sandbox.stripe import checkout_sessions, purchase
from sandbox.stripe.account import Account
from sandbox.stripe.deliveries import Deliveries
from sandbox.stripe.errors import ApiError
from sandbox.stripe.intervals import every
from sandbox.stripe.money import shown_amount
from sandbox.stripe.objects import Kind, Object

SESSION_ID_PLACE = "{CHECKOUT_SESSION_ID}"

# The page's buttons, and what comes of them.
_BUTTONS = {
    "pay": purchase.Outcome.PAID,
    "bank_debit": purchase.Outcome.PROCESSING,
    "decline": purchase.Outcome.DECLINED,
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


class HostedPage:
    """Serves /pay/{session id}."""

    def __init__(self, account: Account, deliveries: Deliveries) -> None:
        """Take the account, and the deliveries whose answers a redirect waits for."""
        self._account = account
        self._deliveries = deliveries
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def routes(self) -> Iterable[web.RouteDef]:
        """Give the server the page's routes."""
        yield web.get("/pay/{id}", self._show)
        yield web.post("/pay/{id}", self._pay)

    async def _show(self, request: web.Request) -> web.Response:
        session = self._find(request)
        if session is None or session["status"] != "open":
            return self._closed(session)
        return self._open(session, declined="declined" in request.query)

    async def _pay(self, request: web.Request) -> web.Response:
        outcome = _BUTTONS.get(str((await request.post()).get("action", "")))
        session = self._find(request)
        if session is None or session["status"] != "open":
            return self._closed(session)
        if outcome is None:
            return self._open(session, declined=False, status=400)
        try:
            completed = purchase.complete(self._account, session, outcome)
        except ApiError as error:  # the customer was deleted while the page was open
            return self._message("This checkout cannot be paid", str(error), session, status=409)
        finally:
            self._account.store.commit()
        if completed is None:
            raise web.HTTPSeeOther(f"/pay/{session['id']}?declined=1")
        # As at Stripe, the customer goes back once the merchant has answered the event, or after ten seconds.
        await self._deliveries.answered(completed["id"])
        raise web.HTTPSeeOther(session["success_url"].replace(SESSION_ID_PLACE, session["id"]))

    def _find(self, request: web.Request) -> Object | None:
        try:
            return checkout_sessions.find(self._account, request.match_info["id"])
        except ApiError:
            return None
        finally:
            self._account.store.commit()  # looking may have expired it

    def _open(self, session: Object, *, declined: bool, status: int = 200) -> web.Response:
        return self._rendered(
            "checkout.html",
            status,
            declined=declined,
            email=(session["customer_details"] or {}).get("email"),
            items=[self._item(item) for item in session["_line_items"]],
            total=shown_amount(session["amount_total"], session["currency"]),
            free=session["payment_status"] == "no_payment_required",
            trial_days=session["_subscription_data"].get("trial_period_days", 0),
            subscription=session["mode"] == "subscription",
            cancel_url=session["cancel_url"],
        )

    def _item(self, item: Object) -> dict[str, Any]:
        price = item["price"]
        product = self._account.store.get(Kind.PRODUCT, price["product"]) or {}
        return {
            "name": item["description"],
            "description": product.get("description"),
            "quantity": item["quantity"],
            "unit": shown_amount(price["unit_amount"], price["currency"]),
            "amount": shown_amount(item["amount_total"], item["currency"]),
            "every": every(price["recurring"]),
        }

    def _closed(self, session: Object | None) -> web.Response:
        if session is None:
            text = "No checkout session has this address. Go back to the shop and begin again."
            return self._message("Checkout not found", text, None, status=404)
        if session["status"] == "complete":
            text = "This checkout is complete. You can close this page, or go back to the shop to see what you have."
            return self._message("Already done", text, session, status=200)
        text = "This checkout has expired and nothing was charged. Go back to the shop and begin again."
        return self._message("This checkout has expired", text, session, status=410)

    def _message(self, title: str, text: str, session: Object | None, *, status: int) -> web.Response:
        return self._rendered(
            "closed.html", status, title=title, text=text, cancel_url=session["cancel_url"] if session else None
        )

    def _rendered(self, template: str, status: int, **values: Any) -> web.Response:
        html = self._templates.get_template(template).render(**values)
        return web.Response(text=html, content_type="text/html", status=status, headers=PAGE_HEADERS)
