"""Bodies of recorded events as they are kept: compressed, by the process that records them.

PostgreSQL compresses as well, with pglz where it was built without lz4: that takes ten times as long, of the one thing that all
processes share. A body of a release before this one stands as it came. It is JSON, and no JSON begins as a compressed one does.
https://datatracker.ietf.org/doc/html/rfc8878#section-3.1.1
"""

from __future__ import annotations

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL: Final = 1  # a third of the time of level 6, for a tenth more bytes
HEAD_BYTES: Final = 18  # the longest head of a compressed body, in which its size stands
_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_compressor: Final = zstd.ZstdCompressor(LEVEL)  # one for all: to make one takes a quarter of what it does with a body


def packed(body: bytes) -> bytes:
    """Give what is kept of a body."""
    return _compressor.compress(body, zstd.ZstdCompressor.FLUSH_FRAME)


def unpacked(kept: bytes) -> bytes:
    """Give a body byte for byte as it came; nothing where it was taken out."""
    return zstd.decompress(kept) if kept.startswith(_MAGIC) else kept


def size_of(head: bytes, kept_bytes: int) -> int:
    """Give the size of a body of which only the first `HEAD_BYTES` are at hand, and the size of what is kept of it."""
    if not head.startswith(_MAGIC):
        return kept_bytes
    return zstd.get_frame_info(head).decompressed_size or 0
