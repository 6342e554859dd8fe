"""Content codings, however the bytes are cut into pieces."""

from __future__ import annotations

import gzip
import zlib

import pytest

from app.errors import OpenAIClientException
from app.upstreams.content_coding import decoded

BODY = b"body" * 50
GZIPPED = gzip.compress(BODY)
WHOLE = {
    "gzip": ("gzip", GZIPPED),
    "two members": ("gzip", GZIPPED + GZIPPED),
    "padding": ("GZIP", GZIPPED + bytes(300)),
    "padding between": ("x-gzip", gzip.compress(b"") + bytes(9) + GZIPPED + bytes(9)),
    "deflate": ("deflate", zlib.compress(BODY)),
    "raw deflate": ("deflate", zlib.compress(BODY, wbits=-15)),
    "identity": ("identity", BODY),
}
BROKEN = {
    "cut": GZIPPED[:-1],
    "a cut member": GZIPPED + GZIPPED[:5],
    "garbage behind it": GZIPPED + b"garbage",
    "zeros before it": b"\0" + GZIPPED,
    "no gzip": BODY,
}


@pytest.mark.parametrize("size", [1, 2, 7, 65536])
@pytest.mark.parametrize(("coding", "body"), WHOLE.values(), ids=WHOLE)
def test_whole(coding: str, body: bytes, size: int) -> None:
    """The text is exact, also when each byte comes by itself."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    assert b"".join(decoded(pieces, coding)) in {BODY, BODY * 2}


@pytest.mark.parametrize("wbits", [-15, 15, 31])
def test_a_body_of_about_one_piece(wbits: int) -> None:
    """The last bytes are given, too, where the decoder has taken in all that came before it has given all."""
    for size in range(65_536, 65_536 + 300):
        coder = zlib.compressobj(wbits=wbits)
        coded = coder.compress(bytes(size)) + coder.flush()
        assert sum(map(len, decoded(iter([coded]), "gzip" if wbits == 31 else "deflate"))) == size


@pytest.mark.parametrize("size", [1, 65536])
@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_broken(body: bytes, size: int) -> None:
    """A body that was cut, or is something else, is none."""
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    with pytest.raises(OpenAIClientException):
        b"".join(decoded(pieces, "gzip"))


def test_nothing() -> None:
    """An empty body is empty in each coding."""
    assert b"".join(decoded(iter([]), "gzip")) == b""
