"""How the service is reached: options and variables of the environment in, a channel out."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from billing.admin.v1.admin_service_pb2_grpc import AdminServiceStub
from billing.v1.billing_service_pb2_grpc import BillingServiceStub
from billing_client import TLS, Options, UnavailableError
from billing_client.errors import error_of

from billing_cli.failures import UsageError

TARGET: Final = "127.0.0.1:50052"  # the service's default for its internal listener
PUBLIC_TARGET: Final = "127.0.0.1:50051"  # for that of callers
OPS: Final = "127.0.0.1:9091"  # and for its health page
TIMEOUT_S: Final = 15.0
MAX_TOKEN_BYTES: Final = 4_096

PAGE_SIZE: Final = 100  # the least of what the lists of the contract allow
MAX_PAGES: Final = 500  # of one command: a filter may find nothing in many pages
STREAM_LIMIT_S: Final = 86_400.0

Request = TypeVar("Request", bound=Any)
Response = TypeVar("Response", bound=Any)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Connection:
    """Where the service is, and who asks."""

    target: str = TARGET
    token_file: Path | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    ops: str = OPS
    timeout_s: float = TIMEOUT_S
    insecure: bool = False  # plain text to another machine

    def options(self) -> Options:
        """Give the client's options.

        Plain text is for this machine alone, unless somebody says otherwise: a token over plain text is anybody's.

        Raises:
            UsageError: they do not go together.
        """
        if (self.certificate is None) is not (self.key is None):
            raise UsageError("--cert and --key go together")
        here = _is_loopback(self.target)
        named = any((self.ca, self.certificate, self.server_name))
        if named and self.insecure:
            raise UsageError("--insecure is for plain text, and --ca, --cert and --server-name are for TLS")
        tls = TLS(self.ca, self.certificate, self.key, self.server_name)
        try:
            return Options(
                [self.target],
                token=None if self.token_file is None else _token(self.token_file),
                tls=tls if named or not (here or self.insecure) else None,
                timeout=timedelta(seconds=self.timeout_s),
            )
        except ValueError as error:
            raise UsageError(f"--target: {error}") from None


class Service:
    """The service, connected to at the first call."""

    def __init__(self, connection: Connection) -> None:
        """Take where it is; nothing is opened yet, so that help needs no connection."""
        self.connection = connection
        self._channel: grpc.Channel | None = None

    def close(self) -> None:
        """End the connection."""
        if self._channel is not None:
            self._channel.close()

    @property
    def admin(self) -> AdminServiceStub:
        """The calls of operators.

        Raises:
            UsageError: the options do not go together, or a file cannot be read.
        """
        return AdminServiceStub(self._opened())

    @property
    def billing(self) -> BillingServiceStub:
        """The calls of backends, where this is the public listener.

        Raises:
            UsageError: the options do not go together, or a file cannot be read.
        """
        return BillingServiceStub(self._opened())

    def _opened(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = _channel(self.connection.options())
        return self._channel

    @property
    def target(self) -> str:
        """Where it is, for a message."""
        return self.connection.target

    def call(self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Make one call.

        Raises:
            BillingError: it was refused, or nobody answered.
        """
        metadata = self.connection.options().metadata()
        try:
            return method(request, timeout=self.connection.timeout_s, metadata=metadata)
        except grpc.RpcError as raised:
            raise error_of(raised) from None

    def change(self, method: grpc.UnaryUnaryMultiCallable[Request, Response], request: Request) -> Response:
        """Make one call that changes something; where no answer came, say how to ask again without doing it twice.

        Raises:
            BillingError: it was refused, or nobody answered.
        """
        try:
            return self.call(method, request)
        except UnavailableError as error:
            again = (
                f"It may have been done. The same command with --request-id {request.request_id} never does it twice."
            )
            error.add_note(again)
            raise

    def pages(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        items: Callable[[Response], Iterable[Item]],
        limit: int,
    ) -> tuple[list[Item], bool]:
        """Read a list page by page up to a limit; say whether there is more.

        Raises:
            BillingError: a page was refused, or nobody answered.
        """
        found: list[Item] = []
        for _ in range(MAX_PAGES):
            request.page_size = min(limit - len(found), PAGE_SIZE)
            answer = self.call(method, request)
            found += items(answer)
            request.page_token = answer.next_page_token
            if not request.page_token or len(found) >= limit:
                break
        return found[:limit], bool(request.page_token)

    def stream(self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request) -> Iterator[Response]:
        """Make a call that answers with a stream; leaving it cancels the call.

        Raises:
            BillingError: it was refused, or broken off.
        """
        call = method(request, timeout=STREAM_LIMIT_S, metadata=self.connection.options().metadata())
        try:
            yield from call
        except grpc.RpcError as raised:
            raise error_of(raised) from None
        finally:
            call.cancel()


def _channel(options: Options) -> grpc.Channel:
    # One person's few calls, to a listener of either kind: health is not asked first, what a call says is clearer.
    arguments = options.arguments(follow_health=False)
    if options.tls is None:
        return grpc.insecure_channel(options.target, arguments)
    try:
        return grpc.secure_channel(options.target, options.tls.credentials(), arguments)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from None


def _token(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--token-file: {path} cannot be read: {error.strerror}") from None
    token = content.decode("ascii", errors="replace").strip()
    if not re.fullmatch(r"[!-~]+", token) or len(content) > MAX_TOKEN_BYTES:
        raise UsageError(f"--token-file: {path} holds no token")
    return token


def _is_loopback(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
