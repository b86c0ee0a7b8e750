"""The signature is checked as Stripe says, and no bytes raise anything but the refusal."""

from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
import stripe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webhook_gateway.signature import NamedSecret, SignatureFault, SignatureRefusedError, verify

# A shared machine is slow at times, and nothing here is about time.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = 1_800_000_000
SECRET = "whsec_first"
SECRETS = (NamedSecret("first", SECRET), NamedSecret("second", "whsec_second"))
BODY = b'{"id": "evt_1", "name": "Z\xc3\xbcrich"}'


def sign(body: bytes = BODY, *, secret: str = SECRET, timestamp: int | str = NOW, scheme: str = "v1") -> str:
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, sha256).hexdigest()
    return f"t={timestamp},{scheme}={digest}"


def fault_of(header: str | None, body: bytes = BODY, *, now: float = NOW) -> SignatureFault:
    with pytest.raises(SignatureRefusedError) as refused:
        verify(header=header, body=body, secrets=SECRETS, now=now)
    return refused.value.fault


@pytest.mark.parametrize("named", SECRETS, ids=lambda named: named.name)
def test_says_which_secret_matched(named: NamedSecret) -> None:
    assert verify(header=sign(secret=named.secret), body=BODY, secrets=SECRETS, now=NOW) == named.name


@unhurried
@given(st.text(), st.integers(min_value=0, max_value=10**11))
def test_takes_what_the_real_sdk_signs(text: str, timestamp: int) -> None:
    header = stripe.WebhookSignature.generate_signature_header(text, SECRET, timestamp)
    assert verify(header=header, body=text.encode(), secrets=SECRETS, now=timestamp) == "first"


@unhurried
@given(st.text())
def test_what_we_take_the_real_sdk_takes_too(text: str) -> None:
    header = sign(text.encode())
    verify(header=header, body=text.encode(), secrets=SECRETS, now=NOW)
    assert stripe.WebhookSignature.verify_header(text, header, SECRET, tolerance=None)


def test_one_matching_signature_among_several_is_enough() -> None:
    """While a secret is rolled Stripe signs with both, and only one of them may be ours."""
    other = sign(secret="whsec_rolled_away").partition(",")[2]
    ours = sign().partition(",")[2]
    assert verify(header=f"t={NOW},{other},{ours}", body=BODY, secrets=SECRETS, now=NOW) == "first"


def test_spaces_around_the_items_do_not_matter() -> None:
    assert verify(header=sign().replace(",", " , "), body=BODY, secrets=SECRETS, now=NOW) == "first"


@pytest.mark.parametrize("scheme", ["v0", "v2", "V1", ""])
def test_every_other_scheme_is_ignored(scheme: str) -> None:
    """Taking v0, which is of no use but tests, would be a downgrade."""
    assert fault_of(sign(scheme=scheme)) is SignatureFault.MALFORMED
    assert fault_of(sign(scheme=scheme) + ",v1=" + "0" * 64) is SignatureFault.MISMATCH
    held = sign(scheme=scheme).partition(",")[2]
    assert fault_of(f"t={NOW},v1={'0' * 64},{held}") is SignatureFault.MISMATCH
    assert verify(header=f"{sign()},{scheme}={'0' * 64}", body=BODY, secrets=SECRETS, now=NOW) == "first"


@pytest.mark.parametrize("header", [None, ""])
def test_no_header_is_missing(header: str | None) -> None:
    assert fault_of(header) is SignatureFault.MISSING


@pytest.mark.parametrize(
    "header",
    [
        "t",
        "t=",
        "nonsense",
        f"t={NOW}",
        "v1=" + "0" * 64,
        sign(timestamp="1_800_000_000"),
        sign(timestamp="+1800000000"),
        sign(timestamp="-1800000000"),
        sign(timestamp="²"),
        sign(timestamp="1800000000.0"),
        sign(timestamp="9" * 5000),
        f"t={NOW - 9999}," + sign(),
        f"t={NOW}," + ",".join(["v1=" + "0" * 64] * 17),
    ],
)
def test_what_is_not_of_the_form_is_malformed(header: str) -> None:
    assert fault_of(header) is SignatureFault.MALFORMED


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (sign(secret="whsec_other"), BODY),
        (sign(secret="first"), BODY),  # the secret without its prefix
        (sign(), BODY[:-1]),
        (sign(), BODY + b"\n"),
        (sign(), b""),
        (sign().replace(f"t={NOW}", f"t={NOW + 1}"), BODY),
        (f"t={NOW},v1=" + "ü" * 64, BODY),
        (f"t={NOW},v1=", BODY),
        (sign().upper().replace("T=", "t=").replace("V1=", "v1="), BODY),
    ],
)
def test_what_no_secret_signed_is_a_mismatch(header: str, body: bytes) -> None:
    assert fault_of(header, body) is SignatureFault.MISMATCH


def test_no_secrets_verify_nothing() -> None:
    with pytest.raises(SignatureRefusedError):
        verify(header=sign(secret=""), body=BODY, secrets=(), now=NOW)


@pytest.mark.parametrize("age_s", [-300, 0, 300])
def test_holds_for_300_seconds_to_either_side(age_s: int) -> None:
    assert verify(header=sign(), body=BODY, secrets=SECRETS, now=NOW + age_s) == "first"


@pytest.mark.parametrize(
    ("age_s", "fault"),
    [
        (300.5, SignatureFault.STALE),
        (10**9, SignatureFault.STALE),
        (-300.5, SignatureFault.FUTURE),
        (-365 * 86400, SignatureFault.FUTURE),  # which the SDK lets pass
    ],
)
def test_is_refused_outside_of_the_tolerance(age_s: float, fault: SignatureFault) -> None:
    assert fault_of(sign(), now=NOW + age_s) is fault


def test_the_age_of_a_forged_signature_is_not_discussed() -> None:
    assert fault_of(sign(secret="whsec_other", timestamp=NOW - 9999)) is SignatureFault.MISMATCH


_headers = st.one_of(
    st.none(),
    st.text(),
    st.text(st.characters()),  # lone surrogates too: what aiohttp makes of bytes that are not UTF-8
    st.lists(st.tuples(st.sampled_from(["t", "v1", "v0", ""]), st.text()), max_size=5).map(
        lambda items: ",".join(f"{key}={value}" for key, value in items)
    ),
    st.binary(min_size=64, max_size=64).map(lambda junk: f"t={NOW},v1={junk.decode('latin-1')}"),
    st.binary(max_size=64).map(lambda junk: f"t={NOW},v1={junk.decode('utf-8', 'surrogateescape')}"),
)


@unhurried
@given(_headers, st.binary())
def test_no_header_and_no_body_raise_anything_but_the_refusal(header: str | None, body: bytes) -> None:
    with pytest.raises(SignatureRefusedError):
        verify(header=header, body=body, secrets=SECRETS, now=NOW)


@unhurried
@given(st.binary())
def test_any_body_that_is_signed_is_taken(body: bytes) -> None:
    """Whether it is UTF-8 is looked at later: the signature is of bytes."""
    assert verify(header=sign(body), body=body, secrets=SECRETS, now=NOW) == "first"


def test_neither_the_secret_nor_the_header_is_shown() -> None:
    assert "whsec" not in repr(SECRETS)
    with pytest.raises(SignatureRefusedError) as refused:
        verify(header="t=1,v1=personal", body=b"data", secrets=SECRETS, now=NOW)
    assert "personal" not in str(refused.value)
