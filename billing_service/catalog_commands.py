"""`billing-service catalog check|plan|apply|impact`: a catalog file beside what Stripe sells and what customers have.

The first three need the Stripe API key, the last one the database; none needs the service to run. docs/catalog.md explains them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from billing_service.catalog_source import read_catalog
from billing_service.clock import clock_of
from billing_service.deployment_command import EXIT_AGREED, EXIT_DIFFERS, is_confirmed, mode_of, say
from billing_service.deployment_command import run as run_to_end
from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_actions import Action, Difference
from billing_service.domain.catalog_comparison import Comparison, Mismatch
from billing_service.domain.impact import Direction, Impact, Shown
from billing_service.flows.catalog_impact import CatalogImpact
from billing_service.flows.deploy_catalog import DeployCatalog
from billing_service.logs import configure_logs
from billing_service.settings import ImpactSettings, StripeSettings, load_settings
from billing_service.storage.database import Database
from billing_service.stripe_api.client import StripeApi

COMMAND: Final = "catalog"
CATALOG_VARIABLE: Final = "BILLING_CATALOG"
PROGRESS_EVERY = 10_000  # customers
MOST_LINES = 1000  # of each kind in a report for people; JSON has all


class FailOn(StrEnum):
    """Which impact ends in the exit code of differences."""

    ANY = "any"
    LOSS = "loss"


def add_command(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    catalog = commands.add_parser(
        COMMAND, help="compare the catalog with Stripe, make what is missing, see who it changes"
    )
    steps = catalog.add_subparsers(dest="step", required=True, metavar="STEP")
    check = steps.add_parser("check", help="does Stripe have every price as the catalog says? changes nothing")
    plan = steps.add_parser("plan", help="show what `apply` would do; changes nothing")
    apply = steps.add_parser("apply", help="make the products, prices and portal configurations that are missing")
    impact = steps.add_parser("impact", help="who would gain or lose what; changes nothing")
    for parser in (check, plan, apply):
        parser.add_argument(
            "--allow-inactive", action="store_true", help="what is not active at Stripe is meant to be out of sale"
        )
    apply.add_argument("--yes", action="store_true", help="do it without asking")
    impact.add_argument(
        "--fail-on", choices=[one.value for one in FailOn], default=FailOn.ANY.value, help="what exit code 2 stands for"
    )
    given = os.environ.get(CATALOG_VARIABLE)
    for parser in (check, plan, apply, impact):
        parser.add_argument(
            "--catalog",
            type=Path,
            metavar="FILE",
            default=given,
            required=not given,
            help=f"default: {CATALOG_VARIABLE}",
        )
        parser.add_argument("--json", action="store_true", help="the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run one step and give its exit code: 0 nothing to do (any more), 2 differences or problems, 1 it failed."""
    configure_logs("WARNING")
    name = f"{COMMAND} {arguments.step}"
    return run_to_end(name, _impact(arguments) if arguments.step == "impact" else _deploy(arguments))


async def _deploy(arguments: argparse.Namespace) -> int:
    catalog = read_catalog(Path(arguments.catalog), "--catalog")
    settings = load_settings(StripeSettings)
    async with StripeApi(settings.stripe_api_key.get_secret_value(), settings.stripe_api_base) as stripe:
        flow = DeployCatalog(stripe, catalog, settings.deployment, livemode=settings.livemode())
        found = _wanted(await flow.compare(), arguments)
        if arguments.step == "check":
            _report(found.mismatches, (), catalog, settings, arguments)
            return EXIT_DIFFERS if found.mismatches else EXIT_AGREED
        if arguments.step == "plan" or not found.actions:
            _report(found.unmended, found.actions, catalog, settings, arguments)
            return EXIT_DIFFERS if found.actions or found.unmended else EXIT_AGREED
        return await _apply(flow, found, catalog, settings, arguments)


async def _apply(
    flow: DeployCatalog, found: Comparison, catalog: Catalog, settings: StripeSettings, arguments: argparse.Namespace
) -> int:
    if not arguments.yes or not arguments.json:
        _write(_lines(found.unmended, found.actions, catalog, settings), sys.stderr if arguments.json else sys.stdout)
    question = f"Carry out these {len(found.actions)} actions at Stripe, in {mode_of(settings)}?"
    if not is_confirmed(question, yes=arguments.yes):
        return EXIT_DIFFERS
    done: list[tuple[Action, str]] = []

    def told(action: Action, made: str) -> None:
        done.append((action, made))
        say(f"{len(done)}/{len(found.actions)} {action.kind} {action.place}: {made}")

    left = _wanted(await flow.apply(found, told), arguments)
    if arguments.json:
        made = [_action(action) | {"id": object_id} for action, object_id in done]
        _write_json(_document(left.unmended, (), catalog, settings) | {"done": made})
    else:
        _write([f"done: {len(done)} actions; Stripe sells what the catalog says{_but(left)}"], sys.stdout)
    return EXIT_DIFFERS if left.unmended else EXIT_AGREED


def _but(left: Comparison) -> str:
    return f", but for {len(left.unmended)} problems (above)" if left.unmended else ""


def _wanted(found: Comparison, arguments: argparse.Namespace) -> Comparison:
    return found.but_withdrawn() if arguments.allow_inactive else found


