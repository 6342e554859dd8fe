"""Request bodies in zstd, as the Codex CLI sends them.

The package is the one that became part of Python 3.14. It is loaded when the first such body comes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

WINDOW_LOG_MAX = 23
"""8 MB: what a decoder for HTTP has to hold at most (RFC 9659). A frame may ask for gigabytes otherwise."""


def unzstd(coded: bytes, piece_bytes: int, parts_max: int) -> Iterator[bytes]:
    """Decode one or more frames (RFC 8878, section 3.1), piece by piece.

    Raises EOFError for a frame that was cut, and for too many; ValueError for what is none.
    """
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
    try:
        for _ in range(parts_max):
            if not coded:
                return
            frame = zstd.ZstdDecompressor(options=options)
            while not frame.eof:
                piece = frame.decompress(coded, piece_bytes)
                coded = b""
                if not piece and not frame.eof and frame.needs_input:
                    raise EOFError
                yield piece
            coded = frame.unused_data
    except zstd.ZstdError:
        raise ValueError from None
    if coded:
        raise EOFError
