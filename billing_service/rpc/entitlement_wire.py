"""What a customer may use, as the bytes of a GetEntitlementsResponse: the hot path.

Put together here it costs a third of what building it of messages does, each of which is allocated, filled and copied. Parts that are
the same for many customers (what a feature's key and value are, a plan's key) are encoded once; nothing of one customer is
kept. A test compares every answer with the one that is built of messages.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from billing.v1 import entitlement_pb2, plan_pb2
from google.protobuf.message import Message

from billing_service.domain.access import Source, SourceState, SourceType
from billing_service.domain.catalog import FeatureValue, Unlimited
from billing_service.domain.entitlement import Entitlement, Entitlements

_SourceMessage = entitlement_pb2.Source

SOURCE_TYPES: Final[Mapping[SourceType, entitlement_pb2.Source.Type.ValueType]] = {
    SourceType.DEFAULT_PLAN: _SourceMessage.TYPE_DEFAULT_PLAN,
    SourceType.SUBSCRIPTION: _SourceMessage.TYPE_SUBSCRIPTION,
    SourceType.PURCHASE: _SourceMessage.TYPE_PURCHASE,
    SourceType.GRANT: _SourceMessage.TYPE_GRANT,
}
SOURCE_STATES: Final[Mapping[SourceState, entitlement_pb2.Source.State.ValueType]] = {
    SourceState.ACTIVE: _SourceMessage.STATE_ACTIVE,
    SourceState.TRIALING: _SourceMessage.STATE_TRIALING,
    SourceState.GRACE: _SourceMessage.STATE_GRACE,
    SourceState.ENDING: _SourceMessage.STATE_ENDING,
    SourceState.PENDING_PAYMENT: _SourceMessage.STATE_PENDING_PAYMENT,
    SourceState.PAYMENT_OVERDUE: _SourceMessage.STATE_PAYMENT_OVERDUE,
    SourceState.PAUSED: _SourceMessage.STATE_PAUSED,
    SourceState.ENDED: _SourceMessage.STATE_ENDED,
    SourceState.UNRESOLVED: _SourceMessage.STATE_UNRESOLVED,
    SourceState.REFUNDED: _SourceMessage.STATE_REFUNDED,
    SourceState.DISPUTED: _SourceMessage.STATE_DISPUTED,
    SourceState.SCHEDULED: _SourceMessage.STATE_SCHEDULED,
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INT64: Final = 0xFFFF_FFFF_FFFF_FFFF  # a negative number is sent as the unsigned one of the same bits
_VARINT, _LENGTH = 0, 2  # wire types


def _encoded(number: int) -> bytes:
    number &= _INT64
    low = []
    while number > 0x7F:
        low.append(number & 0x7F | 0x80)
        number >>= 7
    low.append(number)
    return bytes(low)


def _tag(message: type[Message], field: str, kind: int = _LENGTH) -> bytes:
    """Give what goes before a field."""
    return _encoded(message.DESCRIPTOR.fields_by_name[field].number << 3 | kind)


_Answer = entitlement_pb2.GetEntitlementsResponse
_CUSTOMER_ID: Final = _tag(_Answer, "customer_id")
_REVISION: Final = _tag(_Answer, "revision", _VARINT)
_ENTITLEMENTS: Final = _tag(_Answer, "entitlements")
_SOURCES: Final = _tag(_Answer, "sources")
_PLAN_KEYS: Final = _tag(_Answer, "plan_keys")
_READ_TIME: Final = _tag(_Answer, "read_time")
_CHANGE_TIME: Final = _tag(_Answer, "next_change_time")
_CATALOG_VERSION: Final = _tag(_Answer, "catalog_version")
_FACTS_TIME: Final = _tag(_Answer, "facts_time")
_SOURCE: Final = _tag(entitlement_pb2.Entitlement, "source")
_ENTITLEMENT_CHANGE_TIME: Final = _tag(entitlement_pb2.Entitlement, "next_change_time")
_STRIPE_ID: Final = _tag(_SourceMessage, "stripe_id")
_SUBSCRIPTION_ID: Final = _tag(_SourceMessage, "stripe_subscription_id")
_START_TIME: Final = _tag(_SourceMessage, "start_time")
_END_TIME: Final = _tag(_SourceMessage, "end_time")
_GRANT_ID: Final = _tag(_SourceMessage, "grant_id")
_SECONDS, _NANOS = b"\x08", b"\x10"  # of a google.protobuf.Timestamp
_FIVE_BYTES, _SIX_BYTES = 1 << 28, 1 << 35  # from where on a number takes so many, at seven bits each
_Times = dict[int, bytes]  # of one answer, by identity: a period's end is in it three times


def entitlements_wire(answer: Entitlements) -> bytes:
    """Give the bytes of the answer.

    Raises:
        ValueError: a time has no zone.
    """
    times: _Times = {}
    sources = {id(source): _source(source, times) for source in answer.sources}
    parts = [_text(_CUSTOMER_ID, answer.customer_id), _REVISION, _encoded(answer.revision)]
    _add_entitlements(parts, answer.entitlements, sources, times)
    for source in answer.sources:
        data = sources[id(source)]
        parts += (_SOURCES, _varint(len(data)), data)
    parts += [_known_text(_PLAN_KEYS, key) for key in answer.plan_keys]
    parts += (
        _time(_READ_TIME, answer.read_time, times),
        _time(_CHANGE_TIME, answer.next_change_time, times),
        _known_text(_CATALOG_VERSION, answer.catalog_version),
        _time(_FACTS_TIME, answer.facts_time, times),
    )
    return b"".join(parts)


def _add_entitlements(
    parts: list[bytes], entitlements: Sequence[Entitlement], sources: Mapping[int, bytes], times: _Times
) -> None:
    """Add one field for each; `sources` has the bytes of sources, by identity. Most features of a customer have the same reason."""
    last: Entitlement | None = None
    why = b""
    for one in entitlements:
        if last is None or one.source is not last.source or one.next_change_time is not last.next_change_time:
            why = _why(one, sources, times)
        last = one
        what = _what(one.feature_key, one.value)
        parts += (_ENTITLEMENTS, _varint(len(what) + len(why)), what, why)


def _why(one: Entitlement, sources: Mapping[int, bytes], times: _Times) -> bytes:
    change = _time(_ENTITLEMENT_CHANGE_TIME, one.next_change_time, times)
    if one.source is None:
        return change
    data = sources.get(id(one.source)) or _source(one.source, times)
    return b"".join((_SOURCE, _varint(len(data)), data, change))


@lru_cache(maxsize=4_096, typed=True)  # typed: True and 1 are equal, and are not the same answer
def _what(feature_key: str, value: FeatureValue) -> bytes:
    return entitlement_pb2.Entitlement(feature_key=feature_key, value=feature_value(value)).SerializeToString()


def _source(source: Source, times: _Times) -> bytes:
    parts = (
        _kind(source.type, source.state, source.plan_key, source.quantity, source.override),
        _text(_STRIPE_ID, source.stripe_id),
        _text(_SUBSCRIPTION_ID, source.stripe_subscription_id),
        _time(_START_TIME, source.start_time, times),
        _time(_END_TIME, source.end_time, times),
        _text(_GRANT_ID, source.grant_id),
    )
    return b"".join(parts)


@lru_cache(maxsize=4_096)
def _kind(kind: SourceType, state: SourceState, plan_key: str | None, quantity: int, override: bool) -> bytes:
    return entitlement_pb2.Source(
        type=SOURCE_TYPES[kind],
        state=SOURCE_STATES[state],
        plan_key=plan_key or "",
        quantity=quantity,
        override=override,
    ).SerializeToString()


def _text(tag: bytes, text: str | None) -> bytes:
    if not text:
        return b""
    data = text.encode()
    return tag + _varint(len(data)) + data


_known_text = lru_cache(maxsize=4_096)(_text)  # of the catalog


def _time(tag: bytes, moment: datetime | None, times: _Times) -> bytes:
    if moment is None:
        return b""
    data = times.get(id(moment))
    if data is None:
        data = times[id(moment)] = _timestamp(*since_epoch(moment))
    return tag + data


def _timestamp(seconds: int, nanos: int) -> bytes:
    """Give a google.protobuf.Timestamp with its length before it."""
    s = seconds
    if _FIVE_BYTES <= s < _SIX_BYTES:  # from 1978 to 3058: all that Stripe tells
        data = bytes((8, s & 127 | 128, s >> 7 & 127 | 128, s >> 14 & 127 | 128, s >> 21 & 127 | 128, s >> 28))
    else:
        data = _SECONDS + _encoded(s)
    if nanos:
        data += _NANOS + _encoded(nanos)
    return _varint(len(data)) + data


def since_epoch(moment: datetime) -> tuple[int, int]:
    """Give the seconds and nanoseconds of a Timestamp for an aware time.

    protobuf reads a naive one as UTC whatever was meant, so that would be a defect; what it has for this is several times slower.
    """
    if moment.tzinfo is None:
        raise ValueError("a time without a zone is not to leave the service")
    since = moment - _EPOCH
    return since.days * 86_400 + since.seconds, since.microseconds * 1_000


_varint = lru_cache(maxsize=4_096)(_encoded)  # of lengths, which are few


def feature_value(value: FeatureValue) -> plan_pb2.FeatureValue:
    """Convert a value; the order matters: True is an int to Python, and UNLIMITED a str."""
    if isinstance(value, bool):
        return plan_pb2.FeatureValue(bool_value=value)
    if isinstance(value, Unlimited):
        return plan_pb2.FeatureValue(unlimited=True)
    if isinstance(value, int):
        return plan_pb2.FeatureValue(integer_value=value)
    return plan_pb2.FeatureValue(text_value=value)
