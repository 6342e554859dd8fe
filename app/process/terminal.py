"""A chat in the terminal: `llm-server chat [TEXT]`, through `/v1` with the `openai` package as its client.

The answer is streamed. Ctrl-C while it comes closes the stream, and the server then ends the call to the upstream;
Ctrl-C or Ctrl-D at the prompt ends the chat. Settings: LLM_SERVER_URL (default: this machine's SERVER_PORT) and
LLM_SERVER_TOKEN, the client's token where the server asks for one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.config import Config

if TYPE_CHECKING:
    from openai import OpenAI

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def chat(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Send one message and print the answer, or with no words talk until the end; gives the exit status."""
    # Here, since nobody else needs it: it takes half a second.
    from openai import Omit, OpenAI

    settings = Config.from_env(environ)
    url = environ.get("LLM_SERVER_URL") or f"http://127.0.0.1:{settings.server_port}"
    token = environ.get("LLM_SERVER_TOKEN", "")
    client = OpenAI(base_url=url.rstrip("/") + "/v1", api_key=token or "none", max_retries=0)
    # In open mode there is no token to send; the package wants a key all the same.
    headers: dict[str, Any] = {"X-Free-Mode": "true"} | ({} if token else {"Authorization": Omit()})
    conversation = Conversation(client, settings.default_model, headers)
    if words:
        return conversation.say(" ".join(words))
    return conversation.talk()


class Conversation:
    """The messages so far; an answer that was stopped is kept as far as it came, a message without one is not kept."""

    def __init__(self, client: OpenAI, model: str, headers: Mapping[str, Any]) -> None:
        self._client = client
        self._headers = headers
        self._model = model
        self._messages: list[dict[str, str]] = []

    def talk(self) -> int:
        """Read messages and print answers until the end of the input or Ctrl-C."""
        status = 0
        while True:
            try:
                text = input("> " if sys.stdin.isatty() else "")
            except (EOFError, KeyboardInterrupt):
                print()
                return status
            if text.strip():
                status = self.say(text)

    def say(self, text: str) -> int:
        """Send one message and print the answer while it comes; gives 0, 1 after an error, 130 after Ctrl-C."""
        from openai import OpenAIError

        self._messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            self._print_answer(pieces)
        except KeyboardInterrupt:
            print("\n(stopped)", file=sys.stderr)
            return INTERRUPTED
        except OpenAIError as exc:
            print(_told(exc), file=sys.stderr)
            return 1
        finally:
            if pieces:
                self._messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self._messages.pop()
        return 0

    def _print_answer(self, pieces: list[str]) -> None:
        messages: Any = self._messages
        with self._client.chat.completions.create(
            model=self._model, messages=messages, stream=True, extra_headers=self._headers
        ) as stream:
            for chunk in stream:
                if chunk.choices and (piece := chunk.choices[0].delta.content):
                    pieces.append(piece)
                    print(piece, end="", flush=True)
        print()


def _told(exc: Exception) -> str:
    """An error in one line; where nobody answers, how to start the server."""
    from openai import APIConnectionError

    if isinstance(exc, APIConnectionError):
        return "No server answers: start it with `llm-server`, or set LLM_SERVER_URL"
    return str(getattr(exc, "message", exc))
