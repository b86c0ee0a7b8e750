"""The customer portal's page: what a person sees at a portal session's `url`, and the buttons that change things."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from sandbox.stripe import prorations, subscription_schedules
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError
from sandbox.stripe.hosted_page import PAGE_HEADERS
from sandbox.stripe.identifiers import random_text
from sandbox.stripe.intervals import every
from sandbox.stripe.money import shown_amount
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.subscription_endpoints import updated_items
from sandbox.stripe.subscriptions import ENDED, cancellation

LIFE_S = 3600  # a page that nobody uses any more


class PortalPage:
    """Serves /portal/{secret}."""

    def __init__(self, account: Account) -> None:
        """Take the account."""
        self._account = account
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=select_autoescape(),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

    def routes(self) -> Iterable[web.RouteDef]:
        """Give the server the page's routes."""
        yield web.get("/portal/{secret}", self._show)
        yield web.post("/portal/{secret}", self._act)

    async def _show(self, request: web.Request) -> web.Response:
        session = self._find(request)
        return self._gone() if session is None else self._page(session)

    async def _act(self, request: web.Request) -> web.Response:
        session = self._find(request)
        if session is None:
            return self._gone()
        form = await request.post()
        subscription = self._own(session, str(form.get("subscription", "")))
        if subscription is None:
            return self._page(session, problem="There is no such subscription.", status=400)
        try:
            with self._account.acting_for(f"req_{random_text(14)}", None):
                self._do(session, subscription, str(form.get("action", "")), str(form.get("price", "")))
        except ApiError as error:
            return self._page(session, problem=str(error), status=400)
        finally:
            self._account.store.commit()
        raise web.HTTPSeeOther(request.path)

    def _find(self, request: web.Request) -> Object | None:
        secret, oldest = request.match_info["secret"], self._account.time() - LIFE_S
        sessions = self._account.store.newest_first(Kind.PORTAL_SESSION)
        return next((one for one in sessions if one["_secret"] == secret and one["created"] >= oldest), None)

    def _features(self, session: Object) -> Object:
        features: Object = self._account.find(Kind.PORTAL_CONFIGURATION, session["configuration"])["features"]
        return features

    def _subscriptions(self, session: Object) -> list[Object]:
        found = self._account.store.newest_first(Kind.SUBSCRIPTION)
        return [one for one in found if one["customer"] == session["customer"] and one["status"] not in ENDED]

    def _own(self, session: Object, subscription_id: str) -> Object | None:
        return next((one for one in self._subscriptions(session) if one["id"] == subscription_id), None)

    def _do(self, session: Object, subscription: Object, action: str, price_id: str) -> None:
        """Do what a button says. Raises ApiError for what the configuration does not allow."""
        features, account = self._features(session), self._account
        match action:
            case "cancel" if features["subscription_cancel"]["enabled"]:
                subscription_schedules.require_free(subscription, {"cancel_at": 0})
                # As the portal does under flexible billing: `cancel_at` alone says it.
                changes = cancellation(account, subscription, wanted=True) | {"cancel_at_period_end": False}
            case "resume" if features["subscription_cancel"]["enabled"]:
                changes = cancellation(account, subscription, wanted=False)
            case "switch" if price_id in _prices(features):
                item = self._switched_item(features, subscription)
                items = updated_items(account, subscription, [{"id": item["id"], "price": price_id}])
                changes = {"items": items, **prorations.charge(account, subscription, items["data"])}
            case _:
                raise ApiError("This page does not offer that.")
        account.change(subscription, changes, event="customer.subscription.updated")

    def _switched_item(self, features: Object, subscription: Object) -> Object:
        """Find the item of a product that may be changed."""
        products = {product["product"] for product in features["subscription_update"]["products"]}
        items: list[Object] = subscription["items"]["data"]
        found = next((item for item in items if item["price"]["product"] in products), None)
        if found is None:
            raise ApiError("This subscription cannot be changed here.")
        return found

    def _page(self, session: Object, *, problem: str | None = None, status: int = 200) -> web.Response:
        features = self._features(session)
        chosen = _chosen(session)
        shown = [one for one in self._subscriptions(session) if chosen in {None, one["id"]}]
        return self._rendered(
            "portal.html",
            status,
            problem=problem,
            flow=session["flow"]["type"] if session["flow"] else None,
            subscriptions=[self._subscription(one, features) for one in shown],
            can_cancel=features["subscription_cancel"]["enabled"],
            can_pay=features["payment_method_update"]["enabled"],
            return_url=session["return_url"],
        )

    def _subscription(self, subscription: Object, features: Object) -> dict[str, Any]:
        items = subscription["items"]["data"]
        held = {item["price"]["id"] for item in items}
        return {
            "id": subscription["id"],
            "status": subscription["status"].replace("_", " "),
            "items": [{**self._price(item["price"]), "quantity": item["quantity"]} for item in items],
            "ends": subscription["cancel_at"] is not None or subscription["cancel_at_period_end"],
            "date": _date(subscription["cancel_at"] or min(item["current_period_end"] for item in items)),
            "choices": [
                {"id": price_id, **self._price(self._account.find(Kind.PRICE, price_id))}
                for price_id in _prices(features)
                if price_id not in held
            ],
        }

    def _price(self, price: Object) -> dict[str, Any]:
        product = self._account.store.get(Kind.PRODUCT, price["product"]) or {}
        amount = shown_amount(price["unit_amount"], price["currency"])
        return {"name": product.get("name", price["id"]), "amount": amount, "every": every(price["recurring"])}

    def _gone(self) -> web.Response:
        text = "This page is no longer valid. Go back to the shop and open it again."
        return self._rendered("closed.html", 404, title="Page not found", text=text, cancel_url=None)

    def _rendered(self, template: str, status: int, **values: Any) -> web.Response:
        html = self._templates.get_template(template).render(**values)
        return web.Response(text=html, content_type="text/html", status=status, headers=PAGE_HEADERS)


def _prices(features: Object) -> list[str]:
    update = features["subscription_update"]
    return [price for product in update["products"] for price in product["prices"]] if update["enabled"] else []


def _chosen(session: Object) -> str | None:
    flow = session["flow"] or {}
    details = flow.get(flow.get("type", "")) or {}
    subscription: str | None = details.get("subscription")
    return subscription


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%d %B %Y}"
