from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from billing_service.domain.catalog import UNLIMITED, FeatureType, IntegerMerge, PlanMode, Policy, Price
from billing_service.domain.catalog_file import CatalogError, Problem, parse_catalog

EXAMPLE = Path(__file__).parents[3] / "catalog.toml"

GOOD = """\
default_plan = "free"

[features.seats]
name = "Seats"
type = "integer"
merge = "sum"

[features.export]
name = "Data export"
type = "boolean"

[features.support]
name = "Support"
type = "text"

[plans.free]
name = "Free"
mode = "free"
features = { seats = 1, support = "community" }

[plans.pro]
name = "Pro"
description = "For people who ship."
mode = "subscription"
group = "base"
rank = 10
quantity = true
scales = ["seats"]
features = { support = "e-mail", export = true, seats = 5 }

[[plans.pro.prices]]
key = "monthly"
lookup_key = "pro_monthly"
text = "12 a month"

[[plans.pro.prices]]
key = "yearly"
lookup_key = "pro_yearly"

[plans.pro.policy]
past_due_grace_days = 3

[plans.pass]
name = "Pass"
mode = "payment"
duration_days = 30
features = { seats = "unlimited" }

[[plans.pass.prices]]
key = "once"
lookup_key = "pass"
"""


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(CatalogError) as caught:
        parse_catalog(text)
    return caught.value.problems


def test_reads_what_the_file_says() -> None:
    """Every key of the file arrives in the catalog's values, in the order of the file."""
    catalog = parse_catalog(GOOD)
    assert list(catalog.features) == ["seats", "export", "support"]
    assert catalog.features["seats"].type is FeatureType.INTEGER
    assert catalog.features["seats"].merge is IntegerMerge.SUM
    assert list(catalog.plans) == ["free", "pro", "pass"]
    assert catalog.default_plan is catalog.plans["free"]
    pro = catalog.plans["pro"]
    assert (pro.name, pro.description, pro.mode) == ("Pro", "For people who ship.", PlanMode.SUBSCRIPTION)
    assert (pro.group, pro.rank, pro.quantity_allowed, pro.duration) == ("base", 10, True, None)
    assert pro.scales == frozenset({"seats"})
    assert pro.prices == (Price("monthly", "pro_monthly", "12 a month"), Price("yearly", "pro_yearly", ""))
    assert pro.policy == Policy(past_due_grace=timedelta(days=3))
    assert catalog.plans["pass"].duration == timedelta(days=30)
    assert catalog.plans["pass"].features == {"seats": UNLIMITED}


def test_features_of_a_plan_stand_in_the_order_of_the_catalog() -> None:
    """A pricing page lists the features of every plan in one order, however each plan spells them."""
    assert list(parse_catalog(GOOD).plans["pro"].features.items()) == [
        ("seats", 5),
        ("export", True),
        ("support", "e-mail"),
    ]


def test_finds_a_plan_by_lookup_key() -> None:
    """A lookup key leads to the one plan that sells at it."""
    catalog = parse_catalog(GOOD)
    assert catalog.plan_of_lookup_key("pro_yearly") is catalog.plans["pro"]
    assert catalog.plan_of_lookup_key("other") is None


def test_finds_a_price_by_key_and_the_first_without_one() -> None:
    """No price key means the plan's first price; an unknown one means none."""
    catalog = parse_catalog(GOOD)
    pro = catalog.plans["pro"]
    assert pro.price(None) is pro.prices[0]
    assert pro.price("yearly") is pro.prices[1]
    assert pro.price("weekly") is None
    assert catalog.plans["free"].price(None) is None


