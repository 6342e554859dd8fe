"""Where the end of a stream is decided: it is whole when its dialect's last event came, and broken otherwise.

Without this a cut stream would look like a finished answer: a connection that closes is no end (test_stream.py,
test_passthrough.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from app.errors import ServiceException
from app.upstreams.errors import bad_response, connection_error
from app.upstreams.sse import Event, StreamEvent, split_events

NOTHING = StreamEvent()


def whole_stream(
    pieces: Iterable[bytes], read_event: Callable[[bytes], StreamEvent]
) -> Iterator[tuple[Event, StreamEvent]]:
    """Give each event as it came, and what it means. What follows the end is given, too; how it stops does not matter.

    Raises OpenAIClientException: `upstream_connection_error` when the stream breaks off before its end,
    `upstream_bad_response` when it is no stream of events, and what `read_event` raises.
    """
    seen = ended = False
    try:
        for event in split_events(pieces):
            meaning = NOTHING
            if event.data is not None:
                meaning = read_event(event.data)
                seen, ended = True, ended or meaning.is_end
            elif not seen and event.is_foreign:
                break
            yield event, meaning
    except ServiceException:
        if not ended:
            raise
    if not ended:
        raise connection_error() if seen else bad_response()
