"""An operators' service that has nothing: every method is there and fails."""

from __future__ import annotations

from typing import Any

from billing.admin.v1 import admin_service_pb2, admin_service_pb2_grpc


async def _fail(_self: Any, _request: Any, _context: Any) -> Any:
    raise NotImplementedError


async def _fail_as_a_stream(_self: Any, request: Any, context: Any) -> Any:
    if request or context:
        raise NotImplementedError
    yield


_SERVICE = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]
_METHODS = {method.name: _fail_as_a_stream if method.server_streaming else _fail for method in _SERVICE.methods}

UnservedAdmin: Any = type("UnservedAdmin", (admin_service_pb2_grpc.AdminServiceServicer,), dict(_METHODS))
