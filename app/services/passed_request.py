"""What is read of a request that passes through: what it asks for, and what it may cost."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import ValidationException
from app.json_bytes import dump_json
from app.ledger.end_users import known_as
from app.ledger.limits import Ask
from app.models import MODEL_MAX_LENGTH
from app.services.coverage import (
    CHOICES,
    LIMITS,
    begins_thread,
    continued_message,
    deciding,
    first_uncovered,
    is_count,
)
from app.services.prompt_size import cache_write, prompt_tokens, prompts
from app.upstreams import chat_completions, completions, media, messages
from app.upstreams.json import string_or_none

CONTINUES = ("previous_response_id", "conversation")
"""The members by which a request goes on with what the upstream has stored."""


OF_ANTHROPIC = (messages.PATH, messages.COUNT_PATH)
MESSAGES = (f"/v1{messages.PATH}", f"/v1{messages.COUNT_PATH}")
CHUNKED = (f"/v1{chat_completions.PATH}", f"/v1{completions.PATH}")
"""The routes whose streams tell usage only to those who ask for it."""


@dataclass(frozen=True)
class FormField:
    """A field of a form, and where its value stands in the body."""

    value: str
    place: slice


@dataclass(frozen=True)
class PassedRequest:
    """A body that passes through, and what was read of it. `model_at`: where a form has the name of the model."""

    body: bytes
    document: Mapping[str, Any]
    ask: Ask
    model_at: slice | None = None

    def changed(self, **members: Any) -> bytes:
        """The body with some members set anew; everything else means the same. Of a form that can be the model."""
        if self.model_at is None:
            return dump_json({**self.document, **members})
        body = memoryview(self.body)
        return b"".join([body[: self.model_at.start], str(members["model"]).encode(), body[self.model_at.stop :]])

    def with_members(self, **members: Any) -> PassedRequest:
        """The same with some members set anew."""
        return dataclasses.replace(self, body=self.changed(**members), document={**self.document, **members})

    @property
    def continues(self) -> str | None:
        """The member by which it goes on with what the upstream has stored, if there is one."""
        if self.ask.route in MESSAGES:
            thread = self.document.get("thread")
            return None if not thread or begins_thread(thread) else "thread"
        return next((name for name in CONTINUES if self.document.get(name)), None)

    @property
    def continued_id(self) -> str | None:
        """The id of the answer that it goes on with, where it names one."""
        member = self.continues
        if member == "thread":
            return continued_message(self.document["thread"])
        return str(self.document[member]) if member == "previous_response_id" else None

    def with_context(self, tokens: int) -> PassedRequest:
        """The same with so many more tokens before its prompt. What is kept of a thread may be written to a cache anew,
        which costs most for an hour."""
        cache_write = "1h" if self.continues == "thread" else self.ask.cache_write
        ask = dataclasses.replace(self.ask, prompt_tokens=self.ask.prompt_tokens + tokens, cache_write=cache_write)
        return dataclasses.replace(self, ask=ask)

    @property
    def hides_usage(self) -> bool:
        """A stream of chunks that does not ask for usage, so that upstream would tell none."""
        if not self.ask.streamed or self.ask.route not in CHUNKED:
            return False
        options = self.document.get("stream_options")
        return not (isinstance(options, dict) and options.get("include_usage"))


def read_request(path: str, body: bytes) -> PassedRequest:
    """Read a request to `path`.

    Raises ValidationException unless it is a JSON object with a usable `stream` that names each member once.
    """
    document = _parsed(body, deciding(path))
    stream = document.get("stream")
    if not isinstance(stream, bool | None):
        raise ValidationException("must be true or false", "stream")
    model = (string_or_none(document.get("model")) or "")[:MODEL_MAX_LENGTH]
    limits = [document[name] for name in LIMITS[path] if document.get(name) is not None]
    ask = Ask(
        route=f"/v1{path}",
        streamed=bool(stream) and path != messages.COUNT_PATH,
        model=model,
        prompt_tokens=prompt_tokens(path, body, document, model),
        max_tokens=max(filter(is_count, limits), default=None) if LIMITS[path] else 0,
        choices=max((document[name] for name in CHOICES if is_count(document.get(name))), default=1)
        * prompts(path, document),
        uncovered=first_uncovered(path, document),
        cache_write=cache_write(path, body, document),
        is_free=path == messages.COUNT_PATH,
        is_unbounded=path in media.UNBOUNDED,
        end_user=_end_user(path, document),
        user_member="metadata.user_id" if path in OF_ANTHROPIC else "user",
    )
    return PassedRequest(body, document, ask)


def read_form(path: str, body: bytes, fields: Mapping[str, FormField]) -> PassedRequest:
    """What is decided on of a form with files, of which `fields` are read."""
    told = {name: field.value.strip() for name, field in fields.items()}
    ask = Ask(
        route=f"/v1{path}",
        streamed=told.get("stream", "").lower() in {"true", "1"},
        model=told.get("model", "")[:MODEL_MAX_LENGTH],
        is_unbounded=True,
        end_user=known_as(fields["user"].value) if "user" in fields else None,
    )
    return PassedRequest(body, {}, ask, fields["model"].place if "model" in fields else None)


def _end_user(path: str, document: Mapping[str, Any]) -> str | None:
    """Whom a request is for, where it says so: OpenAI's `user`, else `safety_identifier`, which it calls its successor;
    of Anthropic's `metadata.user_id`."""
    if path in OF_ANTHROPIC:
        metadata = document.get("metadata")
        return known_as(metadata.get("user_id")) if isinstance(metadata, dict) else None
    return known_as(document.get("user")) or known_as(document.get("safety_identifier"))


def _parsed(body: bytes, decided: frozenset[str]) -> dict[str, Any]:
    members: list[list[tuple[str, Any]]] = [[]]

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The outermost object comes last.
        members[0] = pairs
        return dict(pairs)

    try:
        document = json.loads(body.decode(), object_pairs_hook=note)
    except (ValueError, RecursionError):
        raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
    if not isinstance(document, dict):
        raise ValidationException("The body must be a JSON object")
    _check_names([name for name, _ in members[0]], decided)
    return document


def _check_names(names: list[str], decided: frozenset[str]) -> None:
    """Refuse a repeated member, and another spelling of one that is decided on: parsers differ in which they take."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValidationException("must be there once", name)
        if name not in decided and name.lower() in decided:
            raise ValidationException(f"must be spelled {name.lower()}", name)
        seen.add(name)
