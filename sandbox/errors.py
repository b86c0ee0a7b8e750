"""What the sandbox says when it cannot go on."""

from __future__ import annotations


class SandboxError(Exception):
    """The sandbox cannot go on. The message is one clear sentence for the person at the terminal: what, and what to do."""
