"""OpenAIClient: the one way from this server to an OpenAI-compatible upstream.

It speaks OpenAI's API without the SDK, which would take 40 MB and half a second of each worker, and ten times as long
for a request (docs/performance). Who has a Response of the SDK can still hand it to ChatResponse.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.calls.call import Call
from app.calls.watchdog import Watchdog
from app.config import Config
from app.models import ApiKey, Generation, Message, UpstreamResponse
from app.upstreams import chat_completions, responses, retry
from app.upstreams.connection import ConnectionLost, CouldNotConnect
from app.upstreams.errors import bad_response, connection_error, error_object, from_status, request_id
from app.upstreams.keys import KeySelector, is_well_formed
from app.upstreams.reply import Listener, Reply
from app.upstreams.slots import Slots
from app.upstreams.transport import Answer, AnswerUnusable, Transport

logger = logging.getLogger(__name__)

HEADERS = {
    "User-Agent": "llm-server",
    "Accept": "application/json",
    "Content-Type": "application/json",
    "Accept-Encoding": "identity",
}
"""What every request to upstream says of itself; nothing of the process's environment is among it."""


@dataclass(frozen=True)
class _Request:
    path: str
    body: bytes | None
    headers: Mapping[str, str]


class OpenAIClient:
    """Talks to upstream with one set of connections per worker: create it after the fork."""

    def __init__(
        self,
        config: Config | None = None,
        *,
        keys: KeySelector | None = None,
        slots: Slots | None = None,
        watchdog: Watchdog | None = None,
    ) -> None:
        config = config or Config.from_env()
        self._config = config
        self.api = chat_completions if config.upstream_api == "chat_completions" else responses
        self.keys = keys or KeySelector(config.openai_api_key)
        self.slots = slots or Slots(config.max_concurrent_requests, config.max_queue_seconds)
        self.watchdog = watchdog or Watchdog()
        self._transport = Transport(config.openai_base_url, config.max_concurrent_requests)
        self._server_headers = {
            name: value
            for name, value in [
                ("OpenAI-Organization", config.openai_org_id),
                ("OpenAI-Project", config.openai_project_id),
            ]
            if value
        }

    def generate_response(
        self,
        messages: Sequence[Message],
        api_key: str | None = None,
        free_mode: bool = False,
        model: str | None = None,
        instructions: str = "",
        max_tokens: int | None = None,
        temperature: float | None = None,
        *,
        response_schema: Mapping[str, Any] | None = None,
        images: Sequence[str] = (),
        call: Call | None = None,
        listener: Listener | None = None,
    ) -> tuple[UpstreamResponse, float, str]:
        """Send `messages` to the model; give the answer, the seconds it took and the key's source.

        With a `listener` upstream is asked to stream, and the listener hears each piece of text as it comes.
        Raises ServiceException subclasses, by docs/api, "Errors".
        """
        call = call or Call(self._config.request_timeout)
        began = time.monotonic()
        generation = Generation(
            messages=messages,
            model=model or self._config.default_model,
            instructions=instructions,
            max_tokens=self._config.default_max_tokens if max_tokens is None else max_tokens,
            temperature=self._config.default_temperature if temperature is None else temperature,
            response_schema=response_schema,
            images=images,
        )
        body = self.api.request_body(generation, stream=listener is not None)
        reply, key = self.send(self.api.PATH, body, call, api_key=api_key, free_mode=free_mode)
        with reply:
            if listener is None:
                response = self.api.parse_response(reply.read())
            else:
                listener.started(generation.model, key.source, cached=False)
                response = reply.follow(self.api.EventReader(), listener)
        call.usage, call.model_answered = response.usage, response.model
        return response, time.monotonic() - began, key.source

    def send(
        self,
        path: str,
        body: bytes | None,
        call: Call,
        *,
        api_key: str | None,
        free_mode: bool,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Reply, ApiKey]:
        """Take a slot, choose the key, call upstream with retries; the slot is held until the reply is closed.

        Every request to upstream takes this way. Without a body it is a GET.
        """
        # A request that no key may pay for is refused at once: it must not wait for a slot first.
        self._select_api_key(api_key, free_mode)
        request = _Request(path, body, headers or {})
        self.watchdog.add(call)
        try:
            self.slots.acquire(call)
            try:
                answer, key = self.keys.pay(
                    api_key,
                    free_mode,
                    lambda key: retry.until_answered(lambda: self._attempt(request, key, call), call),
                )
            except BaseException:
                self.slots.release()
                raise
        except BaseException:
            self.watchdog.discard(call)
            raise
        call.upstream_request_id = request_id(answer.headers)
        call.api_key_source, call.paid_with = key.source, key
        return Reply(answer, call, self._release), key

    def _release(self, call: Call) -> None:
        """The reply to `call` is closed."""
        self.slots.release()
        self.watchdog.discard(call)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _select_api_key(self, api_key: str | None = None, free_mode: bool = False) -> tuple[str, str]:
        """The key that is tried first and its source; raises when none may be."""
        key = self.keys.select(api_key, free_mode)
        return key.secret, key.source

    def _validate_api_key(self, api_key: str) -> bool:
        """Tell whether a key is well-formed. Whether upstream accepts it shows when it is used: nothing probes."""
        return is_well_formed(api_key)

    def _attempt(self, request: _Request, key: ApiKey, call: Call) -> Answer:
        """One answer of success; raises OpenAIClientException or retry.Retriable for everything else."""
        own = self._server_headers if key.source == "default" else {}
        headers = {**HEADERS, **request.headers, **own, "Authorization": f"Bearer {key.secret}"}
        began = time.monotonic()
        # Known before the answer: who leaves before it comes has spent this key's money all the same.
        call.paid_with = key
        try:
            call.remaining_seconds()
            answer = self._transport.send(request.path, headers, request.body, call)
            if 200 <= answer.status < 300:
                return answer
            raise self._refused(answer, key, call)
        except CouldNotConnect as exc:
            call.remaining_seconds()
            raise retry.Retriable(connection_error(), retry.MAX_RETRIES) from exc
        except ConnectionLost as exc:
            # A connection that the end of its call cut is lost, too.
            call.remaining_seconds()
            raise connection_error() from exc
        finally:
            call.upstream_seconds += time.monotonic() - began

    def _refused(self, answer: Answer, key: ApiKey, call: Call) -> Exception:
        """What an answer that is not a success means."""
        call.upstream_request_id, call.sent = request_id(answer.headers), False
        with answer:
            try:
                body = b"".join(answer)
            except AnswerUnusable:
                return bad_response()
        error = from_status(answer.status, answer.headers, error_object(body), key)
        if error.error_code == "server_credentials_rejected":
            logger.error("upstream rejects the server's key (HTTP %d); check OPENAI_API_KEY", answer.status)
        return retry.retriable(error, answer.status)
