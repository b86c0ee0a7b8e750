"""Which role each method is for, as the contract declares it (billing.options.v1.required_role)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from billing.options.v1 import role_pb2
from google.protobuf.descriptor import ServiceDescriptor

from billing_service.access import Role

_ROLES: Final[Mapping[int, Role]] = MappingProxyType(
    {
        role_pb2.ROLE_CALLER: Role.CALLER,
        role_pb2.ROLE_GATEWAY: Role.GATEWAY,
        role_pb2.ROLE_ADMIN: Role.ADMIN,
    }
)


def declared_roles(service: ServiceDescriptor) -> dict[str, Role]:
    """Give the role of each method by its path, "/package.Service/Method"; one that declares none is not in there."""
    declared = {
        f"/{service.full_name}/{method.name}": method.GetOptions().Extensions[role_pb2.required_role]
        for method in service.methods
    }
    return {path: _ROLES[number] for path, number in declared.items() if number in _ROLES}
