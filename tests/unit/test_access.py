"""The access file says who may call, or every line that does not hold is named and nothing of it shown."""

from __future__ import annotations

import hashlib

import pytest

from billing_service.access import MAX_ENTRIES, AccessFileError, Credentials, Identity, Role, parse_access
from billing_service.watched import Watch, Watched


def _hash(token: str) -> str:
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


def test_a_token_is_known_by_its_hash_and_two_of_one_name_at_once() -> None:
    known = parse_access(
        f"# ours\ntoken shop caller {_hash('old')}\n\ntoken shop caller {_hash('new')}  # from Monday\n"
        f"token ops admin {_hash('third')}\ncertificate gateway gateway gateway.internal\n"
    )
    assert known.by_token("old") == known.by_token("new") == Identity("shop", Role.CALLER)
    assert known.by_token("third") == Identity("ops", Role.ADMIN)
    assert known.by_token("") is known.by_token("older") is known.by_token(_hash("old")) is None
    assert known.by_certificate(["x", "gateway.internal"]) == Identity("gateway", Role.GATEWAY)
    assert [known.have(role) for role in Role] == [True, True, True]


def test_a_certificate_of_two_people_is_nobodys() -> None:
    known = parse_access("certificate a caller one\ncertificate b gateway two\n")
    assert known.by_certificate(["one", "two"]) is None
    assert known.by_certificate([]) is None


def test_every_line_that_does_not_hold_is_named_and_none_shown() -> None:
    lines = [
        "token shop caller hunter2hunter2",
        f"token shop root {_hash('a')}",
        f"token a/b caller {_hash('b')}",
        "certificate hunter2",
        "password hunter2 caller x",
        f"token shop caller {_hash('c')}",
        f"token other admin {_hash('c')}",
    ]
    with pytest.raises(AccessFileError) as caught:
        parse_access("\n".join(lines))
    said = str(caught.value)
    assert all(f"line {number} " in said for number in (1, 2, 3, 4, 5))
    assert "hunter2" not in said
    with pytest.raises(AccessFileError, match="line 2 says again"):
        parse_access("\n".join(lines[-2:]))


@pytest.mark.parametrize("text", ["", "\n# nobody yet\n"])
def test_a_file_that_names_nobody_is_one_that_was_cut_off(text: str) -> None:
    with pytest.raises(AccessFileError, match="names nobody"):
        parse_access(text)


def test_the_number_of_entries_is_bounded() -> None:
    text = "\n".join(f"certificate a caller n{number}" for number in range(MAX_ENTRIES + 1))
    with pytest.raises(AccessFileError, match="more than"):
        parse_access(text)


def test_neither_a_token_nor_its_hash_is_ever_printed() -> None:
    known = Credentials().with_tokens(Identity("a", Role.CALLER), ["hunter2-hunter2"])
    assert "hunter2" not in repr(known)
    assert "digest" not in repr(known)


def test_a_token_may_be_given_by_its_hash_which_nobody_can_show() -> None:
    """What the service is given then opens nothing."""
    gateway = Identity("gateway", Role.GATEWAY)
    known = Credentials().with_tokens(gateway, [_hash("of-the-gateway"), "another-one"])
    assert known.by_token("of-the-gateway") == known.by_token("another-one") == gateway
    assert known.by_token(_hash("of-the-gateway")) is None


def test_what_does_not_hold_any_more_keeps_the_old_and_is_warned_of_until_it_does() -> None:
    text = ["first"]

    def read() -> str:
        if text[0] == "bad":
            raise ValueError("is bad")
        return text[0]

    one, other = Watched("ONE", read), Watched("OTHER", lambda: "constant")
    watch = Watch([one, other], 1)
    text[0] = "bad"
    one.look()
    assert (one.current, watch.warnings()) == ("first", ["ONE: is bad; the one before is still used"])
    text[0] = "second"
    one.look()
    assert (one.current, watch.warnings()) == ("second", [])
