"""What was given by hand: a plan at a quantity, or one feature at a value, for a window of time. Pure."""

from __future__ import annotations

from datetime import datetime

from billing_service.domain.catalog import UNLIMITED, Feature, FeatureType, FeatureValue, Unlimited
from billing_service.domain.frozen import frozen


@frozen
class GrantFacts:
    """A grant as it stands among the facts of a customer. Either `plan_key` is there, or `feature_key`.

    Stored in the customer's row: a field that is added later needs a default.
    """

    grant_id: str
    start: datetime
    end: datetime | None = None  # None: not by itself
    override: bool = False  # whether it decides alone, for the features that it names
    plan_key: str | None = None
    quantity: int = 1
    feature_key: str | None = None
    value: bool | int | str | None = None  # of the feature; None: unlimited

    @property
    def feature_value(self) -> FeatureValue:
        """The value of the feature that is given."""
        return UNLIMITED if self.value is None else self.value

    def is_over(self, now: datetime) -> bool:
        """Whether it has ended."""
        return self.end is not None and self.end <= now


def fits(feature: Feature | None, value: FeatureValue) -> bool:
    """Whether a value is of the type that the catalog declares for a feature; never where it declares none."""
    if feature is None:
        return False
    match feature.type:
        case FeatureType.BOOLEAN:
            return isinstance(value, bool)
        case FeatureType.INTEGER:
            return isinstance(value, Unlimited) or (isinstance(value, int) and not isinstance(value, bool))
        case FeatureType.TEXT:
            return isinstance(value, str) and not isinstance(value, Unlimited)
