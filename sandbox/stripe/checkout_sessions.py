"""Checkout sessions: https://docs.stripe.com/api/checkout/sessions. What a payer does with one: `purchase`."""

from __future__ import annotations

from urllib.parse import urlsplit

import stripe.params.checkout as sdk

from sandbox.stripe import checkout_line_items, customers
from sandbox.stripe.account import Account
from sandbox.stripe.errors import ApiError, missing_param
from sandbox.stripe.identifiers import new_id
from sandbox.stripe.objects import Kind, Object, Params, merged_metadata
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes

LIFE_MIN_S = 30 * 60
LIFE_MAX_S = 24 * 3600
CLIENT_REFERENCE_CHARS = 200

_TEXTS = ("after_submit", "shipping_address", "submit", "terms_of_service_acceptance")

# Fields that are null in an open session, most of them for good.
_EMPTY = (
    "after_expiration",
    "billing_address_collection",
    "client_secret",
    "collected_information",
    "consent",
    "consent_collection",
    "currency_conversion",
    "customer_account",
    "integration_identifier",
    "invoice",
    "invoice_creation",
    "origin_context",
    "payment_intent",
    "payment_link",
    "payment_method_configuration_details",
    "permissions",
    "recovered_from",
    "saved_payment_method_options",
    "setup_intent",
    "shipping_address_collection",
    "shipping_cost",
    "submit_type",
    "subscription",
    "wallet_options",
)


def create(account: Account, params: Params) -> Object:
    """Open a session. Raises ApiError for whatever Stripe refuses about its mode, prices, customer, URLs or life."""
    mode = params.get("mode")
    if mode is None:
        raise missing_param("mode")
    if mode == "setup":
        raise ApiError(
            "The stand-in for Stripe sells; it has no setup mode.", code="stand_in_unsupported", param="mode"
        )
    _check_urls(params)
    _check_data_for_mode(params, mode)
    if len(params.get("client_reference_id", "")) > CLIENT_REFERENCE_CHARS:
        raise ApiError(
            f"Invalid string: must be at most {CLIENT_REFERENCE_CHARS} characters", param="client_reference_id"
        )
    if "customer" in params and "customer_email" in params:
        raise ApiError("You may only specify one of these parameters: customer, customer_email.")
    customer = customers.find_live(account, params["customer"], param="customer") if "customer" in params else None
    line_items = checkout_line_items.create(account, params, mode)
    expires_at = _expires_at(account, params)
    return account.add(_session(account, params, customer, line_items, expires_at))


def find(account: Account, session_id: str) -> Object:
    """Look a session up, expiring it first when its time is over. Raises resource_missing (404)."""
    session = account.find(Kind.CHECKOUT_SESSION, session_id)
    _expire_if_due(account, session)
    return session


def expire(account: Account, session: Object) -> None:
    """Close an open session. Raises ApiError for one that is complete or expired, in Stripe's words."""
    if session["status"] != "open":
        raise ApiError(
            'Only Checkout Sessions with a status in ["open"] can be expired. This Checkout Session has a status of'
            f" `{session['status']}`."
        )
    account.change(session, {"status": "expired", "url": None}, event="checkout.session.expired")


def expire_what_is_due(account: Account) -> None:
    """Expire every open session whose time is over."""
    for session in account.store.all(Kind.CHECKOUT_SESSION):
        _expire_if_due(account, session)


def place_pages(account: Account) -> None:
    """Have open sessions point at where the hosted page is served now; a restart may have moved it."""
    for session in account.store.all(Kind.CHECKOUT_SESSION):
        if session["status"] == "open":
            account.change(session, {"url": _page_url(account, session["id"])})


def _page_url(account: Account, session_id: str) -> str:
    return f"{account.base_url}/pay/{session_id}"


def _expire_if_due(account: Account, session: Object) -> None:
    if session["status"] == "open" and session["expires_at"] <= account.time():
        expire(account, session)


def _check_urls(params: Params) -> None:
    if "success_url" not in params:
        raise missing_param("success_url")
    for name in ("success_url", "cancel_url"):
        url = params.get(name)
        if url is None:
            continue
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ApiError("Not a valid URL", code="url_invalid", param=name)


def _check_data_for_mode(params: Params, mode: str) -> None:
    wrong = {"payment": "subscription_data", "subscription": "payment_intent_data"}[mode]
    if wrong in params:
        raise ApiError(f"You can not pass `{wrong}` in `{mode}` mode.", param=wrong)
    if mode == "subscription" and "customer_creation" in params:
        raise ApiError("You can not pass `customer_creation` in `subscription` mode.", param="customer_creation")


def _expires_at(account: Account, params: Params) -> int:
    now = account.time()
    expires_at: int = params.get("expires_at", now + LIFE_MAX_S)
    if expires_at < now + LIFE_MIN_S:
        raise ApiError(
            "The `expires_at` timestamp must be at least 30 minutes from Checkout Session creation.", param="expires_at"
        )
    if expires_at > now + LIFE_MAX_S:
        raise ApiError(
            "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.", param="expires_at"
        )
    return expires_at


