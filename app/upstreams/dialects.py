"""A dialect: one of upstream's APIs, a module with the names of Dialect. The native route asks nowhere else which API
it is; routes that pass a request on know it by their address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from app.config import Config
from app.models import Completion, Generation
from app.upstreams import chat_completions, messages, responses
from app.upstreams.sse import StreamEvent


class CompletionReader(Protocol):
    """Makes the finished answer of a stream's events."""

    def add(self, event: StreamEvent) -> str:
        """Take the next event; give the piece of the answer's text in it. Raises OpenAIClientException."""

    def completion(self) -> Completion:
        """The finished answer, after the last event; raises OpenAIClientException when it is none."""


class Dialect(Protocol):
    """What a dialect's module offers."""

    PATH: str
    HEADERS: Mapping[str, str]

    def request_body(
        self, generation: Generation, *, stream: bool = False, without: frozenset[str] = frozenset()
    ) -> bytes:
        """The JSON body of a request, to the byte; `without` names what the model does not take."""

    def parse_completion(self, raw: bytes) -> Completion:
        """Read a finished answer; raises OpenAIClientException."""

    def read_event(self, data: bytes) -> StreamEvent:
        """Say what an event of a stream means; raises OpenAIClientException for what is no event of this API."""

    def CompletionReader(self) -> CompletionReader:
        """Read one stream."""


DIALECTS: Mapping[str, Dialect] = {
    "responses": responses,
    "chat_completions": chat_completions,
    "messages": messages,
}


def native_dialect(config: Config) -> Dialect:
    """The dialect in which the native route asks upstream."""
    return DIALECTS[config.upstream_api]
