"""The forms of the account page: change, cancel or keep a subscription, and the way to the portal."""

from __future__ import annotations

from aiohttp import web

from sandbox.storefront import words
from sandbox.storefront.billing import BillingError, Change
from sandbox.storefront.pages import BILLING, SETTINGS, VISITOR, account_page


async def manage_subscription(request: web.Request) -> web.Response:
    """POST /account/subscription: do what the pressed button says, and show the account with what came of it."""
    form = {name: value.strip() for name, value in (await request.post()).items() if isinstance(value, str)}
    change = Change(form.get("request_id", ""), request[VISITOR].customer_id, form.get("subscription_id", ""))
    try:
        done = await _do(request, change, form)
    except BillingError as error:
        return await account_page(request, words.notice_of_error(error), status=words.http_status(error))
    raise web.HTTPSeeOther(f"/account?done={done}")


async def _do(request: web.Request, change: Change, form: dict[str, str]) -> str:
    billing = request.app[BILLING]
    match form.get("action"):
        case "cancel":
            await billing.cancel(change)
        case "resume":
            await billing.resume(change)
        case ("change-now" | "change-later") as action:
            plan_key, _, price_key = form.get("price", "").partition("/")
            quantity = form.get("quantity", "")
            if quantity and not (quantity.isdecimal() and len(quantity) < 8):
                raise BillingError.invalid_fields()
            now = action == "change-now"
            await billing.update(
                change, plan_key or None, price_key or None, int(quantity) if quantity else None, now=now
            )
        case _:
            raise BillingError.invalid_fields()
    return form["action"]


async def portal(request: web.Request) -> web.Response:
    """POST /account/portal: send the visitor to Stripe's page for payment methods and invoices."""
    try:
        url = await request.app[BILLING].portal(request[VISITOR].customer_id, f"{request.app[SETTINGS].url}/account")
    except BillingError as error:
        return await account_page(request, words.notice_of_error(error), status=words.http_status(error))
    raise web.HTTPSeeOther(url)
