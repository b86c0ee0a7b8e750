"""`python -m billing_cli`."""

from __future__ import annotations

import sys

from billing_cli.program import main

if __name__ == "__main__":
    sys.exit(main())
