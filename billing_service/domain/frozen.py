"""Frozen dataclasses of which every call and every webhook makes dozens.

A frozen dataclass writes each of its fields by `object.__setattr__`, since its own is closed: more than half of what making one costs.
Here the fields go straight into the instance. Everything else is as the standard library makes it: equality, hash, `replace`,
`fields`, the error on assignment, and what type checkers see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import update_wrapper
from inspect import signature
from typing import Any, TypeVar, dataclass_transform

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[_Class]) -> type[_Class]:
    """Make a frozen dataclass of a class that has nothing but fields, with or without defaults.

    Raises:
        TypeError: a field has a factory or is not given at the start, or the class has an `InitVar` or a `__post_init__`: those are
            for `dataclass`.
    """
    made = dataclass(frozen=True)(cls)
    made.__init__ = _initializer(made)  # type: ignore[method-assign] # the same, by another way
    return made


def _initializer(made: type[Any]) -> Callable[..., None]:
    names = [field.name for field in fields(made)]
    plain = all(field.init and not field.kw_only and field.default_factory is MISSING for field in fields(made))
    if not plain or hasattr(made, "__post_init__") or list(signature(made.__init__).parameters) != ["self", *names]:
        raise TypeError(f"{made.__qualname__} has more than plain fields; make it with dataclass(frozen=True)")
    defaults = {field.name: field.default for field in fields(made) if field.default is not MISSING}
    taken = ", ".join(f"{name}=defaults[{name!r}]" if name in defaults else name for name in names)
    kept = "\n".join(f"    __own__[{name!r}] = {name}" for name in names)
    found: dict[str, Any] = {}
    # As dataclasses does it; the names are those of fields.
    exec(f"def __init__(self, {taken}):\n    __own__ = self.__dict__\n{kept}\n", {"defaults": defaults}, found)  # noqa: S102
    initializer: Callable[..., None] = update_wrapper(found["__init__"], made.__init__)
    return initializer
