"""What customers would gain or lose between two answers, and the sums of it over many; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from billing_service.domain.catalog import FeatureValue, Unlimited
from billing_service.domain.entitlement import Entitlements

EXAMPLES = 5  # customers that are named for each line

Shown = FeatureValue | None  # None: the catalog has no such feature


class Direction(StrEnum):
    """Which way a value changes for a customer."""

    GAIN = "gain"
    LOSS = "loss"
    OTHER = "other"  # one text for another, or a feature that became of another type


@dataclass(frozen=True)
class FeatureChange:
    """One feature of one customer, by two catalogs."""

    feature_key: str
    direction: Direction
    before: Shown
    after: Shown


@dataclass(frozen=True)
class Example:
    """One customer of a line."""

    customer_id: str
    before: Shown
    after: Shown


@dataclass
class Line:
    """How many customers one feature changes for in one direction; the first of them by id."""

    customers: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class Impact:
    """The sums over all customers that were looked at."""

    customers: int = 0
    gaining: int = 0  # customers who gain something; may be among the losing too
    losing: int = 0
    changing: int = 0  # customers for whom anything changes
    lines: dict[tuple[str, Direction], Line] = field(default_factory=dict)
    newcomers: tuple[FeatureChange, ...] = ()  # what changes for somebody who has bought nothing
    vanished: Mapping[str, int] = field(default_factory=dict)  # plans that are gone -> customers who have them

    def add(self, customer_id: str, changes: Iterable[FeatureChange]) -> None:
        """Count one customer."""
        self.customers += 1
        directions = set()
        for change in changes:
            directions.add(change.direction)
            line = self.lines.setdefault((change.feature_key, change.direction), Line())
            line.customers += 1
            if len(line.examples) < EXAMPLES:
                line.examples.append(Example(customer_id, change.before, change.after))
        self.changing += bool(directions)
        self.gaining += Direction.GAIN in directions
        self.losing += Direction.LOSS in directions

    @property
    def any_loss(self) -> bool:
        """Whether somebody would lose something, or the service would refuse to start."""
        lost = any(change.direction is Direction.LOSS for change in self.newcomers)
        return lost or bool(self.losing or self.vanished)

    @property
    def any_change(self) -> bool:
        """Whether anything would be otherwise for anybody."""
        return bool(self.changing or self.newcomers or self.vanished)


def changes_between(before: Entitlements, after: Entitlements) -> tuple[FeatureChange, ...]:
    """Give the features of which one customer has another value, in the order of the catalogs, the later one first."""
    old = {one.feature_key: one.value for one in before.entitlements}
    new = {one.feature_key: one.value for one in after.entitlements}
    keys = dict.fromkeys([*new, *old])
    pairs = ((key, old.get(key), new.get(key)) for key in keys)
    return tuple(FeatureChange(key, _direction(a, b), a, b) for key, a, b in pairs if not _same(a, b))


def _same(before: Shown, after: Shown) -> bool:
    """Whether nothing changes: a feature that comes or goes and that the customer does not have changes nothing."""
    return (
        (not before and not after)
        if before is None or after is None
        else (type(before), before) == (type(after), after)
    )


def _direction(before: Shown, after: Shown) -> Direction:
    if not before or not after:  # off, 0, "" and not there at all are the same to whoever has it
        return Direction.OTHER if not before and not after else Direction.LOSS if before else Direction.GAIN
    if isinstance(before, bool) or isinstance(after, bool):  # before numbers: True is an int to Python
        return Direction.OTHER
    if isinstance(before, int | Unlimited) and isinstance(after, int | Unlimited):
        more = isinstance(after, Unlimited) or (isinstance(before, int) and after > before)
        return Direction.GAIN if more else Direction.LOSS
    return Direction.OTHER
