"""The catalog from the file in which it stands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, TypeVar

from billing_service.domain.catalog import Catalog
from billing_service.domain.catalog_file import CatalogError, parse_catalog
from billing_service.settings import RepairSettings, SettingsError, load_settings

SETTING: Final = "BILLING_CATALOG"

_Settings = TypeVar("_Settings", bound=RepairSettings)


def load_with_catalog(kind: type[_Settings]) -> tuple[_Settings, Catalog]:
    """Read the settings of a command and the catalog that they name.

    Raises:
        SettingsError: something is missing or does not hold; all of it is named, the catalog's mistakes too.
        CatalogError: the settings hold, and the catalog does not.
    """
    try:
        settings = load_settings(kind)
    except SettingsError as error:
        raise SettingsError([*error.problems, *_catalog_problems()]) from None
    return settings, read_catalog(settings.catalog, SETTING)


def _catalog_problems() -> list[str]:
    """Say what is wrong with a catalog whose settings do not hold; nothing where they say that it is missing."""
    named = Path(os.environ.get(SETTING) or os.devnull)
    if not named.is_file() or not os.access(named, os.R_OK):
        return []
    try:
        read_catalog(named, SETTING)
    except SettingsError as error:
        return list(error.problems)
    except CatalogError as error:
        return [f"{SETTING}: {line}" for line in str(error).splitlines()]
    return []


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
