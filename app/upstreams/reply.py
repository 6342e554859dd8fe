"""Reply: upstream's answer to one call while its slot is held, and how a streamed one is followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from app.calls.call import Call
from app.models import UpstreamResponse
from app.upstreams.connection import ConnectionLost
from app.upstreams.errors import bad_response, connection_error
from app.upstreams.json import TextJoiner
from app.upstreams.sse import split_events
from app.upstreams.transport import Answer, AnswerUnusable


class Listener(Protocol):
    """Hears a streamed answer while it comes."""

    def started(self, model: str, api_key_source: str, *, cached: bool) -> None:
        """Upstream, or the cache, began to answer."""

    def text(self, piece: str) -> None:
        """The next piece of text."""


class Reply:
    """Upstream's answer to one call: headers are here, the body is read from it. Closing gives the slot back."""

    def __init__(self, answer: Answer, call: Call, release: Callable[[Call], None]) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self._answer = answer
        self._call = call
        self._release: Callable[[Call], None] | None = release

    def read(self) -> bytes:
        """The whole body; raises OpenAIClientException when it cannot be had."""
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        """The body piece by piece, as it comes; what the reader does meanwhile is not upstream's time."""
        pieces = iter(self._answer)
        while True:
            began = time.monotonic()
            try:
                piece = next(pieces, None)
            except AnswerUnusable as exc:
                raise bad_response() from exc
            except ConnectionLost as exc:
                # A connection that the end of its call cut is lost, too.
                self._call.remaining_seconds()
                raise connection_error() from exc
            finally:
                self._call.upstream_seconds += time.monotonic() - began
            if piece is None:
                return
            yield piece

    def follow(self, reader: Any, listener: Listener) -> UpstreamResponse:
        """Tell the listener each piece of text; give the finished answer. Only a terminal event is an end."""
        joiner = TextJoiner()
        seen = False
        for event in split_events(self):
            if event.data is None:
                continue
            seen = True
            found = reader.read(event.data)
            if isinstance(found, UpstreamResponse):
                if rest := joiner.rest():
                    listener.text(rest)
                return found
            if found and (text := joiner.add(found)):
                self._call.hear(text)
                listener.text(text)
        raise connection_error() if seen else bad_response()

    def close(self) -> None:
        """Close the connection if the body was not read to its end, and give the slot back."""
        self._answer.close()
        release, self._release = self._release, None
        if release is not None:
            release(self._call)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
