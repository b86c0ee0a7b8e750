"""By which rules of ours something that is kept was worked out: a release with other ones works it out anew."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib import import_module
from inspect import getsource
from types import ModuleType

from billing_service import domain
from billing_service.domain import access, entitlement, facts, ownership, plan_index

_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def told_apart(*modules: ModuleType) -> str:
    """Give a short word that differs where modules, or those of the domain that they import, do something else.

    It is the same where only their comments differ.
    """
    texts: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module.__name__ not in texts:
            texts[module.__name__], imported = _read(module)
            waiting += map(import_module, imported)
    return sha256("\n".join(texts[name] for name in sorted(texts)).encode()).hexdigest()[:16]


@cache
def _read(module: ModuleType) -> tuple[str, Sequence[str]]:
    """Give a module's text without comments, and the modules of the domain that it imports."""
    tree = ast.parse(getsource(module))
    imported = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{domain.__name__}."):
            imported.append(str(node.module))
        elif isinstance(node, _DOCUMENTED) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree), imported


# How a customer's facts become what the customer has. Nothing of that is kept but when time changes it next, and what was told.
ACCESS = told_apart(access, entitlement, plan_index)
# How Stripe's objects become a customer's facts, which are kept.
GATHERING = told_apart(facts, ownership)


def version_of(catalog_version: str) -> str:
    """Name by what a process works out what customers have: its catalog, and these rules."""
    return f"{catalog_version} {ACCESS} {GATHERING}"


def gathers_alike(version: str) -> bool:
    """Say whether a process of such a version makes the same facts of the same objects. Earlier releases did not say."""
    return version.endswith(f" {GATHERING}")
