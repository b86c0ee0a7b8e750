"""Stripe's error objects.

Shapes and wording follow https://docs.stripe.com/api/errors and https://docs.stripe.com/error-codes.
"""

from __future__ import annotations

from typing import Any

INVALID_REQUEST = "invalid_request_error"


class ApiError(Exception):
    """An answer that is an error object of Stripe's."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = INVALID_REQUEST,
        code: str | None = None,
        param: str | None = None,
        **extra: Any,
    ) -> None:
        """Take what the error object says; `extra` is put into it as it is."""
        super().__init__(message)
        self.status = status
        self._error = {"code": code, "message": message, "param": param, "type": kind, **extra}

    def body(self) -> dict[str, Any]:
        """Render the answer's body; fields that do not apply are left out, as Stripe does."""
        error = {key: value for key, value in self._error.items() if value is not None}
        if "code" in error:
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{error['code'].replace('_', '-')}"
        return {"error": error}


class RefusedBeforeExecutionError(ApiError):
    """An error from before the endpoint began: Stripe keeps no idempotent result of it.

    https://docs.stripe.com/api/idempotent_requests
    """


def resource_missing(noun: str, object_id: str, *, param: str = "id", status: int = 400) -> ApiError:
    """Nothing has this id: 404 when the path names it, 400 when a parameter does."""
    return ApiError(f"No such {noun}: '{object_id}'", status=status, code="resource_missing", param=param)


def missing_param(param: str) -> ApiError:
    """A parameter that this request needs is not there."""
    return ApiError(f"Missing required param: {param}.", code="parameter_missing", param=param)


def unknown_param(param: str) -> ApiError:
    """No such parameter exists on this endpoint."""
    return RefusedBeforeExecutionError(f"Received unknown parameter: {param}", code="parameter_unknown", param=param)


def unsupported_param(param: str) -> ApiError:
    """Stripe has this parameter and the stand-in does not act on it: refused, so that nobody builds on silence."""
    return RefusedBeforeExecutionError(
        f"The stand-in for Stripe does not act on '{param}'; Stripe itself does. See sandbox/stripe.",
        code="stand_in_unsupported",
        param=param,
    )


def unknown_path(method: str, path: str) -> ApiError:
    """Nothing answers at this method and path."""
    return RefusedBeforeExecutionError(
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can help at https://support.stripe.com/.",
        status=404,
    )


def key_missing() -> ApiError:
    """The request carries no API key."""
    return RefusedBeforeExecutionError(
        "You did not provide an API key. You need to provide your API key in the Authorization header, using Bearer auth"
        " (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
        status=401,
    )


def key_invalid(key: str) -> ApiError:
    """The key is not ours; shown as Stripe shows it, with all but its ends starred."""
    shown = f"{key[:8]}{'*' * 8}{key[-4:]}" if len(key) > 16 else "*" * 8
    return RefusedBeforeExecutionError(f"Invalid API Key provided: {shown}", status=401)
