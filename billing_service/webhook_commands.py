"""`billing-service webhook-endpoint check|create`: the endpoint at Stripe to which it sends this service's events.

The signing secret is told once, by the answer that makes the endpoint: it goes into a file that only its owner may read, is
shown where somebody sits at a terminal, and is never logged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import urlsplit

from billing_service.deployment_command import EXIT_AGREED, EXIT_DIFFERS, is_confirmed, mode_of, say
from billing_service.deployment_command import run as run_to_end
from billing_service.domain.webhook_endpoint import WANTED_TYPES, EndpointState
from billing_service.flows.register_webhook import RegisterWebhook
from billing_service.logs import configure_logs
from billing_service.settings import SettingsError, StripeSettings, load_settings
from billing_service.stripe_api.client import StripeApi
from billing_service.stripe_api.sdk import API_VERSION
from billing_service.stripe_api.webhook_endpoints import MadeEndpoint

COMMAND: Final = "webhook-endpoint"
MAX_URL_CHARS: Final = 2048
_NAME = re.compile(r"[a-z0-9_-]{1,32}")  # as the gateway's GATEWAY_WEBHOOK_SECRETS has names


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    endpoint = commands.add_parser(COMMAND, help="make or verify the webhook endpoint at Stripe")
    steps = endpoint.add_subparsers(dest="step", required=True, metavar="STEP")
    check = steps.add_parser(
        "check", help="does it get every event that is used, in the right version? changes nothing"
    )
    create = steps.add_parser("create", help="make it where there is none; mend it where this program made it")
    create.add_argument(
        "--secret-file", type=Path, metavar="FILE", help="where the signing secret goes; must not be there"
    )
    create.add_argument(
        "--name", type=_name, default="stripe", help="of the secret in the gateway's log (default: stripe)"
    )
    create.add_argument("--yes", action="store_true", help="do it without asking")
    for parser in (check, create):
        parser.add_argument("--url", type=_url, required=True, help="https://…/webhooks/stripe")
        parser.add_argument("--json", action="store_true", help="the report as JSON; never with the secret")


def run(arguments: argparse.Namespace) -> int:
    """Run one step and give its exit code: 0 nothing to do (any more), 2 problems, 1 it failed."""
    configure_logs("WARNING")
    return run_to_end(f"{COMMAND} {arguments.step}", _run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    settings = load_settings(StripeSettings)
    if settings.livemode() and not arguments.url.startswith("https://"):
        raise SettingsError(["--url: must begin with https:// when the API key is a live one"])
    async with StripeApi(settings.stripe_api_key.get_secret_value(), settings.stripe_api_base) as stripe:
        flow = RegisterWebhook(stripe, arguments.url, settings.deployment)
        state = await flow.look()
        if arguments.step == "create":
            if state.endpoint is None:
                return await _create(flow, settings, arguments)
            if state.mendable:
                state = await _mend(flow, state, settings, arguments)
    _report(state, settings, arguments)
    return EXIT_DIFFERS if state.problems else EXIT_AGREED


async def _create(flow: RegisterWebhook, settings: StripeSettings, arguments: argparse.Namespace) -> int:
    if arguments.secret_file is None and (arguments.json or not sys.stdout.isatty()):
        raise SettingsError(
            [
                "--secret-file: is needed: the signing secret is told once, and there is no terminal to show it on, or --json"
            ]
        )
    question = f"Make an endpoint for {arguments.url} with {len(WANTED_TYPES)} types of events, in {mode_of(settings)}?"
    if not is_confirmed(question, yes=arguments.yes):
        return EXIT_DIFFERS
    if arguments.secret_file is None:
        made = await flow.create()
    else:
        with _reserved(arguments.secret_file) as file:
            made = await flow.create()
            file.write(f"{arguments.name}={made.secret}\n")
            file.flush()
            os.fsync(file.fileno())
    state = await flow.look()
    _report(state, settings, arguments)
    _show(made, arguments)
    return EXIT_DIFFERS if state.problems else EXIT_AGREED


@contextmanager
def _reserved(path: Path) -> Iterator[IO[str]]:
    """Open the secret's file for its owner alone, before there is a secret that could be lost; gone again if none comes."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise SettingsError([f"--secret-file: {path} is there already; name another, or move it away"]) from None
    except OSError as error:
        raise SettingsError([f"--secret-file: {path} cannot be made: {error.strerror}"]) from None
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        try:
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _show(made: MadeEndpoint, arguments: argparse.Namespace) -> None:
    if arguments.secret_file is None:
        sys.stdout.write(f"signing secret (told once): {made.secret}\n")
    if arguments.secret_file is not None:
        say(f"The signing secret is in {arguments.secret_file}, as GATEWAY_WEBHOOK_SECRETS takes it.")


async def _mend(
    flow: RegisterWebhook, state: EndpointState, settings: StripeSettings, arguments: argparse.Namespace
) -> EndpointState:
    endpoint = state.endpoint
    for problem in state.problems:
        say(f"! {problem.message}")
    if endpoint is None or not is_confirmed(f"Mend {endpoint.endpoint_id}, in {mode_of(settings)}?", yes=arguments.yes):
        return state
    await flow.mend(endpoint)
    say(f"Mended {endpoint.endpoint_id}.")
    return await flow.look()


def _report(state: EndpointState, settings: StripeSettings, arguments: argparse.Namespace) -> None:
    endpoint = state.endpoint
    if arguments.json:
        document = {
            "livemode": settings.livemode(),
            "url": arguments.url,
            "endpoint_id": endpoint.endpoint_id if endpoint else None,
            "made_by_this_program": bool(endpoint and endpoint.ours),
            "api_version": endpoint.api_version if endpoint else None,
            "problems": [problem.message for problem in state.problems],
        }
        sys.stdout.write(f"{json.dumps(document)}\n")
        return
    lines = [f"! {problem.message}" for problem in state.problems]
    if endpoint is not None and not lines:
        lines = [f"{endpoint.endpoint_id} gets all {len(WANTED_TYPES)} types that are used, in version {API_VERSION}"]
    sys.stdout.write(f"{mode_of(settings)}, {arguments.url}\n" + "".join(f"{line}\n" for line in lines))


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and len(text) <= MAX_URL_CHARS
    except ValueError:
        is_url = False
    if not is_url:
        raise argparse.ArgumentTypeError("must be a URL, as https://billing.example.com/webhooks/stripe")
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("must be at most 32 lower-case letters, digits, dashes and underscores")
    return text
