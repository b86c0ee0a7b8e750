"""When certificates end, as an alert wants to know it: read from the files that the programs have."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from billing_service.expiry import first_end, last_end
from tests.certificates import Authority

ROOT = Path(__file__).parents[2]
DAYS = (3, 40, 400 * 365 // 10)  # the last is beyond 2050, where the form of the time changes


def signed(days: int) -> bytes:
    return Authority().sign("a.example", ends_in=timedelta(days=days)).certificate


def end_of(pem: bytes) -> float:
    """As another program reads it."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


@pytest.mark.parametrize("days", DAYS)
def test_the_end_of_a_certificate_is_what_others_read_too(days: int) -> None:
    pem = signed(days)
    assert first_end(pem) == last_end(pem) == end_of(pem)
    assert (datetime.fromtimestamp(first_end(pem), UTC).year >= 2050) == (days == DAYS[-1])


def test_a_chain_ends_with_its_first_and_authorities_with_their_last() -> None:
    """A new authority beside one that ends is no reason for an alert; an issuer that ends before ours is."""
    soon, later = (signed(days) for days in DAYS[:2])
    assert first_end(later + b"words between\n" + soon) == end_of(soon)
    assert last_end(soon + later) == end_of(later)


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_what_cannot_be_read_gives_no_number_and_no_error(pem: bytes) -> None:
    """The page of numbers is shown all the same."""
    assert math.isnan(first_end(pem))
    assert math.isnan(last_end(pem))


def test_both_programs_read_it_alike() -> None:
    copies = [(ROOT / program / "expiry.py").read_text() for program in ("billing_service", "webhook_gateway")]
    assert copies[0] == copies[1]
