"""A quick stop ends calls once."""

from __future__ import annotations

from app.calls.call import Call, Calls


def test_calls_are_ended_once_for_all() -> None:
    """Those that are there, those that come later, and none that has been answered."""
    calls, there, answered, late, gone = Calls(), Call(5), Call(5), Call(5), Call(5)
    gone.end("caller_gone")
    for call in (there, answered, gone):
        calls.add(call)
    calls.discard(answered)
    calls.end("shutting_down")
    calls.add(late)
    ended = [call.ended for call in (there, late, answered, gone)]
    assert ended == ["shutting_down", "shutting_down", None, "caller_gone"]
    assert len(calls) == 3
