"""Content codings (RFC 9110, 8.4.1): a body that came compressed although we asked for a plain one."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from app.upstreams.errors import bad_response

PIECE_BYTES = 65_536
GZIP = {"gzip", "x-gzip"}


def decoded(pieces: Iterator[bytes], header: str) -> Iterator[bytes]:
    """The body as it was before `Content-Encoding`, a bounded piece at a time.

    Raises OpenAIClientException `upstream_bad_response` for a coding that we do not know, for two at once, and for a
    body that is not what its header says.
    """
    codings = [coding for part in header.split(",") if (coding := part.strip().lower()) not in {"", "identity"}]
    if not codings:
        return pieces
    if len(codings) > 1 or codings[0] not in GZIP | {"deflate"}:
        raise bad_response()
    return _inflated(pieces, is_gzip=codings[0] in GZIP)


def _inflated(pieces: Iterator[bytes], *, is_gzip: bool) -> Iterator[bytes]:
    decoder = None
    is_first = True
    try:
        for piece in pieces:
            while piece := piece if decoder or is_first else piece.lstrip(b"\0"):
                decoder = decoder or zlib.decompressobj(_window(piece, is_gzip=is_gzip))
                is_first = False
                yield decoder.decompress(piece, PIECE_BYTES)
                piece = decoder.unconsumed_tail or decoder.unused_data
                if decoder.eof:
                    # The next member of a gzip body follows (RFC 1952, 2.2), or zeros as padding.
                    decoder = None
        # Without a checksum behind it (`deflate` of some servers) a body can end before all that it holds was given.
        while decoder and (rest := decoder.decompress(b"", PIECE_BYTES)):
            yield rest
    except zlib.error as exc:
        raise bad_response() from exc
    if decoder is not None and not decoder.eof:
        raise bad_response()


def _window(first: bytes, *, is_gzip: bool) -> int:
    """The format for zlib: gzip, zlib (which is what `deflate` means) or, as some servers send, deflate without it."""
    if is_gzip:
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if first[0] & 0x0F == 8 else -zlib.MAX_WBITS
