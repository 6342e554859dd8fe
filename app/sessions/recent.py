"""What this worker knows of the sessions that it answered last, so that the next turn need not read them again.

It may be out of date, as another worker or a change of the session may have come between. That does no harm: a turn
claims its session only as it was when its prompt was made (app/sessions/turns.py), and one that fails reads it anew.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from app.sessions.conversation import Conversation

MAX_CHARACTERS = 8_000_000
"""Of all texts that are held; the sessions that were answered longest ago go first."""
Key = tuple[int, str]
NOTHING = None, 0


class RecentConversations:
    """By owner and name."""

    def __init__(self, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_characters = max_characters
        self._characters = 0
        # With its characters.
        self._held: OrderedDict[Key, tuple[Conversation, int]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Key, max_tokens: int) -> Conversation | None:
        """What is known, if it holds as many turns as `max_tokens` (estimated) may let through. It is not held any
        more: who takes it is about to change it."""
        found = self.drop(key)
        if found is None or len(found.recent) == found.turns - found.summary_turns:
            return found
        return found if sum(turn.tokens for turn in found.recent) > max_tokens else None

    def put(self, key: Key, conversation: Conversation) -> None:
        """Hold what a session is now."""
        size = len(conversation.summary) + sum([turn.characters for turn in conversation.recent])
        with self._lock:
            self._drop(key)
            self._held[key] = conversation, size
            self._characters += size
            while self._characters > self._max_characters:
                self._drop(next(iter(self._held)))

    def drop(self, key: Key) -> Conversation | None:
        """Hold it no more, as it may have changed; gives what was held."""
        with self._lock:
            return self._drop(key)

    def _drop(self, key: Key) -> Conversation | None:
        found, size = self._held.pop(key, NOTHING)
        self._characters -= size
        return found