def test_the_example_holds() -> None:
    """The catalog that the project ships is a good one, with the four kinds of plan that it promises to show."""
    catalog = parse_catalog(EXAMPLE.read_text(encoding="utf-8"))
    assert {plan.mode for plan in catalog.plans.values()} == set(PlanMode)
    assert len(catalog.plans["pro"].prices) == 2
    assert catalog.plans["team"].scales == {"seats"}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("a comment", GOOD + "\n# more to come\n"),
        ("layout", GOOD.replace('features = { seats = "unlimited" }', "features.seats = 'unlimited'")),
        (
            "a default spelt out",
            GOOD.replace("past_due_grace_days = 3", "past_due_grace_days = 3\nperiod_end_leeway_hours = 24"),
        ),
        ("windows line ends", GOOD.replace("\n", "\r\n")),
        ("a byte order mark", "\ufeff" + GOOD),
    ],
)
def test_version_is_of_the_meaning(name: str, same: str) -> None:
    """What changes nothing in meaning leaves the version alone."""
    assert parse_catalog(same).version == parse_catalog(GOOD).version, name


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("12 a month", "13 a month"),
        ('merge = "sum"', 'merge = "max"'),
        ("rank = 10", "rank = 11"),
        ("seats = 5", "seats = 6"),
        ('scales = ["seats"]', "scales = []"),
        ("quantity = true", "quantity = false"),
        ("past_due_grace_days = 3", "past_due_grace_days = 4"),
        ("duration_days = 30\n", ""),
        ('"pro_yearly"', '"pro_annual"'),
    ],
)
def test_version_changes_with_the_meaning(before: str, after: str) -> None:
    """Each thing that an answer can depend on makes another version."""
    assert before in GOOD
    assert parse_catalog(GOOD.replace(before, after)).version != parse_catalog(GOOD).version


