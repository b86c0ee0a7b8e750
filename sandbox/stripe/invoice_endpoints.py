"""The API's endpoints of invoices and invoice payments. How they come about: `invoices`."""

from __future__ import annotations

import stripe.params as sdk

from sandbox.stripe.account import Account
from sandbox.stripe.objects import Kind, Object
from sandbox.stripe.pagination import LIST_PARAMS, created_within, has_fields, page
from sandbox.stripe.rendering import shown
from sandbox.stripe.route import Call, Route, takes


def _list(account: Account, call: Call) -> Object:
    subscription = call.params.get("subscription")
    found = [
        invoice
        for invoice in account.store.newest_first(Kind.INVOICE)
        if has_fields(invoice, call.params, "customer", "status", "collection_method")
        and subscription in {None, invoice["parent"]["subscription_details"]["subscription"]}
        and created_within(invoice, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/invoices")


def _list_payments(account: Account, call: Call) -> Object:
    wanted = call.params.get("payment", {})
    found = [
        payment
        for payment in account.store.newest_first(Kind.INVOICE_PAYMENT)
        if has_fields(payment, call.params, "invoice", "status")
        and all(payment["payment"].get(key) == value for key, value in wanted.items())
        and created_within(payment, call.params.get("created"))
    ]
    return page(found, call.params, "/v1/invoice_payments")


ROUTES = (
    Route(
        "GET",
        "/v1/invoices",
        _list,
        sdk.InvoiceListParams,
        LIST_PARAMS | {"collection_method", "created.*", "customer", "status", "subscription"},
    ),
    Route(
        "GET",
        "/v1/invoices/{id}",
        lambda account, call: shown(account.find(Kind.INVOICE, call.path["id"])),
        sdk.InvoiceRetrieveParams,
        takes(),
    ),
    Route(
        "GET",
        "/v1/invoice_payments",
        _list_payments,
        sdk.InvoicePaymentListParams,
        LIST_PARAMS | {"created.*", "invoice", "payment.*", "status"},
    ),
    Route(
        "GET",
        "/v1/invoice_payments/{id}",
        lambda account, call: shown(account.find(Kind.INVOICE_PAYMENT, call.path["id"])),
        sdk.InvoicePaymentRetrieveParams,
        takes(),
    ),
)
