"""How upstream's bytes become events: the same ones wherever the bytes are cut."""

from __future__ import annotations

import itertools

import pytest

from app.upstreams.sse import Event, split_events

STREAMS = [
    b"data: 1\n\nevent: b\ndata: 2\n\n\n: note\n\ndata\nid: 7\ndata:3\n\ndata: cut",
    b"\xef\xbb\xbfdata: 1\r\n\r\nevent: b\r\ndata: 2\r\n\r\n",
    b"data: 1\r\rdata: 2\r\rdata: 3\n\n",
    b"data: 1\n\ndata: 2\r\n\r\n\n\ndata: 3\n\n\n\ndata: 4\n",
]


def events_of(stream: bytes, *cuts: int) -> list[Event]:
    places = [0, *cuts, len(stream)]
    return list(split_events(stream[start:end] for start, end in itertools.pairwise(places)))


@pytest.mark.parametrize("stream", STREAMS)
def test_events_are_the_same_wherever_the_bytes_are_cut(stream: bytes) -> None:
    """In one piece, in two or three, or byte by byte."""
    bytewise = events_of(stream, *range(1, len(stream)))
    assert b"".join(event.raw for event in bytewise) == stream
    for cuts in itertools.chain([()], itertools.combinations_with_replacement(range(len(stream) + 1), 2)):
        told = [(event.name, event.data) for event in events_of(stream, *cuts) if event.data is not None]
        assert told == [(event.name, event.data) for event in bytewise if event.data is not None]
        assert b"".join(event.raw for event in events_of(stream, *cuts)) == stream


def test_names_data_and_ends() -> None:
    """A blank line ends an event; what is cut off comes last, as it is."""
    assert [(event.raw, event.name, event.data) for event in events_of(STREAMS[0])] == [
        (b"data: 1\n\n", "", b"1"),
        (b"event: b\ndata: 2\n\n", "b", b"2"),
        (b"\n: note\n\n", "", None),
        (b"data\nid: 7\ndata:3\n\n", "", b"\n3"),
        (b"data: cut", "", b"cut"),
    ]
