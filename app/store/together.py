"""Together: one look-up for all who ask for the same at once.

A thousand requests that come at once and need the same row would else be a thousand look-ups, of which the last would
be too late: `test_a_crowd_is_looked_up_once`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from app.store.writer import unavailable

Value = TypeVar("Value")


class Together(Generic[Value]):
    """Who asks while another is being told has its answer."""

    def __init__(self) -> None:
        self._going_on: dict[Hashable, Future[Value]] = {}
        self._lock = threading.Lock()

    def look_up(self, key: Hashable, look_up: Callable[[], Value]) -> Value:
        """What `look_up` gives or raises, to this caller or to the one before it that still waits for it."""
        with self._lock:
            going_on = self._going_on.get(key)
            answer = self._going_on[key] = going_on or Future()
        if going_on is not None:
            return answer.result()
        try:
            answer.set_result(look_up())
        except Exception as exc:
            answer.set_exception(exc)
        except BaseException:
            # What ends this request is no answer to the others.
            answer.set_exception(unavailable())
            raise
        finally:
            with self._lock:
                del self._going_on[key]
        return answer.result()
