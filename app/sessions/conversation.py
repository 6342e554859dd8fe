"""What is known of a session when a turn begins, and how its turns become the past turns of a prompt."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.models import Message
from app.tokens import estimate_tokens


@dataclass(frozen=True)
class Turn:
    """What a user said and what was answered. `user_text` is None where the conversation begins with an answer,
    `answer_text` where nothing was answered, or nothing was heard of it. `character`: who spoke."""

    user_text: str | None
    answer_text: str | None
    interrupted: bool = False
    character: str | None = None

    def heard(self, characters: int | None) -> Turn:
        """The turn of which only so many characters of the answer were heard; None: all that were delivered. It counts
        as interrupted when something is cut off."""
        answer_text = self.answer_text and self.answer_text[:characters]
        is_interrupted = self.interrupted or answer_text != self.answer_text
        return dataclasses.replace(self, answer_text=answer_text or None, interrupted=is_interrupted)

    @functools.cached_property
    def tokens(self) -> int:
        """Of both texts, estimated; counted once, as a turn is sent again and again."""
        return estimate_tokens(self.user_text or "") + estimate_tokens(self.answer_text or "")

    @functools.cached_property
    def messages(self) -> tuple[Message, ...]:
        """What a model reads of it; every prompt that the turn is part of has the same, so nobody may change them."""
        texts = ("user", self.user_text), ("assistant", self.answer_text)
        return tuple({"role": role, "content": text} for role, text in texts if text)

    @functools.cached_property
    def characters(self) -> int:
        """Of both texts."""
        return len(self.user_text or "") + len(self.answer_text or "")


@dataclass(frozen=True)
class Conversation:
    """A session as one turn finds it: `turns` is the number of its last turn, 0 where it has none yet.

    `recent` are its last turns that no summary covers, oldest first: at least those that may be sent. `summary` covers
    the first `summary_turns` turns. `revision` changes with everything that is kept here.
    """

    id: int
    revision: int = 0
    turns: int = 0
    recent: Sequence[Turn] = ()
    summary: str = ""
    summary_turns: int = 0
    character: str | None = None


def newest(turns: Sequence[Turn], max_tokens: int) -> list[Turn]:
    """As many of the newest turns as fit into `max_tokens` (estimated); a turn is kept whole or not at all.

    Where turns were left out, the first that is kept begins with the user: many models take no answer without its
    question.
    """
    kept: list[Turn] = []
    for turn in reversed(turns):
        max_tokens -= turn.tokens
        if max_tokens < 0:
            break
        kept.append(turn)
    while len(kept) < len(turns) and kept and kept[-1].user_text is None:
        kept.pop()
    return kept[::-1]


def messages_of(turns: Iterable[Turn]) -> list[Message]:
    """The turns as a model reads them. What was said without an answer is said again before what came next: many models
    take no two messages of a user in a row."""
    messages: list[Message] = []
    for message in itertools.chain.from_iterable(turn.messages for turn in turns):
        if messages and messages[-1]["role"] == message["role"]:
            content = f"{messages[-1]['content']}\n\n{message['content']}"
            messages[-1] = {"role": message["role"], "content": content}
        else:
            messages.append(message)
    return messages


def joined_to_user(messages: list[Message], user_message: str) -> tuple[list[Message], str]:
    """The past and what the user says now. Where the past ends with what nobody answered, both are one message."""
    if messages and messages[-1]["role"] == "user":
        return messages[:-1], f"{messages[-1]['content']}\n\n{user_message}"
    return messages, user_message


def turns_of(messages: Iterable[Message]) -> Iterator[Turn]:
    """A history of single messages as turns, from which `messages_of` makes the same messages again."""
    asked: str | None = None
    for message in messages:
        if message["role"] == "assistant":
            yield Turn(asked, message["content"])
            asked = None
            continue
        if asked is not None:
            yield Turn(asked, None)
        asked = message["content"]
    if asked is not None:
        yield Turn(asked, None)
