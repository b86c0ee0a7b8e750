"""The project's own catalog, which the flows of these tests sell by."""

from __future__ import annotations

from pathlib import Path

from billing_service.domain.catalog_file import parse_catalog

CATALOG_TEXT = (Path(__file__).parents[3] / "catalog.toml").read_text()
CATALOG = parse_catalog(CATALOG_TEXT)
