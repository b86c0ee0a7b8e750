"""What the commands share that look after the Stripe account before a deployment: exit codes, errors in a sentence, consent.

Reports go to standard output, everything else to standard error.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from billing_service.domain.catalog_file import CatalogError
from billing_service.domain.errors import BillingError
from billing_service.flows.catalog_impact import NoCatalogError
from billing_service.flows.deploy_catalog import StripeMovedError
from billing_service.settings import SettingsError, StripeSettings
from billing_service.stripe_api.errors import StripeCallError, StripeDefinite, StripeDenied

EXIT_AGREED: Final = 0  # nothing to do, or all of it was done
EXIT_FAILED: Final = 1  # it could not be told, or not be done: arguments, settings, the file, Stripe, the database
EXIT_DIFFERS: Final = 2  # there are differences or problems, which the report has

_Code = TypeVar("_Code", bound=int)


def run(name: str, work: Coroutine[Any, Any, _Code]) -> int:
    """Run a command to its exit code; whatever stands in the way becomes one sentence and EXIT_FAILED."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        return fail(name, "was stopped. What was done stays; the same command goes on where it was.")
    except StripeCallError as error:
        return fail(name, _refused(error))
    except BillingError as error:
        return fail(name, f"was broken off: {error.message}")
    except (CatalogError, NoCatalogError, SettingsError, StripeMovedError) as error:
        return fail(name, f"did not come to its end: {error}")


def _refused(error: StripeCallError) -> str:
    """Say what Stripe's answer means for the operator; its words here are about our own catalog, never about a customer."""
    if isinstance(error, StripeDenied):
        return f"was refused: {error}. Does the API key have the permission? docs/getting-started.md lists them."
    if isinstance(error, StripeDefinite) and not error.is_server_error:
        return f"was refused: {error}. Stripe says: {error.message or 'no more'}"
    return f"was broken off: {error}. The same command goes on where it was."


def fail(name: str, message: str) -> int:
    """Say on standard error why a command failed, and give the exit code for it."""
    say(f"billing-service {name} {message}")
    return EXIT_FAILED


def say(text: str) -> None:
    """Tell the operator something that is no part of the report."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def mode_of(settings: StripeSettings) -> str:
    """Name the mode in which the API key works."""
    return {True: "LIVE mode", False: "test mode", None: "unknown mode"}[settings.livemode()]


def is_confirmed(question: str, *, yes: bool) -> bool:
    """Ask for consent; where nobody can be asked, only `yes` gives it."""
    if yes:
        return True
    if not sys.stdin.isatty():
        say("Nothing was done: there is no terminal to ask. Pass --yes to do it.")
        return False
    sys.stderr.write(f"{question} Type yes to do it: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == "yes"
