"""MemoryServer: the operator's server behind MEMORY_URL, asked by GET and told by POST, in bounded time and bytes.

It may be slow, broken or somebody else's by now, so nothing of it is believed: no redirect is followed, a compressed
answer is refused, and a body is read to ANSWER_MAX_BYTES at most. A call of its own, with a deadline of its own, stands
for each request, so a server that sends a byte a second ends on time: `test_recall_takes_no_longer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self
from urllib.parse import quote, urlencode, urlsplit

from app.calls.call import Call
from app.calls.watchdog import Watchdog
from app.config import Config, is_public
from app.errors import ServiceException
from app.upstreams.connection_errors import ConnectionLost, CouldNotConnect
from app.upstreams.proxy import is_exempt, proxy_for
from app.upstreams.transport import Response, Transport

ANSWER_MAX_BYTES = 65_536
PIECES_MAX = 256
"""How often something may come of one answer: between two pieces a server can send 64 KiB that count as nothing, and
under gevent one that never pauses lets no watchdog run."""
IDLE_CONNECTIONS = 16
LOOK_SECONDS = 0.02
"""How late a deadline may be noticed: the usual fifth of a second would be most of it."""

Reason = Literal["not_connected", "connection_lost", "timed_out", "bad_status", "bad_answer"]


class MemoryFailed(Exception):
    """It was of no use. `reason` is for counting; `detail` is in words of ours, so a log can carry it."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class MemoryServer:
    """One server at `url`, which may have a query of its own; `token` goes as a bearer credential, if there is one.

    Create it after the fork: it keeps connections open.
    """

    def __init__(self, url: str, token: str = "", *, proxy: str = "", ca_file: str = "") -> None:
        parts = urlsplit(url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._path, self._query = parts.path or "/", parts.query
        self._headers = {"User-Agent": "llm-server", "Accept": "application/json", "Accept-Encoding": "identity"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._transport = Transport(self.origin, IDLE_CONNECTIONS, proxy=proxy, ca_file=ca_file)
        self._watchdog = Watchdog(LOOK_SECONDS)

    @classmethod
    def of(cls, config: Config) -> Self | None:
        """The server that the settings name; None when they name none."""
        if not config.memory_url:
            return None
        proxy = memory_proxy(config)
        return cls(config.memory_url, config.memory_token, proxy=proxy, ca_file=config.upstream_ca_file)

    def get(self, parameters: Mapping[str, str], seconds: float, caller: Call) -> bytes:
        """The body of the answer to a GET, within `seconds` and on behalf of `caller`.

        Raises MemoryFailed, or what ended `caller`.
        """
        call = Call(min(seconds, caller.remaining_seconds()), caller=caller.caller)

        def end_with_the_caller(_: float) -> None:
            if caller.ended is not None:
                call.end(caller.ended)

        call.each_look = end_with_the_caller
        query = urlencode(parameters, quote_via=quote, safe="", errors="replace")
        try:
            return self._ask("&".join(filter(None, (self._query, query))), self._headers, None, call)
        finally:
            if call.ended == "caller_gone":
                caller.end("caller_gone")
            caller.remaining_seconds()

    def post(self, body: bytes, seconds: float) -> None:
        """Tell it a JSON document within `seconds`. Raises MemoryFailed."""
        self._ask(self._query, self._headers | {"Content-Type": "application/json"}, body, Call(seconds))

    def _ask(self, query: str, headers: Mapping[str, str], body: bytes | None, call: Call) -> bytes:
        path = f"{self._path}?{query}" if query else self._path
        try:
            with self._watchdog.watching(call), self._transport.send(path, headers, body, call) as response:
                return _whole_body(response)
        except (CouldNotConnect, ConnectionLost, ServiceException) as exc:
            raise _failed(exc, call) from exc


def memory_proxy(config: Config) -> str:
    """The proxy to MEMORY_URL, empty for none: the upstream's, but not to this machine nor to a host of NO_PROXY."""
    url = urlsplit(config.memory_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    if not is_public((host, port)) or is_exempt(config.no_proxy, host, port):
        return ""
    return proxy_for(config, config.memory_url)


def _whole_body(response: Response) -> bytes:
    if not 200 <= response.status < 300:
        raise MemoryFailed("bad_status", f"HTTP {response.status}")
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise MemoryFailed("bad_answer", "compressed, although a plain one was asked for")
    body, number = bytearray(), 0
    for number, piece in enumerate(response, 1):
        body += piece
        if len(body) > ANSWER_MAX_BYTES or number > PIECES_MAX:
            raise MemoryFailed("bad_answer", f"more than {ANSWER_MAX_BYTES} bytes or {PIECES_MAX} pieces")
    return bytes(body)


def _failed(exc: Exception, call: Call) -> MemoryFailed:
    """Why there is no answer. What the end of the call cut looks like a lost connection."""
    if call.ended is not None:
        return MemoryFailed("timed_out")
    if isinstance(exc, CouldNotConnect):
        return MemoryFailed("not_connected", exc.reason)
    return MemoryFailed("connection_lost")
