"""The contract's values as people say them."""

from __future__ import annotations

from typing import Final

from billing.admin.v1.grant_pb2 import Grant
from billing.v1.entitlement_pb2 import Source
from billing.v1.plan_pb2 import FeatureValue
from google.protobuf.duration_pb2 import Duration

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def feature_value(value: FeatureValue) -> str:
    """Give the value of a feature."""
    kind = value.WhichOneof("kind")
    if kind == "bool_value":
        return "yes" if value.bool_value else "no"
    if kind == "integer_value":
        return f"{value.integer_value:,}"
    if kind == "unlimited":
        return "unlimited"
    return value.text_value or "–"


def source_id(source: Source) -> str:
    """Name a source: by Stripe's id of it, by that of the grant, or as what every customer has."""
    return source.stripe_id or source.grant_id or "default plan"


def duration(span: Duration) -> str:
    """Give a policy's span in its largest whole unit."""
    for size, unit in _UNITS:
        if span.seconds and span.seconds % size == 0:
            return f"{span.seconds // size} {unit}"
    return f"{span.seconds} s" if span.seconds else "none"


def given(grant: Grant) -> str:
    """Say what a grant gives, and how it stands with the rest."""
    mode = "instead: " if grant.mode == Grant.MODE_OVERRIDE else ""
    if grant.WhichOneof("given") == "plan":
        return f"{mode}{grant.plan.plan_key} × {grant.plan.quantity}"
    return f"{mode}{grant.feature.feature_key} = {feature_value(grant.feature.value)}"


def who(actor: str, identity: str) -> str:
    """Say who did something: as they call themselves, and by what they showed where that is another name."""
    return f"{actor} (as {identity})" if identity not in {"", actor} else actor
