"""Stripe's webhook signature, checked on the raw body.

The rules, from Stripe's documentation ("Verify webhook signatures manually") and from the SDK as it behaves:

- The header is `t=<unix seconds>,v1=<hex>[,v1=<hex>...]`. Other schemes (`v0`) are ignored: only `v1` is current.
- What is signed is `t`, a full stop and the body, byte for byte. The key is the whole endpoint secret with its `whsec_`
  prefix; the algorithm is HMAC-SHA256, written in lower-case hex.
- While a secret is rolled Stripe sends one `v1` per live secret, and test and live endpoints have different ones: so a
  list of named secrets is accepted, and the answer says which one matched.
- A signature holds for 300 s, to either side: the SDK takes a timestamp from any future, which is a replay for ever to
  whoever holds one.

Pure: standard library only, `now` is an argument. Whatever the bytes, the only thing raised is SignatureRefusedError.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

TOLERANCE_S = 300
_SCHEME = "v1"
_HEX_LENGTH = 64  # SHA-256 in hex
_MAX_TIMESTAMP_DIGITS = 12  # the year 33658: long enough, and no integer to choke on
# What nearly all headers are: then nothing has to be taken apart and looked at. `v0` stands beside it in test mode.
_USUAL = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})(?:,v0=[0-9a-f]{64})?")
_MAX_SIGNATURES = 16  # Stripe sends one per live secret, two while one is rolled


@dataclass(frozen=True)
class NamedSecret:
    """An endpoint's signing secret, and the name by which logs call it."""

    name: str
    secret: str = field(repr=False)


class SignatureFault(StrEnum):
    """Why a signature was refused."""

    MISSING = "signature_missing"
    MALFORMED = "signature_malformed"
    MISMATCH = "signature_mismatch"
    STALE = "signature_stale"
    FUTURE = "signature_in_future"


class SignatureRefusedError(Exception):
    """The signature does not hold; `fault` says why."""

    def __init__(self, fault: SignatureFault) -> None:
        """Take the fault; nothing of the header or the body is kept."""
        self.fault = fault
        super().__init__(fault.value)


def verify(*, header: str | None, body: bytes, secrets: Sequence[NamedSecret], now: float) -> str:
    """Say which of `secrets` signed `body`.

    Args:
        header: the value of `Stripe-Signature`; None where there is none.
        body: the raw bytes of the request.
        secrets: the secrets to try, in order.
        now: unix time in seconds.

    Returns:
        The name of the first secret that matches.

    Raises:
        SignatureRefusedError: there is no signature, it cannot be read, it is of no secret, or it is not of this time.
            That it is stale or in the future is said only of what was really signed: then it is a clock or a replay.
    """
    if not header:
        raise SignatureRefusedError(SignatureFault.MISSING)
    timestamp, candidates = _parse(header)
    name = _matching_secret(timestamp, candidates, body, secrets)
    age_s = now - int(timestamp)
    if age_s > TOLERANCE_S:
        raise SignatureRefusedError(SignatureFault.STALE)
    if age_s < -TOLERANCE_S:
        raise SignatureRefusedError(SignatureFault.FUTURE)
    return name


def _parse(header: str) -> tuple[str, list[str]]:
    """Give `t` as it was written, and the v1 signatures."""
    if usual := _USUAL.fullmatch(header):
        return usual[1], [usual[2]]
    timestamps: list[str] = []
    signatures: list[str] = []
    for item in header.split(","):
        key, _, value = item.strip().partition("=")
        if key == _SCHEME:
            signatures.append(value)
        elif key == "t":
            timestamps.append(value)
    # Two timestamps would leave open which of them is the signed one.
    if len(timestamps) != 1 or not _is_timestamp(timestamps[0]):
        raise SignatureRefusedError(SignatureFault.MALFORMED)
    if not 1 <= len(signatures) <= _MAX_SIGNATURES:
        raise SignatureRefusedError(SignatureFault.MALFORMED)
    return timestamps[0], signatures


def _is_timestamp(text: str) -> bool:
    # isdigit alone takes "²"; int() takes "1_0", "+1" and " 1".
    return text.isascii() and text.isdigit() and len(text) <= _MAX_TIMESTAMP_DIGITS


def _matching_secret(timestamp: str, candidates: Sequence[str], body: bytes, secrets: Sequence[NamedSecret]) -> str:
    signed = timestamp.encode() + b"." + body
    for named in secrets:
        expected = hmac.digest(named.secret.encode(), signed, "sha256").hex()
        for candidate in candidates:
            # compare_digest raises on a str that is not ASCII; such a one cannot match anyway.
            if len(candidate) == _HEX_LENGTH and candidate.isascii() and hmac.compare_digest(expected, candidate):
                return named.name
    raise SignatureRefusedError(SignatureFault.MISMATCH)
