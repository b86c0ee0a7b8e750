"""What a benchmark says when it cannot go on."""


class BenchmarkError(Exception):
    """Something does not start, or what was measured is not true; the message says which."""
