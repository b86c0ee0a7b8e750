"""The one error of storage that others name, in a module that imports no library: the logs know it, and a start should not wait for one."""

from __future__ import annotations


class UnwritableError(Exception):
    """The database refuses the data itself; running again does not help. `rule` names the constraint or SQLSTATE."""

    def __init__(self, rule: str) -> None:
        """Take the rule that the data breaks; never a value."""
        self.rule = rule
        super().__init__(rule)
