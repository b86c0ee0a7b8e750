"""What a call to Stripe can end in, sorted by what may be done next about the idempotency key that it carried.

| error | what is known | the next try uses |
|---|---|---|
| `StripeNoAnswer` | nothing: it may have had its effect | the same key, the same parameters |
| `StripeBusy` | it had no effect yet (429), or is being carried out under this key right now (409) | the same key, later |
| `StripeDefinite` | Stripe keeps this answer and replays it to the key, a 500 too | the key of the next attempt |
| `StripeKeyConflict` | the key was used with other parameters | the key of the next attempt; it is a defect |
| `StripeDenied` | the API key is wrong, or lacks a permission | no try helps before the operator has acted |

Rules: https://docs.stripe.com/api/idempotent_requests and https://docs.stripe.com/error-low-level. A StripeCallError never holds
or chains an exception of the SDK, and its text has neither Stripe's words (they may quote what a customer typed) nor a key.
"""

from __future__ import annotations


class StripeCallError(Exception):
    """A call to Stripe did not end in what was asked."""

    def __init__(self, operation: str, detail: str, *, request_id: str | None = None) -> None:
        """Take what was called ("checkout.sessions.create"), a detail that is safe to log, and Stripe's request id."""
        self.operation = operation
        self.request_id = request_id
        suffix = f" ({request_id})" if request_id else ""
        super().__init__(f"{operation}: {detail}{suffix}")


class StripeNoAnswer(StripeCallError):  # noqa: N818 - what happened, as the other names
    """No answer, or none that Stripe wrote: a timeout, a lost connection, a cut body, a proxy's page."""


class StripeBusy(StripeCallError):  # noqa: N818
    """Stripe asks to come again: too many requests, or the same key is being worked on."""

    def __init__(self, operation: str, status: int, *, request_id: str | None = None) -> None:
        """Take the HTTP status: 409 or 429."""
        self.status = status
        super().__init__(operation, f"Stripe answered {status}", request_id=request_id)


class StripeDefinite(StripeCallError):  # noqa: N818
    """Stripe refused or failed, and answers the same to this idempotency key for at least 24 hours."""

    def __init__(
        self,
        operation: str,
        status: int,
        *,
        code: str | None = None,
        param: str | None = None,
        message: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Take the parts of Stripe's error object; `message` may hold personal data and stays out of the text."""
        self.status = status
        self.code = code
        self.param = param
        self.message = message
        parts = [f"Stripe answered {status}", *(part for part in (code, param and f"param {param}") if part)]
        super().__init__(operation, ", ".join(parts), request_id=request_id)

    @property
    def missing_customer(self) -> bool:
        """Whether the customer that the request named does not exist at Stripe (any more)."""
        return self.code == "resource_missing" and self.param == "customer"

    @property
    def missing(self) -> bool:
        """Whether what was asked for by its id does not exist at Stripe."""
        return self.status == 404

    @property
    def payment_failed(self) -> bool:
        """Whether the request was fine and the payment that it asked for failed: https://docs.stripe.com/error-codes."""
        return self.status == 402

    @property
    def is_server_error(self) -> bool:
        """Whether the failure is on Stripe's side."""
        return self.status >= 500


class StripeKeyConflict(StripeCallError):  # noqa: N818
    """The idempotency key was used before with other parameters."""

    def __init__(self, operation: str, *, request_id: str | None = None) -> None:
        """Say which call; the key itself is not kept."""
        super().__init__(operation, "the idempotency key was used with other parameters", request_id=request_id)


class StripeDenied(StripeCallError):  # noqa: N818
    """Stripe does not take the API key (401), or the key may not do this (403)."""

    def __init__(self, operation: str, status: int, *, request_id: str | None = None) -> None:
        """Take the HTTP status: 401 or 403."""
        self.status = status
        super().__init__(operation, f"Stripe answered {status}", request_id=request_id)
