"""Request parameters, checked against the SDK's own parameter types.

`stripe.params` describes every endpoint's parameters as TypedDicts. They are rebuilt here as pydantic types that read form
strings and refuse what Stripe refuses: unknown keys, wrong enum values (the SDK leaves its enums open), wrong types.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Literal, NotRequired, Required, Union

import typing_extensions
from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic_core import ErrorDetails, PydanticCustomError
from stripe._request_options import RequestOptions

from sandbox.stripe.errors import ApiError, RefusedBeforeExecutionError, unknown_param, unsupported_param

METADATA_KEYS_LIMIT = 50
METADATA_KEY_CHARS = 40
METADATA_VALUE_CHARS = 500

# Names that the SDK's modules import for type checkers only.
_PRESENCE: frozenset[Any] = frozenset({NotRequired, Required})
_ELSEWHERE = {"StripeContext": object, "Mapping": Mapping}


def _non_empty(value: str) -> str:
    if not value:
        raise PydanticCustomError("empty", "empty")
    return value


def _boolean(value: Any) -> Any:
    if value not in {"true", "false"}:
        raise PydanticCustomError("bool_parsing", "not a boolean")
    return value == "true"


def _integer(value: Any) -> Any:
    if not isinstance(value, str) or not value.removeprefix("-").isascii() or not value.removeprefix("-").isdigit():
        raise PydanticCustomError("int_parsing", "not an integer")
    return int(value)


def _list(value: Any) -> Any:
    """Read the index-keyed dict that `decode_form` leaves where a list is meant."""
    if isinstance(value, dict) and all(key.isdigit() for key in value):
        return [value[key] for key in sorted(value, key=int)]
    return value


_String = Annotated[str, AfterValidator(_non_empty)]
_LEAVES: dict[Any, Any] = {
    str: _String,
    bool: Annotated[bool, BeforeValidator(_boolean)],
    int: Annotated[int, BeforeValidator(_integer)],
    float: float,
    Decimal: Decimal,
}


def _closed(annotation: Any) -> Any:
    """Rebuild one annotation of the SDK's so that it takes form strings and nothing that Stripe would refuse."""
    if annotation in _LEAVES:
        return _LEAVES[annotation]
    if typing_extensions.is_typeddict(annotation):
        return _closed_typed_dict(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {Union, types.UnionType}:
        return _closed_union(arguments)
    if origin is list:
        return Annotated[list[_closed(arguments[0])], BeforeValidator(_list)]  # type: ignore[misc]  # a type made at run time
    if origin is dict:  # metadata, and options by currency: an empty value unsets a key
        value = str if arguments[1] is str else _closed(arguments[1])
        return dict[str, value]  # type: ignore[valid-type]  # a type made at run time
    return annotation


def _closed_union(members: Iterable[Any]) -> Any:
    members = [member for member in members if "StripeObject" not in str(typing.get_origin(member))]
    literals = [member for member in members if typing.get_origin(member) is Literal]
    if any(typing.get_args(literal) != ("",) for literal in literals):
        members = [member for member in members if member is not str]  # "| str" is how the SDK keeps its enums open
    return Union[tuple(_closed(member) for member in members)]  # noqa: UP007  # X | Y cannot be made from a tuple


@cache
def _closed_typed_dict(source: type) -> Any:
    hints = typing_extensions.get_type_hints(source, localns=_ELSEWHERE, include_extras=True)
    fields: dict[str, Any] = {}
    for name, hint in hints.items():
        if name in RequestOptions.__annotations__:
            continue  # how the SDK sends, not what it sends
        wrapper: Any = typing.get_origin(hint)
        inner = typing.get_args(hint)[0] if wrapper in _PRESENCE else hint
        fields[name] = NotRequired[_closed(inner)] if wrapper is NotRequired else _closed(inner)
    built = typing_extensions.TypedDict(source.__name__, fields)  # type: ignore[misc]  # made at run time, on purpose
    return with_config(ConfigDict(extra="forbid"))(built)


@cache
def _adapter(source: type) -> TypeAdapter[dict[str, Any]]:
    return TypeAdapter(_closed_typed_dict(source))


def validate(form: dict[str, Any], source: type, supported: frozenset[str]) -> dict[str, Any]:
    """Check a decoded form against a TypedDict of `stripe.params` and return it with typed values.

    `supported` names what the stand-in acts on, as dotted paths without list indices ("line_items.price"; "metadata.*"
    covers what is below). Raises RefusedBeforeExecutionError with Stripe's code and the parameter's name.
    """
    try:
        params = _adapter(source).validate_python(form)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], form) from None
    _check_supported(params, "", "", supported)
    for path, metadata in _metadata_of(params):
        _check_metadata(metadata, path)
    return params


