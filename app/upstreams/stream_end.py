"""Where the end of a stream is decided: it is whole when its dialect's last event came, or when every choice of it has
told its finish reason and the body ended cleanly. It is broken otherwise.

Without this a cut stream would look like a finished answer: a connection that closes is no end (test_stream.py,
test_passthrough.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from app.errors import ServiceException
from app.upstreams.errors import bad_response, connection_error
from app.upstreams.sse import LAST_EVENTS, Event, StreamEvent, split_events
from app.upstreams.usage import usage_in_tail

NOTHING = StreamEvent()


class StreamState:
    """What the events so far say of the end. `began`: an event came; `ended`: the dialect's last one came."""

    def __init__(self) -> None:
        self.began = self.ended = False
        self._open: set[int] = set()
        self._finished: set[int] = set()

    def add(self, meaning: StreamEvent) -> None:
        """Take the next event."""
        self.began, self.ended = True, self.ended or meaning.is_end
        for index, is_finished in meaning.choices:
            (self._finished if is_finished else self._open).add(index)

    @property
    def is_whole(self) -> bool:
        """Whether the stream may end here."""
        return self.ended or bool(self._finished and self._open <= self._finished)


def whole_stream(
    pieces: Iterable[bytes], read_event: Callable[[bytes], StreamEvent], *, only_whole: bool = True
) -> Iterator[tuple[Event, StreamEvent]]:
    """Give each event as it came, and what it means. What follows the end is given, too; how it stops does not matter.
    Without `only_whole` an event that is too large to hold is given in parts.

    Raises OpenAIClientException: `upstream_connection_error` when the stream breaks off before its end,
    `upstream_bad_response` when it is no stream of events, and what `read_event` raises.
    """
    state = StreamState()
    try:
        for event in split_events(pieces, only_whole=only_whole):
            meaning = NOTHING
            if event.data is None and not state.began and event.is_foreign:
                break
            if event.is_part:
                state.began = True
            elif event.tail:
                meaning = StreamEvent(usage=usage_in_tail(event.tail), is_end=event.name in LAST_EVENTS)
                state.add(meaning)
            elif event.data is not None:
                meaning = NOTHING if event.is_empty else read_event(event.data)
                state.add(meaning)
            yield event, meaning
    except ServiceException:
        if not state.ended:
            raise
    if not state.is_whole:
        raise connection_error() if state.began else bad_response()
