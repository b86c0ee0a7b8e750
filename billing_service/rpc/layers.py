"""One layer around every call of a server: the plumbing under `interceptors`."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ClassVar, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from billing_service.domain.errors import FieldViolation, InvalidFieldsError

# Quoted: generic for the type checker alone.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
Around: TypeAlias = "Callable[[Context], AbstractAsyncContextManager[None]]"

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Layer(grpc.aio.ServerInterceptor):
    """Code around every call, as an async context manager.

    gRPC asks an interceptor anew for each call; this one wraps a method at its first call and answers from then on with
    what it made. What it remembers is bounded by the number of methods: an unknown method has no handler.
    """

    around_streams: ClassVar[bool] = True

    def __init__(self) -> None:
        self._wrapped: dict[tuple[str, Handler], Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Give the method's handler with this layer around it; None for an unknown method, which gRPC then answers."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if not self.applies(method, handler):
            return handler
        wrapped = self._wrapped.get((method, handler))
        if wrapped is None:
            wrapped = self._wrapped[method, handler] = wrap(handler, partial(self.around, method))
        return wrapped

    def applies(self, method: str, handler: Handler) -> bool:  # noqa: ARG002 - layers that look at the method override it
        """Say whether this layer is for the method at all."""
        return self.around_streams or not (handler.request_streaming or handler.response_streaming)

    @abstractmethod
    def around(self, method: str, context: Context) -> AbstractAsyncContextManager[None]:
        """Give what is to happen around one call. Every call has a task, and so a context, of its own."""


def wrap(handler: Handler, around: Around) -> Handler:
    """Put a layer around a handler of any kind; how it reads and writes its messages stays."""
    kind, behaviour = behaviour_of(handler)
    make = _around_generator if inspect.isasyncgenfunction(behaviour) else _around_coroutine
    return rebuilt(handler, kind, make(behaviour, around), handler.request_deserializer)


def behaviour_of(handler: Handler) -> tuple[str, Callable[..., Any]]:
    """Give the kind of a handler ("unary_unary"...) and the servicer's method in it."""
    return next((kind, getattr(handler, kind)) for kind in _KINDS if getattr(handler, kind) is not None)


def rebuilt(
    handler: Handler, kind: str, behaviour: Callable[..., Any], deserializer: Callable[[bytes], Any] | None
) -> Handler:
    """Make a handler of the same kind with another behaviour."""
    return _handler(kind, behaviour, deserializer, handler.response_serializer)


def _handler(
    kind: str,
    behaviour: Callable[..., Any],
    deserializer: Callable[[bytes], Any] | None,
    serializer: Callable[[Any], bytes] | None,
) -> Handler:
    make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(behaviour, request_deserializer=deserializer, response_serializer=serializer)


def _around_coroutine(behaviour: Callable[..., Any], around: Around) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> Any:
        async with around(context):
            return await behaviour(request, context)

    return call


def _around_generator(behaviour: Callable[..., Any], around: Around) -> Callable[..., Any]:
    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        async with around(context):
            async for message in behaviour(request, context):
                yield message

    return stream


class RequestDecoding(grpc.aio.ServerInterceptor):
    """Decodes single requests inside the other layers, and lets an answer pass that is the bytes of its message already.

    gRPC itself answers bytes that are no such message with UNKNOWN and the decoder's own words; decoded in here, the
    call is logged and answered like any other that breaks the contract.
    """

    def __init__(self) -> None:
        self._decoding: dict[Handler, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Give the method's handler, fed with bytes."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming or handler.request_deserializer is None:
            return handler
        decoding = self._decoding.get(handler)
        if decoding is None:
            decoding = self._decoding[handler] = _decoding(handler)
        return decoding


def _decoding(handler: Handler) -> Handler:
    kind, behaviour = behaviour_of(handler)
    decode = handler.request_deserializer

    def call(raw: bytes, context: Context) -> Any:
        return behaviour(decoded(decode, raw), context)

    async def unary(raw: bytes, context: Context) -> Any:
        return await call(raw, context)

    async def stream(raw: bytes, context: Context) -> AsyncIterator[Any]:
        async for message in call(raw, context):
            yield message

    is_stream = inspect.isasyncgenfunction(behaviour)
    return _handler(kind, stream if is_stream else unary, None, _unless_bytes(handler.response_serializer))


def _unless_bytes(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """Have answers of the hot path, which are put together as bytes, not made into messages only to be written again."""
    if serialize is None:
        return None

    def written(answer: Any) -> bytes:
        return answer if type(answer) is bytes else serialize(answer)

    return written


def decoded(decode: Callable[[bytes], Any] | None, raw: bytes) -> Any:
    """Decode a request.

    Raises:
        InvalidFieldsError: it is no such message.
    """
    if decode is None:
        return raw
    try:
        return decode(raw)
    except DecodeError:
        violation = FieldViolation("", "the request is not a valid message of this method (protobuf, UTF-8 strings)")
        raise InvalidFieldsError([violation]) from None
