"""Bodies and queries as Stripe's SDKs write them: `line_items[0][price]=price_1&expand[]=customer`."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from sandbox.stripe.errors import RefusedBeforeExecutionError

BODY_LIMIT_BYTES = 256 * 1024
FIELD_LIMIT = 1_000
DEPTH_LIMIT = 8  # Stripe's deepest parameter has six levels

_KEY = re.compile(r"(?P<head>[^\[\]]+)(?P<rest>(?:\[[^\[\]]*\])*)\Z")
_PART = re.compile(r"\[([^\[\]]*)\]")


def decode_form(text: str) -> dict[str, Any]:
    """Turn a form into nested dicts of strings; lists stay dicts keyed by index until their type is known.

    `key[]=a&key[]=b` numbers its values in order. Raises RefusedBeforeExecutionError for what cannot be nested.
    """
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, strict_parsing=False, max_num_fields=FIELD_LIMIT, errors="strict"
        )
    except ValueError as error:  # too many fields, or not UTF-8
        raise RefusedBeforeExecutionError("Invalid request: the form cannot be decoded") from error
    form: dict[str, Any] = {}
    for key, value in pairs:
        _insert(form, _path(key), key, value)
    return form


def _path(key: str) -> list[str]:
    match = _KEY.match(key)
    path = [match["head"], *_PART.findall(match["rest"])] if match else []
    if not 0 < len(path) <= DEPTH_LIMIT:
        raise RefusedBeforeExecutionError(f"Invalid request: '{key}' is not a parameter's name")
    return path


def _insert(form: dict[str, Any], path: list[str], key: str, value: str) -> None:
    node = form
    for part in path[:-1]:
        node = node.setdefault(part or str(len(node)), {})
        if not isinstance(node, dict):
            raise RefusedBeforeExecutionError(f"Invalid request: '{key}' is given both as a value and as a group")
    leaf = path[-1] or str(len(node))
    if isinstance(node.get(leaf), dict):
        raise RefusedBeforeExecutionError(f"Invalid request: '{key}' is given both as a value and as a group")
    node[leaf] = value
