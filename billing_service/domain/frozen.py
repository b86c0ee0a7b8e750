"""Records: classes of fields that never change, of which every call and every webhook makes dozens.

They are msgspec's structs, made, compared, read and written in C, where a frozen dataclass runs a line of Python for each of its
fields: webhooks cost the service a sixth less by it. That is all that the domain takes from outside the standard library, and here is
the only place where it does.

Written as JSON they leave out what has its default, and it is read as that: so a default, once a release has written by it, stays as
it is. Of a record that is `whole` everything is written.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from types import new_class
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, overload

from msgspec import Struct, structs

__all__ = ["frozen", "replace"]

_Record = TypeVar("_Record")
_OF_THE_INTERPRETER = ("__dict__", "__weakref__")  # what it gave the class that is replaced; a record has neither


@overload
@dataclass_transform(frozen_default=True)
def frozen(cls: type[_Record]) -> type[_Record]: ...
@overload
def frozen(cls: None = None, *, whole: bool) -> Callable[[type[_Record]], type[_Record]]: ...
def frozen(
    cls: type[_Record] | None = None, *, whole: bool = False
) -> type[_Record] | Callable[[type[_Record]], type[_Record]]:
    """Make a record of a class of fields, with or without defaults; of one that has a record for its base, a record with more of them.

    `whole`: JSON has its fields also where they have their defaults.

    Raises:
        TypeError: the class has another base, or a `__post_init__`, or a field of the kinds that only the standard library has: make
            it with dataclass(frozen=True).
    """
    return partial(_made, whole=whole) if cls is None else _made(cls, whole=whole)


def _made(cls: type[_Record], *, whole: bool) -> type[_Record]:
    own, annotated = vars(cls), inspect.get_annotations(cls)
    is_one = issubclass(cls, Struct)  # by its base
    defaults = getattr(cls, "__struct_defaults__", [own.get(name) for name in annotated])
    kinds = " ".join(map(str, annotated.values()))
    has_more = (
        "__post_init__" in own or "InitVar" in kinds or "KW_ONLY" in kinds or not (is_one or cls.__base__ is object)
    )
    if has_more or len(cls.__bases__) != 1 or any(isinstance(one, dataclasses.Field) for one in defaults):
        raise TypeError(f"{cls.__qualname__} has more than plain fields; make it with dataclass(frozen=True)")
    if is_one:
        return cls
    kept = {name: value for name, value in own.items() if name not in _OF_THE_INTERPRETER}
    made: type[_Record] = new_class(
        cls.__name__, (Struct,), {"frozen": True, "omit_defaults": not whole}, lambda names: names.update(kept)
    )
    return made


if TYPE_CHECKING:
    from dataclasses import replace  # type checkers know the fields by it
else:

    def replace(record: _Record, /, **changes: Any) -> _Record:
        """Give a record, or a dataclass, that differs in some fields. Raises TypeError for one that it does not have."""
        return (
            structs.replace(record, **changes) if isinstance(record, Struct) else dataclasses.replace(record, **changes)
        )
