"""Lists by cursor: https://docs.stripe.com/api/pagination."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sandbox.stripe.errors import ApiError, resource_missing
from sandbox.stripe.objects import Object, Params
from sandbox.stripe.rendering import shown

LIMIT_DEFAULT = 10
LIMIT_MAX = 100

# What every list takes; an endpoint adds its own filters.
LIST_PARAMS = frozenset({"limit", "starting_after", "ending_before", "expand"})

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "gt": lambda value, bound: value > bound,
    "gte": lambda value, bound: value >= bound,
    "lt": lambda value, bound: value < bound,
    "lte": lambda value, bound: value <= bound,
}


def page(objects: list[Object], params: Params, url: str) -> Object:
    """Cut one page out of objects that stand newest first.

    Raises ApiError for a limit outside 1 to 100, both cursors at once, or a cursor that names nothing in the list.
    """
    limit = _limit(params)
    after, before = params.get("starting_after"), params.get("ending_before")
    if after and before:
        raise ApiError("You cannot use both starting_after and ending_before", param="ending_before")
    if before:
        newer = objects[: _position(objects, before, "ending_before")]
        data, has_more = newer[-limit:], len(newer) > limit
    else:
        older = objects[_position(objects, after, "starting_after") + 1 :] if after else objects
        data, has_more = older[:limit], len(older) > limit
    return {"object": "list", "data": [shown(obj) for obj in data], "has_more": has_more, "url": url}


def created_within(obj: Object, wanted: Any) -> bool:
    """Tell whether an object was created when a `created` parameter says: a second, or bounds (gt, gte, lt, lte)."""
    if wanted is None:
        return True
    created: int = obj["created"]
    if isinstance(wanted, int):
        return created == wanted
    return all(_COMPARE[name](created, bound) for name, bound in wanted.items())


def has_fields(obj: Object, params: Params, *names: str) -> bool:
    """Tell whether an object's fields equal the parameters of the same names, where those are given."""
    return all(obj.get(name) == params[name] for name in names if name in params)


def _limit(params: Params) -> int:
    limit: int = params.get("limit", LIMIT_DEFAULT)
    if not 1 <= limit <= LIMIT_MAX:
        bound = f"less than or equal to {LIMIT_MAX}" if limit > LIMIT_MAX else "greater than or equal to 1"
        raise ApiError(
            f"This value must be {bound} (it currently is '{limit}').", code="parameter_invalid_integer", param="limit"
        )
    return limit


def _position(objects: list[Object], object_id: str, param: str) -> int:
    for index, obj in enumerate(objects):
        if obj["id"] == object_id:
            return index
    raise resource_missing("object", object_id, param=param)
