"""What the checks run beside the tests: see the Makefile."""
