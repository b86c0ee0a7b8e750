"""What a read of entitlements can be asked, as a value; and an answer cut down to the features that were asked for."""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import datetime

from billing_service.domain.entitlement import Entitlements
from billing_service.domain.errors import FeatureNotFoundError
from billing_service.domain.frozen import frozen, replace


@frozen
class EntitlementsQuery:
    """One question about one customer, each field valid by itself."""

    customer_id: str
    feature_keys: tuple[str, ...] = ()  # none: every feature
    min_revision: int = 0
    after_checkout_session_id: str | None = None
    as_of: datetime | None = None  # None: now

    @property
    def is_plain(self) -> bool:
        """Whether it asks what the customer may use now, and nothing else."""
        return not (
            self.feature_keys
            or self.min_revision
            or self.after_checkout_session_id is not None
            or self.as_of is not None
        )


def require_features(feature_keys: Sequence[str], known: Container[str]) -> None:
    """Refuse keys that are no features of the catalog.

    Raises:
        FeatureNotFoundError: for the first such key.
    """
    for index, key in enumerate(feature_keys):
        if key not in known:
            raise FeatureNotFoundError(f"feature_keys[{index}]", key)


def only(answer: Entitlements, feature_keys: Sequence[str]) -> Entitlements:
    """Give an answer with these features alone, in the order of the catalog; with all of them where none is named."""
    if not feature_keys:
        return answer
    wanted = set(feature_keys)
    return replace(answer, entitlements=tuple(one for one in answer.entitlements if one.feature_key in wanted))
