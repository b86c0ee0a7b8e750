"""Who may call: names and roles, and what they are known by. Pure: texts in, values out.

The access file has one line for each thing by which somebody is known; `#` begins a comment:

    token        storefront  caller   sha256:<64 hex digits>
    certificate  gateway     gateway  gateway.billing.internal

A token is kept as its SHA-256 alone. Tokens are random, so that neither salt nor a slow hash would add anything.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

MAX_ENTRIES: Final = 200  # a token is compared with all of them at each call
MAX_PROBLEMS: Final = 20  # named at once; a file of another kind is not to fill the screen

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST_PREFIX: Final = "sha256:"
_DIGEST: Final = re.compile(rf"{DIGEST_PREFIX}[0-9a-f]{{64}}")
_SUBJECT: Final = re.compile(r"[\x21-\x7e]{1,255}")


class Role(StrEnum):
    """What somebody is allowed to do; no role includes another."""

    CALLER = "caller"
    GATEWAY = "gateway"
    ADMIN = "admin"


@dataclass(frozen=True)
class Identity:
    """Who calls: the name for the log, and the role."""

    name: str
    role: Role


@dataclass(frozen=True)
class KnownToken:
    """A token, by its SHA-256."""

    identity: Identity
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, identity: Identity, token: str) -> KnownToken:
        """Take a token as it is shown, or as it is kept: sha256: and 64 hex digits."""
        if is_digest(token):
            return cls(identity, bytes.fromhex(token.removeprefix(DIGEST_PREFIX)))
        return cls(identity, hashlib.sha256(token.encode()).digest())


@dataclass(frozen=True)
class Credentials:
    """By what callers are known. Several may lead to one identity: that is how one is replaced without a pause."""

    tokens: tuple[KnownToken, ...] = ()
    certificates: Mapping[str, Identity] = field(default_factory=dict)  # by a name that the certificate carries

    def by_token(self, token: str) -> Identity | None:
        """Say whose token this is. It is compared with all of them, each in constant time, whichever it is."""
        shown = hashlib.sha256(token.encode(errors="surrogateescape")).digest()
        found = [known.identity for known in self.tokens if hmac.compare_digest(known.digest, shown)]
        return found[0] if found else None

    def by_certificate(self, names: Iterable[str]) -> Identity | None:
        """Say whose verified certificate carries these names; nobody's where they lead to several identities."""
        found = {self.certificates[name] for name in names if name in self.certificates}
        return found.pop() if len(found) == 1 else None

    def have(self, role: Role, *, by_certificate: bool = True) -> bool:
        """Say whether anybody has this role; `by_certificate`: also one who could show nothing but a certificate."""
        certified = self.certificates.values() if by_certificate else ()
        identities = (*(known.identity for known in self.tokens), *certified)
        return any(identity.role is role for identity in identities)

    def with_tokens(self, identity: Identity, tokens: Collection[str]) -> Credentials:
        """Give the same with tokens of somebody's beside them, each as it is shown or as it is kept."""
        return Credentials((*self.tokens, *(KnownToken.of(identity, one) for one in tokens)), self.certificates)


def is_digest(token: str) -> bool:
    """Say whether this is a token as it is kept."""
    return _DIGEST.fullmatch(token) is not None


class AccessFileError(ValueError):
    """The access file does not say who may call; the message names every line that does not hold, and no value."""


def parse_access(text: str) -> Credentials:
    """Read an access file.

    Raises:
        AccessFileError: lines do not hold, there are too many of them, or there is none.
    """
    lines = [(number, line.partition("#")[0].split()) for number, line in enumerate(text.splitlines(), start=1)]
    entries = [(number, words) for number, words in lines if words]
    problems = [f"line {number} {problem}" for number, words in entries if (problem := _problem(words))]
    if not entries:
        problems = ["names nobody"]  # cut off while it was written, more likely than meant
    elif len(entries) > MAX_ENTRIES:
        problems = [f"has more than {MAX_ENTRIES} entries"]
    elif not problems:
        problems = [f"line {number} says again what another line says" for number in _repeated(entries)]
    if problems:
        raise AccessFileError("; ".join(problems[:MAX_PROBLEMS]))
    return _credentials([words for _, words in entries])


def _problem(words: Sequence[str]) -> str | None:
    if len(words) != 4 or words[0] not in {"token", "certificate"}:
        return 'must be "token NAME ROLE sha256:..." or "certificate NAME ROLE SUBJECT"'
    kind, name, role, what = words
    if not _NAME.fullmatch(name):
        return "must have a name of 1 to 64 letters, digits, dots, dashes or underscores"
    if role not in set(Role):
        return f"must have one of the roles {', '.join(Role)}"
    if kind == "token" and not is_digest(what):
        return "must have the token's SHA-256, as sha256: and 64 hex digits in lower case; never the token"
    if kind == "certificate" and not _SUBJECT.fullmatch(what):
        return "must have a name that the certificate carries"
    return None


def _repeated(entries: Iterable[tuple[int, Sequence[str]]]) -> list[int]:
    """Give the lines whose token or certificate another line has given to somebody."""
    seen: set[tuple[str, str]] = set()
    repeated = []
    for number, (kind, _, _, what) in entries:
        if (kind, what) in seen:
            repeated.append(number)
        seen.add((kind, what))
    return repeated


def _credentials(entries: Iterable[Sequence[str]]) -> Credentials:
    tokens, certificates = [], {}
    for kind, name, role, what in entries:
        identity = Identity(name, Role(role))
        if kind == "token":
            tokens.append(KnownToken.of(identity, what))
        else:
            certificates[what] = identity
    return Credentials(tuple(tokens), certificates)
