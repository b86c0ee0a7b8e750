"""The catalog's file format: TOML text -> Catalog, or every problem of the text at once, each with its place.

docs/catalog.md explains the keys to the person who writes the file; this module and `catalog_plan` hold the rules.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from billing_service.domain.catalog import Catalog, Feature, FeatureType, IntegerMerge, Plan, PlanMode
from billing_service.domain.catalog_content import content_of, version_of
from billing_service.domain.catalog_plan import note_shared_lookup_keys, read_plan
from billing_service.domain.toml_lines import Lines
from billing_service.domain.toml_table import Notes, Table, place_of, suggestion

MAX_CATALOG_CHARS = 1_000_000  # some thousand plans; what is longer is not a catalog
MAX_PLANS = 500  # ListPlans answers with all of them at once
MAX_FEATURES = 500  # GetEntitlements answers with all of them at once
MAX_LISTING_BYTES = 4 * 2**20  # of ListPlans' answer: what gRPC's clients take in one message unless told otherwise
LISTED_BYTES = 48  # of what is listed beside texts: numbers, switches, and what protobuf puts around them

_TOO_LARGE = (
    "and what they give take {size:,} bytes to list, more than the {most:,} of one answer of ListPlans: shorten the names of features, "
    "or have fewer of them in as many plans"
)
_FILE_KEYS = ("default_plan", "features", "plans")
_FEATURE_KEYS = ("name", "type", "merge")


@dataclass(frozen=True)
class Problem:
    """One thing that does not hold, where it stands, and what to do about it."""

    place: str  # "plans.pro.prices[1].lookup_key"; empty for the whole file
    message: str  # reads on from the place
    line: int | None = None  # counted from 1; None where no line is to blame

    def __str__(self) -> str:
        """Write it on one line."""
        line = f"line {self.line}: " if self.line is not None else ""
        return f"{line}{self.place} {self.message}" if self.place else f"{line}{self.message}"


class CatalogError(Exception):
    """The catalog does not hold; `problems` has all that is wrong with it, in the order of the file."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        """Take every problem, at least one."""
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"the catalog has {count}:", *(f"  - {problem}" for problem in problems)]))


def parse_catalog(text: str) -> Catalog:
    """Read and check the text of a catalog file.

    Raises:
        CatalogError: with every problem of the text; only a text that is no TOML at all has just its first.
    """
    text = text.removeprefix("\ufeff")  # some editors begin a file with a byte order mark
    notes = Notes()
    file = Table(_load(text), (), notes)
    file.refuse_unknown(_FILE_KEYS)
    feature_tables = file.table("features", required=True).named_tables(most=MAX_FEATURES)
    found = {key: _read_feature(key, table) for key, table in feature_tables}
    plan_tables = dict(file.table("plans", required=True).named_tables(most=MAX_PLANS))
    plans = {key: read_plan(key, table, found) for key, table in plan_tables.items()}
    note_shared_lookup_keys(plan_tables, notes)
    default_plan = _read_default_plan(file, plans)
    if notes.entries:
        raise _error(text, notes)
    features = {key: feature for key, feature in found.items() if feature}
    catalog = Catalog("", default_plan, features, plans)
    if (size := listing_bytes(catalog)) > MAX_LISTING_BYTES:
        raise CatalogError((Problem("plans", _TOO_LARGE.format(size=size, most=MAX_LISTING_BYTES)),))
    return replace(catalog, version=version_of(content_of(catalog)))


def listing_bytes(catalog: Catalog) -> int:
    """Say how many bytes the listing of all plans takes at most: each plan repeats the names of its features."""
    feature = {key: _listed(key, one.name) for key, one in catalog.features.items()}
    plans = catalog.plans.values()
    return (
        LISTED_BYTES
        + sum(feature.values())  # each is listed once as the default plan gives it
        + (_texts(catalog.default_plan) if catalog.default_plan else 0)
        + sum(feature[key] for plan in plans for key in plan.features)
        + sum(_listed(plan.plan_key, plan.name, plan.description, plan.group or "") + _texts(plan) for plan in plans)
        + sum(_listed(price.price_key, price.text) for plan in plans for price in plan.prices)
    )


def _texts(plan: Plan) -> int:
    return sum(len(value.encode()) for value in plan.features.values() if isinstance(value, str))


def _listed(*texts: str) -> int:
    return LISTED_BYTES + sum(len(text.encode()) for text in texts)


def _load(text: str) -> Mapping[str, object]:
    if len(text) > MAX_CATALOG_CHARS:
        raise CatalogError((Problem("", f"the file is longer than {MAX_CATALOG_CHARS:,} characters"),))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError((_syntax_problem(str(error), text),)) from None
    except RecursionError:  # arrays in arrays in arrays …
        raise CatalogError((Problem("", "the file is nested too deeply"),)) from None


def _syntax_problem(message: str, text: str) -> Problem:
    # Before Python 3.14 the position stands in the message only.
    if found := re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL):
        return Problem("", f"this is not TOML: {found[1]} (column {found[3]})", int(found[2]))
    at_end = message.endswith("(at end of document)")
    return Problem("", f"this is not TOML: {message}", text.count("\n") + 1 if at_end else None)


def _error(text: str, notes: Notes) -> CatalogError:
    lines = Lines(text)
    problems = [Problem(place_of(path), message, lines.line_of(path)) for path, message in notes.entries]
    problems.sort(key=lambda problem: problem.line or 0)  # stable: those of one line stay as they were found
    return CatalogError(tuple(problems))


def _read_feature(feature_key: str, table: Table) -> Feature | None:
    """Give the feature; None after a note about its type."""
    table.refuse_unknown(_FEATURE_KEYS)
    feature_type = table.choice("type", FeatureType)
    merge = table.choice("merge", IntegerMerge) if "merge" in table.values else IntegerMerge.MAX
    if "merge" in table.values and feature_type in {FeatureType.BOOLEAN, FeatureType.TEXT}:
        table.note("merge", f"is for integer features; this one is {feature_type}")
    name = table.text("name")
    return Feature(feature_key, name, feature_type, merge or IntegerMerge.MAX) if feature_type else None


def _read_default_plan(file: Table, plans: Mapping[str, Plan]) -> Plan | None:
    """Give the default plan; None only after a note."""
    plan_key = file.text("default_plan")
    if not plan_key:
        return None
    plan = plans.get(plan_key)
    if plan is None:
        file.note("default_plan", f"names no plan of this catalog{suggestion(plan_key, plans)}")
    elif plan.mode is not PlanMode.FREE:
        file.note("default_plan", 'must name a plan of mode "free": everybody has it without buying')
    return plan
