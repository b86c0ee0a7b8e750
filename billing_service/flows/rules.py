"""By which rules of ours something that is kept was worked out: a release with other ones works it out anew."""

from __future__ import annotations

import ast
from hashlib import sha256
from inspect import getsource
from types import ModuleType

from billing_service.domain import (
    access,
    entitlement,
    facts,
    grant,
    merge,
    observation,
    ownership,
    payments,
    plan_index,
    views,
)


def told_apart(*modules: ModuleType) -> str:
    """Give a short word that differs where modules do something else, and is the same where only their comments differ."""
    return sha256("\n".join(_bare(ast.parse(getsource(one))) for one in modules).encode()).hexdigest()[:16]


def _bare(tree: ast.Module) -> str:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


# How a customer's facts become what the customer has. Nothing of that is kept but when time changes it next, and what was told.
ACCESS = told_apart(access, entitlement, grant, plan_index)
# How Stripe's objects become a customer's facts, which are kept.
GATHERING = told_apart(facts, merge, observation, ownership, payments, views)


def version_of(catalog_version: str) -> str:
    """Name by what a process works out what customers have: its catalog, and these rules."""
    return f"{catalog_version} {ACCESS} {GATHERING}"


def gathers_alike(version: str) -> bool:
    """Say whether a process of such a version makes the same facts of the same objects. Earlier releases did not say."""
    return version.endswith(f" {GATHERING}")
