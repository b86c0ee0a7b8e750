"""Checks that no log line has the text of an exception: it may quote a customer's id, a row, what somebody typed.

In a call of a logger an exception may stand only as `exc_info=error`, which logs its type and frames, or as `named(error)`
(billing_service/logs.py), or by an attribute of its own that is no text of it (`error.holders`).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ("billing_service", "webhook_gateway", "clients/python/billing_client")

_LOGGERS = frozenset({"log", "_log", "logger", "_logger", "logging"})
_LEVELS = frozenset({"debug", "info", "warning", "error", "critical", "exception", "log"})
_TEXTS = frozenset({"message", "args", "details", "debug_error_string", "orig", "user_message", "strerror"})


def problems(name: str, source: str) -> Iterator[str]:
    """Give a sentence for each place where the text of an exception would reach the log."""
    tree = ast.parse(source)
    for scope in ast.walk(tree):
        if isinstance(scope, ast.ExceptHandler) and scope.name is not None:
            yield from _in_scope(name, scope, {scope.name})
        elif isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _in_scope(name, scope, set(_exceptions_among(scope.args)))


def _exceptions_among(arguments: ast.arguments) -> Iterator[str]:
    for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        words = "" if one.annotation is None else ast.unparse(one.annotation)
        if one.arg in {"error", "exc"} or any(part in words for part in ("Error", "Exception", "StripeDefinite")):
            yield one.arg


def _in_scope(name: str, scope: ast.AST, errors: set[str]) -> Iterator[str]:
    if not errors:
        return
    for call in ast.walk(scope):
        if isinstance(call, ast.Call) and _is_logging(call):
            given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg != "exc_info")]
            for argument in given:
                if _shows(argument, errors):
                    yield f"{name}:{argument.lineno}: the text of an exception would be logged; use named(error)"


def _is_logging(call: ast.Call) -> bool:
    target = call.func
    if isinstance(target, ast.Name):
        return target.id == "level"  # one of a logger's methods, chosen
    return (
        isinstance(target, ast.Attribute)
        and target.attr in _LEVELS
        and isinstance(target.value, ast.Name)
        and target.value.id in _LOGGERS
    )


def _shows(node: ast.AST, errors: set[str]) -> bool:
    """Say whether an expression has an exception in it otherwise than it may."""
    match node:
        case ast.Call(func=ast.Name(id="named"), args=[ast.Name()]):
            return False
        case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if owner in errors:
            return attribute in _TEXTS
        case ast.Call(func=ast.Name(id="type")):
            return False
        case ast.Name(id=found):
            return found in errors
        case _:
            return any(_shows(child, errors) for child in ast.iter_child_nodes(node))


def main() -> int:
    """Print what was found; exit code 1 if anything was."""
    found = sorted(
        {
            problem
            for program in PROGRAMS
            for path in sorted((ROOT / program).rglob("*.py"))
            for problem in problems(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
        }
    )
    sys.stdout.writelines(f"{problem}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
