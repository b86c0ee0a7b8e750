"""The catalog from the file in which it stands."""

from __future__ import annotations

from pathlib import Path

from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_file import parse_catalog
from billing_service.settings import SettingsError


def read_catalog(path: Path, named_by: str) -> Catalog:
    """Read and check a catalog; `named_by` is the variable or option that names the file, for messages.

    Raises:
        SettingsError: the file cannot be read.
        CatalogError: its content does not hold.
    """
    try:
        return parse_catalog(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{named_by}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SettingsError([f"{named_by}: must be UTF-8 text"]) from None
