"""Where the pages repeat what the code says, they say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from billing_service.domain.catalog_file import _FEATURE_KEYS, _FILE_KEYS
from billing_service.domain.catalog_plan import _PLAN_KEYS, _POLICY_KEYS
from billing_service.domain.catalog_price import _PRICE_KEYS
from billing_service.domain.webhook_endpoint import WANTED_TYPES
from billing_service.settings import PREFIX, SECRETS_DIR
from billing_service.settings import Settings as ServiceSettings
from billing_service.stripe_api.sdk import API_VERSION
from tools import doc_links, error_docs
from webhook_gateway.settings import _PREFIX as GATEWAY_PREFIX
from webhook_gateway.settings import _SECRETS_DIR as GATEWAY_SECRETS_DIR
from webhook_gateway.settings import Settings as GatewaySettings

DOCS = Path(__file__).parents[2] / "docs"


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def test_the_events_to_subscribe_to_are_those_used() -> None:
    """Somebody who makes the endpoint as told gets every event that is used, and no other, in the version that we read."""
    page = read("getting-started.md")
    listed = page.split("<!-- events:", 1)[1].split("<!-- /events -->", 1)[0]
    assert set(re.findall(r"^- `(.+)`$", listed, re.MULTILINE)) == set(WANTED_TYPES)
    assert set(re.findall(r"enabled_events\[\]=([a-z._]+)", page)) == set(WANTED_TYPES)
    assert f"--api-version={API_VERSION}" in page


def test_every_variable_is_explained() -> None:
    """The page of the configuration has every environment variable of both programs, and none that there is not."""
    known = {f"{PREFIX}{name.upper()}" for name in ServiceSettings.model_fields} | {SECRETS_DIR}
    known |= {f"{GATEWAY_PREFIX}{name.upper()}" for name in GatewaySettings.model_fields} | {GATEWAY_SECRETS_DIR}
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", read("configuration.md"), re.MULTILINE)) == known


@pytest.mark.parametrize("keys", [_FILE_KEYS, _FEATURE_KEYS, _PLAN_KEYS, _PRICE_KEYS, _POLICY_KEYS])
def test_every_key_of_the_catalog_is_explained(keys: tuple[str, ...]) -> None:
    """The page of the catalog has a row for every key that the file may have."""
    rows = "\n".join(re.findall(r"^\| `(.+?)` \|", read("catalog.md"), re.MULTILINE))
    explained = set(re.findall(r"[a-z_]+", rows))
    assert set(keys) <= explained


def test_the_page_of_errors_is_the_contracts() -> None:
    """docs/errors.md is what the contract's comments say."""
    assert read("errors.md") == error_docs.render(error_docs.PROTO.read_text(encoding="utf-8"))


def test_no_link_leads_nowhere() -> None:
    """Every link between the pages, headings included, leads somewhere."""
    pages = doc_links.find_pages(doc_links.ROOT)
    assert [problem for page in pages for problem in doc_links.broken_links(page, doc_links.ROOT)] == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    """The check of the links finds a missing file, a missing heading and a way out, and is not misled by code."""
    (tmp_path / "there.md").write_text("# A heading, with `code`\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[ok](there.md#a-heading-with-code) [gone](gone.md) [no](there.md#no) [out](../)\n`[x](y.md)`\n```\n[x](z.md)\n```\n"
        "[elsewhere](https://example.org/gone.md)",
        encoding="utf-8",
    )
    assert [problem.split(": ", 1)[1] for problem in doc_links.broken_links(page, tmp_path)] == [
        "gone.md: there is no such file",
        "there.md#no: there is no such heading",
        "../: leads out of the repository",
    ]