def _report(
    problems: tuple[Mismatch, ...],
    actions: tuple[Action, ...],
    catalog: Catalog,
    settings: StripeSettings,
    arguments: argparse.Namespace,
) -> None:
    if arguments.json:
        _write_json(_document(problems, actions, catalog, settings))
    else:
        _write(_lines(problems, actions, catalog, settings), sys.stdout)


def _document(
    problems: Iterable[Mismatch], actions: Iterable[Action], catalog: Catalog, settings: StripeSettings
) -> dict[str, Any]:
    return {
        "livemode": settings.livemode(),
        "deployment": settings.deployment,
        "catalog_version": catalog.version,
        "problems": [asdict(one) for one in problems],
        "actions": [_action(one) for one in actions],
    }


def _action(action: Action) -> dict[str, Any]:
    return {
        "kind": action.kind.value,
        "place": action.place,
        "object_id": action.object_id,
        "differences": [asdict(one) for one in action.differences],
    }


def _lines(
    problems: tuple[Mismatch, ...], actions: tuple[Action, ...], catalog: Catalog, settings: StripeSettings
) -> list[str]:
    found = _counted(("action", len(actions)), ("problem", len(problems)))
    head = f'{mode_of(settings)}, deployment "{settings.deployment}", catalog {catalog.version}: {found}'
    return [head, *_bounded([_told(one) for one in actions]), *_bounded([_problem(one) for one in problems])]


def _counted(*counts: tuple[str, int]) -> str:
    parts = [f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts if count]
    return ", ".join(parts) or "nothing to do"


def _problem(one: Mismatch) -> str:
    return f"! {one.place}: {one.message}{' (apply mends it)' if one.mended else ''}"


def _told(action: Action) -> str:
    is_new = all(one.before is None for one in action.differences)
    changed = "; ".join(_difference(one) for one in action.differences)
    return f"{'+' if is_new else '~'} {action.place}: {action.kind} ({changed})"


def _difference(one: Difference) -> str:
    return f"{one.field}: {one.after}" if one.before is None else f"{one.field}: {one.before} -> {one.after}"


class _Progress:
    """Says now and then how many customers were looked at."""

    def __init__(self) -> None:
        self._said = 0

    def __call__(self, count: int) -> None:
        if count >= self._said + PROGRESS_EVERY:
            self._said = count
            say(f"looked at {count} customers")


async def _impact(arguments: argparse.Namespace) -> int:
    catalog = read_catalog(Path(arguments.catalog), "--catalog")
    settings = load_settings(ImpactSettings)
    database = Database(settings.database_url.get_secret_value())
    try:
        flow = CatalogImpact(database, clock_of(settings.sandbox_clock))
        impact = await flow(catalog, _Progress())
    finally:
        await database.close()
    if arguments.json:
        _write_json(_impact_document(impact, catalog))
    else:
        _write(_impact_lines(impact, catalog), sys.stdout)
    differs = impact.any_loss if arguments.fail_on == FailOn.LOSS else impact.any_change
    return EXIT_DIFFERS if differs else EXIT_AGREED


def _impact_document(impact: Impact, catalog: Catalog) -> dict[str, Any]:
    return {
        "catalog_version": catalog.version,
        "customers": impact.customers,
        "changing": impact.changing,
        "gaining": impact.gaining,
        "losing": impact.losing,
        "vanished_plans": dict(impact.vanished),
        "newcomers": [asdict(one) for one in impact.newcomers],
        "features": [
            {"feature_key": key, "direction": direction.value, **asdict(line)}
            for (key, direction), line in _ordered(impact)
        ],
    }


def _impact_lines(impact: Impact, catalog: Catalog) -> list[str]:
    head = (
        f"catalog {catalog.version}, {impact.customers} customers: {impact.losing} would lose something, "
        f"{impact.gaining} would gain something, {impact.customers - impact.changing} keep what they have"
    )
    vanished = [
        f"! plans.{key}: is gone, and {count} customers have it: the service would refuse to start"
        for key, count in sorted(impact.vanished.items())
    ]
    newcomers = [
        f"{_SIGNS[one.direction]} {one.feature_key}: {_step(one)}, for whoever has bought nothing"
        for one in impact.newcomers
    ]
    lines = []
    for (key, direction), line in _ordered(impact):
        named = ", ".join(f"{one.customer_id} ({_step(one)})" for one in line.examples)
        more = ", ..." if line.customers > len(line.examples) else ""
        lines.append(f"{_SIGNS[direction]} {key}: {direction} for {line.customers}: {named}{more}")
    return [head, *vanished, *newcomers, *_bounded(lines)]


_SIGNS: Final = {Direction.GAIN: "+", Direction.LOSS: "-", Direction.OTHER: "~"}


def _ordered(impact: Impact) -> list[tuple[tuple[str, Direction], Any]]:
    """Put losses first, then what concerns most."""
    order = [Direction.LOSS, Direction.OTHER, Direction.GAIN]
    return sorted(impact.lines.items(), key=lambda item: (order.index(item[0][1]), -item[1].customers, item[0][0]))


def _step(one: Any) -> str:
    return f"{_shown(one.before)} -> {_shown(one.after)}"


def _shown(value: Shown) -> str:
    return "nothing" if value is None else json.dumps(value)


def _bounded(lines: list[str]) -> list[str]:
    hidden = len(lines) - MOST_LINES
    return lines if hidden <= 0 else [*lines[:MOST_LINES], f"... and {hidden} more; --json has all"]


def _write(lines: Iterable[str], stream: Any) -> None:
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()


def _write_json(document: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(document)}\n")