# What is wrong, how to get there from GOOD, the place that is named, a part of the message, and the 1-based line.
MISTAKES: list[tuple[str, str, str, str, str, int | None]] = [
    ("a misspelt key of the file", "default_plan =", "defualt_plan =", "defualt_plan", 'did you mean "default_plan"', 1),
    ("no default plan", 'default_plan = "free"', "", "default_plan", "is missing", None),
    ("a default plan that is none", '"free"\n\n[f', '"fre"\n\n[f', "default_plan", 'did you mean "free"', 1),
    ("a default plan that costs", '"free"\n\n[f', '"pro"\n\n[f', "default_plan", 'of mode "free"', 1),
    ("a default plan that is no text", 'default_plan = "free"', "default_plan = 1", "default_plan", "not an integer", 1),
    ("a misspelt key of a feature", "merge =", "merg =", "features.seats.merg", 'did you mean "merge"', 6),
    ("no type of a feature", 'type = "boolean"\n', "", "features.export.type", "is missing", 8),
    ("an unknown type", '"boolean"', '"bool"', "features.export.type", 'did you mean "boolean"', 10),
    ("an unknown merge", '"sum"', '"min"', "features.seats.merge", '"max", "sum"', 6),
    ("a merge of a text", 'type = "text"', 'type = "text"\nmerge = "max"', "features.support.merge", "is text", 15),
    ("no name of a feature", 'name = "Seats"\n', "", "features.seats.name", "is missing", 3),
    ("a feature key with a capital", "[features.seats]", "[features.Seats]", "features.Seats", "is no key", 3),
    ("a plan key with a dash", "[plans.free]", "[plans.for-free]", "plans.for-free", "is no key", 16),
    ("a plan key that needs quotes", "[plans.free]", '[plans."a b"]', 'plans."a b"', "is no key", 16),
    ("a plan key that is too long", "[plans.free]", f"[plans.{'x' * 65}]", f"plans.{'x' * 65}", "is no key", 16),
    ("a misspelt key of a plan", "description =", "descripton =", "plans.pro.descripton", 'did you mean "description"', 23),
    ("no mode", 'mode = "payment"\n', "", "plans.pass.mode", "is missing", 43),
    ("an unknown mode", '"subscription"', '"subscribtion"', "plans.pro.mode", 'did you mean "subscription"', 24),
    ("no name of a plan", 'name = "Pro"\n', "", "plans.pro.name", "is missing", 21),
    ("a blank name", 'name = "Pro"', 'name = " "', "plans.pro.name", "must not be blank", 22),
    ("a name with a control character", 'name = "Pro"', 'name = "Pro\\u0000"', "plans.pro.name", "control characters", 22),
    ("a name of two lines", 'name = "Pro"', 'name = """Pro\nmore"""', "plans.pro.name", "one line", 22),
    ("a name that is too long", 'name = "Pro"', f'name = "{"x" * 501}"', "plans.pro.name", "at most 500", 22),
    ("a bad group", '"base"', '"the base"', "plans.pro.group", "lower-case", 25),
    ("a rank that is none", "rank = 10", 'rank = "high"', "plans.pro.rank", "must be an integer, not a text", 26),
    ("a negative rank", "rank = 10", "rank = -1", "plans.pro.rank", "between 0 and", 26),
    ("quantity as a number", "quantity = true", "quantity = 1", "plans.pro.quantity", "true or false", 27),
    ("an unknown feature", "export = true", "exprot = true", "plans.pro.features.exprot", 'did you mean "export"', 29),
    ("a number for a boolean", "export = true", "export = 1", "plans.pro.features.export", "true or false", 29),
    ("unlimited for a boolean", "export = true", 'export = "unlimited"', "plans.pro.features.export", "integer features", 29),
    ("a boolean for an integer", "seats = 5", "seats = true", "plans.pro.features.seats", "must be an integer", 29),
    ("a decimal for an integer", "seats = 5", "seats = 5.5", "plans.pro.features.seats", "a decimal number", 29),
    ("a date for an integer", "seats = 5", "seats = 2026-01-01", "plans.pro.features.seats", "a date or time", 29),
    ("a misspelt unlimited", "seats = 5", 'seats = "unlimted"', "plans.pro.features.seats", 'mean "unlimited"', 29),
    ("a negative integer", "seats = 5", "seats = -5", "plans.pro.features.seats", "between 0 and", 29),
    ("an integer that overflows", "seats = 5", "seats = 1000000000001", "plans.pro.features.seats", "between 0 and", 29),
    ("a number for a text", '"e-mail"', "24", "plans.pro.features.support", "must be a text, not an integer", 29),
    ("features that are no table", 'features = { seats = "unlimited" }', "features = 1", "plans.pass.features", "a table", 47),
    ("scaling an unknown feature", '["seats"]', '["seat"]', "plans.pro.scales[0]", 'did you mean "seats"', 28),
    ("scaling a text", '["seats"]', '["seats", "support"]', "plans.pro.scales[1]", "only integer features", 28),
    ("scaling what the plan lacks", ", seats = 5", "", "plans.pro.scales[0]", "not among the features", 28),
    ("scaling no key", '["seats"]', "[1]", "plans.pro.scales[0]", "not an integer", 28),
    ("scales that are no array", '["seats"]', '"seats"', "plans.pro.scales", "must be an array", 28),
    ("prices on a free plan", "[plans.pro]", '[[plans.free.prices]]\nkey = "x"\nlookup_key = "x"\n[plans.pro]', "plans.free.prices", "never bought", 21),
    ("quantity on a free plan", 'mode = "free"', 'mode = "free"\nquantity = true', "plans.free.quantity", "never bought", 19),
    ("no price on a paid plan", '[[plans.pass.prices]]\nkey = "once"\nlookup_key = "pass"\n', "", "plans.pass.prices", "is missing", 43),
    ("an empty list of prices", '[[plans.pass.prices]]\nkey = "once"\nlookup_key = "pass"\n', "prices = []", "plans.pass.prices", "is missing", 49),
    ("a price that is no table", '[[plans.pass.prices]]\nkey = "once"\nlookup_key = "pass"\n', "prices = [12]", "plans.pass.prices[0]", "must be a table", 49),
    ("prices that are no array", '[[plans.pass.prices]]\nkey = "once"\nlookup_key = "pass"\n', "prices = 12", "plans.pass.prices", "must be an array", 49),
    ("a misspelt key of a price", 'text = "12', 'txt = "12', "plans.pro.prices[0].txt", 'did you mean "text"', 34),
    ("no key of a price", 'key = "yearly"\n', "", "plans.pro.prices[1].key", "is missing", 36),
    ("a bad key of a price", 'key = "yearly"', 'key = "Yearly"', "plans.pro.prices[1].key", "lower-case", 37),
    ("no lookup key", 'lookup_key = "pro_yearly"\n', "", "plans.pro.prices[1].lookup_key", "is missing", 36),
    ("a lookup key that is too long", '"pro_yearly"', f'"{"x" * 201}"', "plans.pro.prices[1].lookup_key", "200 characters", 38),
    ("two prices of one key", 'key = "yearly"', 'key = "monthly"', "plans.pro.prices[1].key", "an earlier price", 37),
    ("two prices on one lookup key", '"pro_yearly"', '"pro_monthly"', "plans.pro.prices[1].lookup_key", "plans.pro.prices[0]", 38),
    ("two plans on one lookup key", '= "pass"', '= "pro_yearly"', "plans.pass.prices[0].lookup_key", "plans.pro.prices[1]", 51),
    ("a duration of a subscription", "rank = 10", "duration_days = 1", "plans.pro.duration_days", 'of mode "payment"', 26),
    ("a duration of a free plan", 'mode = "free"', 'mode = "free"\nduration_days = 1', "plans.free.duration_days", '"free"', 19),
    ("a duration of nothing", "duration_days = 30", "duration_days = 0", "plans.pass.duration_days", "between 1 and", 46),
    ("a misspelt policy", "past_due_grace_days", "past_due_grace", "plans.pro.policy.past_due_grace", "past_due_grace_days", 41),
    ("a policy that is no integer", "grace_days = 3", 'grace_days = "3"', "plans.pro.policy.past_due_grace_days", "an integer", 41),
    ("a policy out of its bounds", "grace_days = 3", "grace_days = 366", "plans.pro.policy.past_due_grace_days", "365", 41),
    ("a plan that is no table", "[plans.free]", "[plans]\nextra = 1\n[plans.free]", "plans.extra", "must be a table", 17),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_names_a_mistake_with_its_place(mistake: tuple[str, str, str, str, str, int | None]) -> None:
    """Each mistake is named at its place and line, with what to do about it, and is the first or only one of its cause."""
    _, before, after, place, message, line = mistake
    assert before in GOOD
    found = problems_of(GOOD.replace(before, after, 1))
    at_place = [problem for problem in found if problem.place == place]
    assert len(at_place) == 1, found
    assert message in at_place[0].message
    assert at_place[0].line == line


def test_names_every_problem_at_once() -> None:
    """Somebody who made several mistakes mends them in one go: all are listed, in the order of the file."""
    text = GOOD.replace('"boolean"', '"bool"').replace("rank = 10", "rnak = 10").replace('= "pass"', '= "pro_monthly"')
    assert [(problem.line, problem.place) for problem in problems_of(text)] == [
        (10, "features.export.type"),
        (26, "plans.pro.rnak"),
        (51, "plans.pass.prices[0].lookup_key"),
    ]


def test_a_mistake_in_a_feature_is_not_blamed_on_the_plans() -> None:
    """While a feature's type is unknown, nothing is said about the values that plans give it."""
    assert [problem.place for problem in problems_of(GOOD.replace('"integer"', '"int"'))] == ["features.seats.type"]


def test_the_error_reads_as_a_list() -> None:
    """The error's text is what the operator sees: one problem a line, each with its line and place."""
    error = CatalogError((Problem("plans.pro.rnak", "is not a known key", 26), Problem("default_plan", "is missing")))
    assert str(error).splitlines() == [
        "the catalog has 2 problems:",
        "  - line 26: plans.pro.rnak is not a known key",
        "  - default_plan is missing",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('default_plan = "free"\n[plans.free\n', 2),
        ('default_plan = "free"\ndefault_plan = "pro"\n', 2),
        ("a = [\n1,\n", 3),
    ],
)
def test_says_where_it_stops_being_toml(text: str, line: int) -> None:
    """A text that is no TOML is refused with the line where that shows."""
    (problem,) = problems_of(text)
    assert "not TOML" in problem.message
    assert problem.line == line


@pytest.mark.parametrize(
    "make",
    [
        lambda: "",
        lambda: "# nothing\n",
        lambda: "features = 1\nplans = 2\ndefault_plan = 3\n",
        lambda: "x = " + "[" * 5000 + "]" * 5000,
        lambda: "#" * 1_000_001,
        lambda: "[features]\n" + "".join(f'f{n} = {{ name = "x", type = "text" }}\n' for n in range(501)),
    ],
)
def test_refuses_what_is_no_catalog(make: Callable[[], str]) -> None:
    """Whatever the text, the answer is a catalog or a list of problems, never another error."""
    assert problems_of(make())
