"""What `frozen` makes is a frozen dataclass in all that anybody can see."""

from __future__ import annotations

import copy
import inspect
from dataclasses import FrozenInstanceError, InitVar, dataclass, field, fields, replace

import msgspec
import pytest

from billing_service.domain.frozen import frozen


@frozen
class Made:
    """Ours."""

    name: str
    count: int = 3
    also: str | None = None


@dataclass(frozen=True)
class Plain:
    """The standard library's."""

    name: str
    count: int = 3
    also: str | None = None


def test_it_is_what_the_standard_library_makes() -> None:
    """Made by position, by name and with defaults; compared, hashed, shown, replaced, copied and written alike."""
    made, plain = Made("a", also="b"), Plain("a", also="b")
    assert made == Made(name="a", count=3, also="b") != Made("a", 4, "b")
    assert hash(made) == hash(plain)
    assert repr(made) == repr(plain).replace("Plain", "Made")
    assert replace(made, count=5) == Made("a", 5, "b")
    assert [(one.name, one.default) for one in fields(made)] == [(one.name, one.default) for one in fields(plain)]
    assert copy.deepcopy(made) == copy.copy(made) == made
    assert msgspec.json.decode(msgspec.json.encode(made), type=Made) == made
    assert msgspec.json.encode(made) == msgspec.json.encode(plain)
    assert list(inspect.signature(Made).parameters) == list(inspect.signature(Plain).parameters)


def test_nothing_changes_it() -> None:
    made = Made("a")
    with pytest.raises(FrozenInstanceError):
        made.name = "b"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del made.name


@pytest.mark.parametrize("given", [((), {}), (("a", 1, None, 2), {}), (("a",), {"other": 1}), (("a",), {"name": "b"})])
def test_what_is_missing_or_too_much_is_refused(given: tuple[tuple[object, ...], dict[str, object]]) -> None:
    with pytest.raises(TypeError):
        Made(*given[0], **given[1])  # type: ignore[arg-type]


def test_what_it_does_not_do_is_refused_when_the_class_is_made() -> None:
    """A factory, a field that is not given, or more to do at the start: the standard library has those."""
    with pytest.raises(TypeError, match="plain"):

        @frozen
        class _Factory:
            names: list[str] = field(default_factory=list)

    with pytest.raises(TypeError, match="plain"):

        @frozen
        class _Passing:
            name: str
            other: InitVar[int]

    with pytest.raises(TypeError, match="plain"):

        @frozen
        class _More:
            name: str

            def __post_init__(self) -> None:
                raise AssertionError
