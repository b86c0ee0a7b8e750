"""Ids that look like Stripe's: the prefix says the kind."""

from __future__ import annotations

import secrets
import string

from sandbox.stripe.objects import Kind

_ALPHABET = string.ascii_letters + string.digits

# prefix, and how many characters follow it
_SHAPES: dict[str, tuple[str, int]] = {
    Kind.PRODUCT: ("prod_", 14),
    Kind.PRICE: ("price_1", 23),
    Kind.CUSTOMER: ("cus_", 14),
    Kind.CHECKOUT_SESSION: ("cs_test_a1", 56),
    Kind.LINE_ITEM: ("li_1", 23),
    Kind.SUBSCRIPTION_SCHEDULE: ("sub_sched_1", 23),
    Kind.SUBSCRIPTION: ("sub_1", 23),
    Kind.SUBSCRIPTION_ITEM: ("si_", 14),
    Kind.INVOICE: ("in_1", 23),
    Kind.INVOICE_LINE: ("il_1", 23),
    Kind.INVOICE_PAYMENT: ("inpay_1", 23),
    Kind.PAYMENT_INTENT: ("pi_3", 23),
    Kind.CHARGE: ("ch_3", 23),
    Kind.REFUND: ("re_3", 23),
    Kind.DISPUTE: ("du_1", 23),
    Kind.DISCOUNT: ("di_1", 23),
    Kind.PORTAL_CONFIGURATION: ("bpc_1", 23),
    Kind.PORTAL_SESSION: ("bps_1", 23),
    Kind.WEBHOOK_ENDPOINT: ("we_1", 23),
    Kind.EVENT: ("evt_1", 23),
}
# What stands before an id's last "_": "price", and "sub_sched" where there are two.
_KIND_BY_PREFIX = {prefix.rpartition("_")[0]: Kind(kind) for kind, (prefix, _) in _SHAPES.items()}


def new_id(kind: Kind) -> str:
    """Draw an id of this kind; 14 random characters of 62 never meet in a sandbox."""
    prefix, length = _SHAPES[kind]
    return prefix + random_text(length)


def random_text(length: int) -> str:
    """Draw letters and digits; all at once, for asking the system for each of them is most of what an object costs to make."""
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in secrets.token_bytes(length))


def kind_of(object_id: str) -> Kind | None:
    """Tell the kind from an id's prefix; None when it is no id of ours."""
    parts = object_id.split("_")
    kind = _KIND_BY_PREFIX.get("_".join(parts[:2])) if len(parts) > 2 else None
    return kind or (_KIND_BY_PREFIX.get(parts[0]) if len(parts) > 1 else None)
