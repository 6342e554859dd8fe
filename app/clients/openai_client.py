"""OpenAIClient: the one way from this server to an OpenAI-compatible upstream, and the only module that says openai."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import httpx2
from openai import APIConnectionError, APIStatusError, APITimeoutError, OpenAI
from openai._types import RequestOptions

from app.call import Call, Watchdog, current_call
from app.clients import chat_completions_api, responses_api, retry
from app.clients.sse import split_events
from app.clients.transport import PooledTransport, ResponseTooLarge, ResponseUnreadable
from app.clients.upstream_errors import bad_response, connection_error, from_status
from app.clients.wire import TextJoiner
from app.config import Config
from app.errors import OpenAIClientException, ServiceException
from app.models import ApiKey, Generation, Message, UpstreamResponse
from app.services.keys import KeySelector, is_well_formed
from app.services.limiter import Slots

logger = logging.getLogger(__name__)

UNREAD_BODY = {"X-Stainless-Raw-Response": "stream"}
"""Tells the SDK to hand the body over unread; the transport keeps it from upstream."""


class _SDK(OpenAI):
    """The SDK without the headers it takes from the process's environment: they would travel with a caller's key."""

    @property
    def default_headers(self) -> dict[str, Any]:
        return {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": self.user_agent,
            **self.platform_headers(),
        }


class Listener(Protocol):
    """Hears a streamed answer while it comes."""

    def started(self, model: str, api_key_source: str, *, cached: bool) -> None:
        """Upstream, or the cache, began to answer."""

    def text(self, piece: str) -> None:
        """The next piece of text."""


class Reply:
    """Upstream's answer to one call: headers are here, the body is read from it. Closing gives the slot back."""

    def __init__(self, response: httpx2.Response, call: Call, resources: contextlib.ExitStack) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self._call = call
        self._resources = resources

    def read(self) -> bytes:
        """The whole body; raises OpenAIClientException when it cannot be had."""
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        """The body piece by piece, as it comes; what the reader does meanwhile is not upstream's time."""
        pieces = self._response.iter_bytes()
        while True:
            began = time.monotonic()
            try:
                with _translated(self._call):
                    piece = next(pieces, None)
            finally:
                self._call.upstream_seconds += time.monotonic() - began
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """Close the connection if the body was not read to its end, and give the slot back."""
        self._response.close()
        self._call.let_go()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenAIClient:
    """Talks to upstream with one SDK client and one connection pool per worker: create it after the fork."""

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
        self.api = chat_completions_api if config.upstream_api == "chat_completions" else responses_api
        self.keys = keys or KeySelector(config.openai_api_key)
        self.slots = slots or Slots(config.max_concurrent_requests, config.max_queue_seconds)
        self._watchdog = watchdog or Watchdog()
        self._server_headers = {
            name: value
            for name, value in [
                ("OpenAI-Organization", config.openai_org_id),
                ("OpenAI-Project", config.openai_project_id),
            ]
            if value
        }
        self._sdk = _SDK(
            api_key=config.openai_api_key or "no-key-set",
            base_url=config.openai_base_url,
            max_retries=0,
            http_client=httpx2.Client(
                transport=PooledTransport(config.max_concurrent_requests),
                base_url=config.openai_base_url,
                timeout=None,
                trust_env=False,
                follow_redirects=False,
            ),
        )
        # The SDK forks `uname` for its platform headers once; done here, no burst of first calls forks many.
        _ = self._sdk.default_headers

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
                response = _follow(reply, self.api.EventReader(), listener, call)
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
        with contextlib.ExitStack() as resources:
            resources.enter_context(self._watchdog.watching(call))
            self.slots.acquire(call)
            resources.callback(self.slots.release)
            request = _Request(path, body, headers or {})
            response, key = self.keys.pay(api_key, free_mode, lambda key: self._with_retries(request, key, call))
            held = resources.pop_all()
        call.upstream_request_id = _request_id(response)
        call.api_key_source, call.paid_with = key.source, key
        return Reply(response, call, held), key

    def close(self) -> None:
        """Close the pool."""
        self._sdk.close()

    def _select_api_key(self, api_key: str | None = None, free_mode: bool = False) -> tuple[str, str]:
        """The key that is tried first and its source; raises when none may be."""
        key = self.keys.select(api_key, free_mode)
        return key.secret, key.source

    def _validate_api_key(self, api_key: str) -> bool:
        """Tell whether a key is well-formed. Whether upstream accepts it shows when it is used: nothing probes."""
        return is_well_formed(api_key)

    def _with_retries(self, request: _Request, key: ApiKey, call: Call) -> httpx2.Response:
        attempt = 0
        while True:
            try:
                return self._attempt(request, key, call)
            except _Retriable as failure:
                if attempt >= failure.max_retries or not self._paused(failure, attempt, call):
                    raise failure.error from failure.__cause__
            attempt += 1

    def _paused(self, failure: _Retriable, attempt: int, call: Call) -> bool:
        """Wait before the next attempt; False when the wait would not fit into the deadline."""
        pause = retry.backoff_seconds(attempt) if failure.pause_seconds is None else failure.pause_seconds
        if pause >= call.remaining_seconds():
            return False
        logger.warning("upstream %s, trying again in %.2f s", failure.error.error_code, pause)
        call.wait(pause)
        call.check()
        return True

    def _attempt(self, request: _Request, key: ApiKey, call: Call) -> httpx2.Response:
        headers = UNREAD_BODY | dict(request.headers) | (self._server_headers if key.source == "default" else {})
        options: RequestOptions = {"headers": headers}
        began = time.monotonic()
        # Known before the answer: who leaves before it comes has spent this key's money all the same.
        call.paid_with = key
        token = current_call.set(call)
        try:
            call.remaining_seconds()
            with _translated(call):
                sdk = self._sdk.with_options(api_key=key.secret)
                if request.body is None:
                    return sdk.get(request.path, cast_to=httpx2.Response, options=options)
                return sdk.post(request.path, content=request.body, cast_to=httpx2.Response, options=options)
        except APIStatusError as exc:
            call.upstream_request_id, call.sent = _request_id(exc.response), False
            error = from_status(exc.status_code, exc.response.headers, _error_object(exc), key)
            if error.error_code == "server_credentials_rejected":
                logger.error("upstream rejects the server's key (HTTP %d); check OPENAI_API_KEY", exc.status_code)
            raise _retriable(error, exc.status_code) from exc
        finally:
            current_call.reset(token)
            call.upstream_seconds += time.monotonic() - began


