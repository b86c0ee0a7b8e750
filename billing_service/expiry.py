"""When certificates end, read from their DER: Python's `ssl` tells it only of a peer's certificate and of authorities."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION_TAG: Final = 0xA0  # the one field before the serial number, and it may be absent
_SHORT_YEAR_TAG: Final = 0x17  # UTCTime; the other is GeneralizedTime
_FIELDS_BEFORE_VALIDITY: Final = 3  # serial number, algorithm, issuer


def first_end(pem: bytes) -> float:
    """Give when the first certificate of a chain ends, in Unix seconds: the chain does not hold any longer. NaN where none is read."""
    return min(_ends(pem), default=math.nan)


def last_end(pem: bytes) -> float:
    """Give when the last of several authorities ends, in Unix seconds: until then one may replace another. NaN where none is read."""
    return max(_ends(pem), default=math.nan)


def _ends(pem: bytes) -> Iterable[float]:
    for block in _CERTIFICATE.findall(pem):
        try:
            yield _end(ssl.PEM_cert_to_DER_cert(block.decode("ascii")))
        except (ValueError, IndexError):
            continue  # OpenSSL took it; a number that cannot be shown is no reason to show none


def _end(der: bytes) -> float:
    _, at, _ = _element(der, 0)
    _, at, _ = _element(der, at)
    tag, _, after = _element(der, at)
    at = after if tag == _VERSION_TAG else at
    for _field in range(_FIELDS_BEFORE_VALIDITY):
        _, _, at = _element(der, at)
    _, at, _ = _element(der, at)
    _, _, at = _element(der, at)
    tag, start, after = _element(der, at)
    text = der[start:after].decode("ascii")
    if tag == _SHORT_YEAR_TAG:  # as RFC 5280 has it: 1950 to 2049
        text = ("20" if text < "50" else "19") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Give the tag of the element that begins there, and where its content begins and ends."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(der[start : start + size]), start + size
    return der[at], start, start + length
