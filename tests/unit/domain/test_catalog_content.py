"""What is kept of a catalog gives the same catalog again, and its version is the hash of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from billing_service.domain.catalog import Policy
from billing_service.domain.catalog_content import catalog_of, content_of, version_of
from billing_service.domain.catalog_file import parse_catalog

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["catalog.toml", "tests/torture/catalog.toml"])
def test_a_kept_catalog_is_the_same_again(name: str) -> None:
    """By way of JSON, as it is kept."""
    catalog = parse_catalog((ROOT / name).read_text())
    content = json.loads(json.dumps(content_of(catalog)))
    again = catalog_of(catalog.version, content)
    assert again == catalog
    assert list(again.plans) == list(catalog.plans)
    assert version_of(content) == catalog.version


@pytest.mark.parametrize(
    ("name", "version"), [("catalog.toml", "25af0cb2edb73bb6"), ("tests/torture/catalog.toml", "35811f5c6a2dd126")]
)
def test_the_version_of_a_content_does_not_move_with_the_code(name: str, version: str) -> None:
    """Versions stand in histories and with callers: the same file has the same one in every release."""
    assert parse_catalog((ROOT / name).read_text()).version == version


def test_amounts_that_a_file_leaves_out_do_not_change_its_version() -> None:
    """The file as it was before amounts could be in it has the version that it had."""
    lines = (ROOT / "catalog.toml").read_text().splitlines()
    without = "\n".join(one for one in lines if not one.startswith(("amount_minor", "currency", "interval")))
    assert parse_catalog(without).version == "c757ba4f0e2ddcce"


def test_a_content_of_an_earlier_release_has_the_defaults_of_what_came_later() -> None:
    catalog = parse_catalog((ROOT / "catalog.toml").read_text())
    content = json.loads(json.dumps(content_of(catalog)))
    for plan in content["plans"]:
        del plan["policy"]["one_trial_per_customer"]
        plan["policy"]["of_a_later_release"] = True
    again = catalog_of(catalog.version, content)
    assert {plan.policy.one_trial_per_customer for plan in again.plans.values()} == {Policy().one_trial_per_customer}