@dataclass(frozen=True)
class _Request:
    path: str
    body: bytes | None
    headers: Mapping[str, str]


class _Retriable(Exception):
    """Carries an error that another attempt may cure, how many attempts, and the pause upstream asked for."""

    def __init__(self, error: ServiceException, max_retries: int, pause_seconds: float | None = None) -> None:
        super().__init__(error.error_code)
        self.error = error
        self.max_retries = max_retries
        self.pause_seconds = pause_seconds


def _retriable(error: OpenAIClientException, status: int) -> Exception:
    if error.error_code == "upstream_rate_limited":
        return _Retriable(error, retry.MAX_RATE_LIMIT_RETRIES, error.retry_after)
    if status in retry.RETRIED_STATUSES:
        return _Retriable(error, retry.MAX_RETRIES)
    return error


def _follow(reply: Reply, reader: Any, listener: Listener, call: Call) -> UpstreamResponse:
    """Tell the listener each piece of text; give the finished answer. Only a terminal event is an end."""
    joiner = TextJoiner()
    events = (event.data for event in split_events(reply) if event.data is not None)
    seen = False
    for data in events:
        seen = True
        found = reader.read(data)
        if isinstance(found, UpstreamResponse):
            if rest := joiner.rest():
                listener.text(rest)
            return found
        if found and (text := joiner.add(found)):
            call.hear(text)
            listener.text(text)
    raise connection_error() if seen else bad_response()


@contextlib.contextmanager
def _translated(call: Call) -> Iterator[None]:
    """Turn what the SDK and the transport raise into our exceptions; the end of the call explains a cut connection."""
    try:
        yield
    except APIStatusError:
        raise
    except (ResponseTooLarge, ResponseUnreadable) as exc:
        raise bad_response() from exc
    except (APIConnectionError, httpx2.HTTPError) as exc:
        if isinstance(exc, APITimeoutError | httpx2.TimeoutException):
            call.end("deadline")
        call.remaining_seconds()
        cause = exc.__cause__ if isinstance(exc, APIConnectionError) else exc
        if isinstance(cause, httpx2.ConnectError):
            raise _Retriable(connection_error(), retry.MAX_RETRIES) from exc
        raise connection_error() from exc


def _error_object(exc: APIStatusError) -> dict[str, Any]:
    return exc.body if isinstance(exc.body, dict) else {}


def _request_id(response: httpx2.Response) -> str | None:
    value = response.headers.get("x-request-id", "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= 128 else None