def _check_supported(value: Any, name: str, dotted: str, supported: frozenset[str]) -> None:
    if dotted in supported or f"{dotted}.*" in supported:
        return
    if isinstance(value, dict) and (not dotted or value):
        for key, below in value.items():
            _check_supported(below, f"{name}[{key}]" if name else key, f"{dotted}.{key}".removeprefix("."), supported)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, below in enumerate(value):
            _check_supported(below, f"{name}[{index}]", dotted, supported)
    else:
        raise unsupported_param(name)


def _metadata_of(params: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, dict[str, str]]]:
    for key, value in params.items():
        name = f"{prefix}[{key}]" if prefix else key
        if key == "metadata" and isinstance(value, dict):
            yield name, value
        elif isinstance(value, dict):
            yield from _metadata_of(value, name)


def _check_metadata(metadata: dict[str, str], name: str) -> None:
    """Hold Stripe's limits: https://docs.stripe.com/api/metadata."""
    if len(metadata) > METADATA_KEYS_LIMIT:
        raise RefusedBeforeExecutionError(
            f"You can have up to {METADATA_KEYS_LIMIT} metadata keys on one object.", param=name
        )
    for key, value in metadata.items():
        if len(key) > METADATA_KEY_CHARS:
            raise RefusedBeforeExecutionError(
                f"Metadata keys can have up to {METADATA_KEY_CHARS} characters; '{key[:METADATA_KEY_CHARS]}…' has {len(key)}.",
                param=name,
            )
        if len(value) > METADATA_VALUE_CHARS:
            raise RefusedBeforeExecutionError(
                f"Metadata values can have up to {METADATA_VALUE_CHARS} characters, but you passed in a value that is {len(value)} characters.",
                param=f"{name}[{key}]",
            )


def _refusal(detail: ErrorDetails, form: dict[str, Any]) -> ApiError:
    """Say in Stripe's words what pydantic found."""
    kind, value = detail["type"], detail["input"]
    param = _param(detail["loc"], form, keep_last=kind in {"missing", "extra_forbidden"})
    if kind == "extra_forbidden":
        return unknown_param(param)
    unset = (
        f"You passed an empty string for '{param}'. We assume empty values are an attempt to unset a parameter; however"
        f" '{param}' cannot be unset. You should remove '{param}' from your request or supply a non-empty value."
    )
    expected = str(detail.get("ctx", {}).get("expected", "")).replace("'", "")
    said: dict[str, tuple[str, str | None]] = {
        "missing": (f"Missing required param: {param}.", "parameter_missing"),
        "empty": (unset, "parameter_invalid_empty"),
        "literal_error": (f"Invalid {param}: must be one of {expected}", None),
        "int_parsing": (f"Invalid integer: {value}", "parameter_invalid_integer"),
        "bool_parsing": (f"Invalid boolean: {value}", None),
        "list_type": (f"Invalid array: {param}", None),
        "dict_type": (f"Invalid object: {param}", None),
    }
    message, code = said.get(kind, (f"Invalid value: {param}", None))
    return RefusedBeforeExecutionError(message, code=code, param=param)


def _param(location: tuple[int | str, ...], form: dict[str, Any], *, keep_last: bool) -> str:
    """Name the parameter at fault as Stripe does, leaving out the steps with which pydantic names a union's member."""
    node: Any = form
    name = ""
    for index, step in enumerate(location):
        present = isinstance(node, dict) and str(step) in node
        if not present and not (keep_last and index == len(location) - 1):
            continue
        name = f"{name}[{step}]" if name else str(step)
        node = node[str(step)] if present else None
    return name
