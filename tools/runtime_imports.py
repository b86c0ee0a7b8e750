"""Import every module of the two programs: run it where only requirements/runtime.txt is installed.

The development environment has more packages than production, so that a missing one shows nowhere but there.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

PROGRAMS = ("billing_service", "webhook_gateway")
# Alembic runs these itself, with a context that it provides.
_RUN_BY_ALEMBIC = ".migrations."


def main() -> int:
    """Exit status 0, or the ImportError of the first module that lacks a package."""
    count = 0
    for program in PROGRAMS:
        package = importlib.import_module(program)
        for module in pkgutil.walk_packages(package.__path__, f"{program}."):
            if not module.name.endswith("__main__") and _RUN_BY_ALEMBIC not in module.name:
                importlib.import_module(module.name)
                count += 1
    sys.stdout.write(f"{count} modules import with the runtime lock alone\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
