"""How a command can end, and what an operator is told to do where it did not do its work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Final

import grpc
from billing_client import BillingError, TransportError


class Exit(IntEnum):
    """The exit codes, for scripts. They are never renumbered."""

    DONE = 0
    FAILED = 1  # refused for a reason of what is there, or not all of it was done
    USAGE = 2  # options or arguments; Typer uses the same
    NOT_FOUND = 3
    NOT_ALLOWED = 4  # no credential, an unknown one, or one of another role
    UNAVAILABLE = 5  # the service, its database or Stripe does not answer now; the same command may do later
    NOT_CONFIRMED = 6  # it was asked, and not answered with yes
    STOPPED = 130  # Ctrl-C


_BY_CODE: Final[Mapping[grpc.StatusCode, Exit]] = {
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED: Exit.NOT_ALLOWED,
    grpc.StatusCode.PERMISSION_DENIED: Exit.NOT_ALLOWED,
    grpc.StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exit.UNAVAILABLE,
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
}

_TO_DO: Final[Mapping[str, str]] = {
    "UNAUTHENTICATED": "Name a token with --token-file or BILLING_ADMIN_TOKEN_FILE, or a certificate with --cert and --key; "
    "the service's access file must have it with the role admin.",
    "PERMISSION_DENIED": "The service knows this credential by another role: its line in the access file must say admin.",
    "DATABASE_UNAVAILABLE": "The service runs, and its database does not answer. `billing status` says what it waits for.",
    "STRIPE_UNAVAILABLE": "Stripe does not answer, or asks to slow down: try again in a minute.",
    "REQUEST_IN_PROGRESS": "The same is being done right now: look again in a moment.",
    "DEADLINE_EXCEEDED": "It took too long. A larger --timeout gives it more time.",
    "INTERNAL": "A defect of the service. Its log has the details.",
    "OVERLOADED": "The service has too much to do: try again in a minute.",
}
_NO_ANSWER: Final = (
    "Is the service up, and is this its internal listener (--target, BILLING_ADMIN_TARGET)? Beyond this machine the "
    "connection is encrypted: --ca says whom to believe."
)
_UNIMPLEMENTED: Final = (
    "The service does not have this call: it is older than this program, or the target is its public listener, which has "
    "none of the operators' calls."
)


class UsageError(Exception):
    """The options do not go together, or a file that they name cannot be used. The message says which."""


class UnreachableError(Exception):
    """The health page does not answer. The message says where it was looked for."""


def exit_code(error: BillingError) -> Exit:
    """Say how a command ends that was refused with this."""
    return _BY_CODE.get(error.code, Exit.FAILED)


def explain(error: BillingError, target: str) -> Iterator[str]:
    """Say what happened, and then what to do, a sentence or two each."""
    if isinstance(error, TransportError):
        yield f"No service answers at {target}: {error.message}"
        yield _NO_ANSWER
    else:
        yield from _refused(error)
    yield from getattr(error, "__notes__", ())


def _refused(error: BillingError) -> Iterator[str]:
    yield error.message or error.reason or error.code.name
    for field, problem in error.violations.items():
        if problem not in error.message:
            yield f"  {field}: {problem}"
    if error.code is grpc.StatusCode.UNIMPLEMENTED:
        yield _UNIMPLEMENTED
    elif error.reason in _TO_DO:
        yield _TO_DO[error.reason]
    if call_id := error.metadata.get("call_id"):
        yield f"call_id={call_id}"