def _session(
    account: Account, params: Params, customer: Object | None, line_items: list[Object], expires_at: int
) -> Object:
    session_id = new_id(Kind.CHECKOUT_SESSION)
    trial = "trial_period_days" in params.get("subscription_data", {})
    total = sum(item["amount_total"] for item in line_items if not (trial and item["price"]["recurring"]))
    email = customer["email"] if customer else params.get("customer_email")
    return {
        "id": session_id,
        "object": Kind.CHECKOUT_SESSION.value,
        **dict.fromkeys(_EMPTY),
        "adaptive_pricing": {"enabled": False},
        "allow_promotion_codes": params.get("allow_promotion_codes"),
        "amount_subtotal": total,
        "amount_total": total,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "cancel_url": params.get("cancel_url"),
        "client_reference_id": params.get("client_reference_id"),
        "created": account.time(),
        "currency": line_items[0]["currency"],
        "custom_fields": [],
        "custom_text": dict.fromkeys(_TEXTS),
        "customer": customer["id"] if customer else None,
        "customer_creation": _customer_creation(params),
        "customer_details": _customer_details(email) if email else None,
        "customer_email": params.get("customer_email"),
        "discounts": [],
        "expires_at": expires_at,
        "livemode": False,
        "locale": params.get("locale"),
        "managed_payments": {"enabled": False},
        "metadata": merged_metadata({}, params.get("metadata")),
        "mode": params["mode"],
        "payment_method_collection": params.get("payment_method_collection", "always"),
        "payment_method_options": {},
        "payment_method_types": ["card", "sepa_debit"],
        "payment_status": "unpaid" if total else "no_payment_required",
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "status": "open",
        "success_url": params["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": _page_url(account, session_id),
        **_notes(params, line_items),
    }


def _notes(params: Params, line_items: list[Object]) -> Object:
    """Keep what paying the session will need and the API does not show."""
    return {
        "_line_items": line_items,
        "_payment_intent": None,  # the one that a declined try left behind
        "_payment_intent_data": dict(params.get("payment_intent_data", {})),
        "_subscription_data": dict(params.get("subscription_data", {})),
    }


def _customer_creation(params: Params) -> str | None:
    if "customer" in params or params["mode"] == "subscription":
        return None
    return str(params.get("customer_creation", "if_required"))


def _customer_details(email: str) -> Object:
    return {
        "address": None,
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": None,
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": None,
    }


def _expire_call(account: Account, call: Call) -> Object:
    session = find(account, call.path["id"])
    expire(account, session)
    return shown(session)


def _list(account: Account, call: Call) -> Object:
    expire_what_is_due(account)
    found = [
        session
        for session in account.store.newest_first(Kind.CHECKOUT_SESSION)
        if has_fields(session, call.params, "customer", "payment_intent", "status", "subscription")
        and created_within(session, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/checkout/sessions")


def _list_line_items(account: Account, call: Call) -> Object:
    session = find(account, call.path["id"])
    return page(session["_line_items"], call.params, f"/v1/checkout/sessions/{session['id']}/line_items")


# Besides what it acts on: what changes nothing here (locale) or is only said back (allow_promotion_codes).
_CREATABLE = takes(
    "allow_promotion_codes",
    "cancel_url",
    "client_reference_id",
    "customer",
    "customer_creation",
    "customer_email",
    "excluded_payment_method_types",
    "expires_at",
    "line_items.price",
    "line_items.quantity",
    "locale",
    "metadata.*",
    "mode",
    "payment_intent_data.description",
    "payment_intent_data.metadata.*",
    "payment_method_collection",
    "subscription_data.description",
    "subscription_data.metadata.*",
    "subscription_data.trial_period_days",
    "subscription_data.trial_settings.end_behavior.missing_payment_method",
    "success_url",
)

ROUTES = (
    Route(
        "POST",
        "/v1/checkout/sessions",
        lambda account, call: shown(create(account, call.params)),
        sdk.SessionCreateParams,
        _CREATABLE,
    ),
    Route(
        "GET",
        "/v1/checkout/sessions",
        _list,
        sdk.SessionListParams,
        LIST_PARAMS | {"created.*", "customer", "payment_intent", "status", "subscription"},
    ),
    Route(
        "GET",
        "/v1/checkout/sessions/{id}",
        lambda account, call: shown(find(account, call.path["id"])),
        sdk.SessionRetrieveParams,
        takes(),
    ),
    Route("POST", "/v1/checkout/sessions/{id}/expire", _expire_call, sdk.SessionExpireParams, takes()),
    Route(
        "GET", "/v1/checkout/sessions/{id}/line_items", _list_line_items, sdk.SessionListLineItemsParams, LIST_PARAMS
    ),
)
