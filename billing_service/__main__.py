"""`python -m billing_service`, the same as `billing-service`."""

from __future__ import annotations

import sys

from billing_service.cli import main

if __name__ == "__main__":
    sys.exit(main())
