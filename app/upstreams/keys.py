"""Whose key pays: the caller's or the server's (docs/api, "Whose key pays"), and which keys upstream has refused."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from cachetools import TTLCache

from app.config import Config
from app.errors import ConfigurationException, OpenAIClientException, ServiceException, ValidationException
from app.models import MALFORMED_KEY, ApiKey, Credentials, is_placeholder, is_well_formed
from app.upstreams.catalog import Catalog

REFUSED_SECONDS = 60
REFUSED_MAX = 10_000
ACCOUNT_HEADERS = ("OpenAI-Organization", "OpenAI-Project")


@dataclass(frozen=True)
class Payer:
    """The keys that may be tried, in order: at least one. `in_free_mode`: the caller asked for the server's key."""

    keys: tuple[ApiKey, ...]
    in_free_mode: bool = False

    @property
    def first(self) -> ApiKey:
        """The key that is tried first."""
        return self.keys[0]

    @property
    def may_be_server(self) -> bool:
        """Whether the server's key may come to pay, so that a budget and free mode have to allow it."""
        return self.in_free_mode or self.first.source == "default"

    def refused(self, last: ServiceException) -> ServiceException:
        """The error when upstream has refused every key, `last` in its words: free mode promised another key."""
        return no_server_key() if self.in_free_mode else last


class KeySelector:
    """Chooses between the caller's key and the server's; the only place that does.

    `in_process`: caller and server are one Python program, so its key pays unless a request brings another.
    `server_headers` go to upstream with the server's key and never with a caller's.
    """

    def __init__(
        self,
        server_key: str = "",
        *,
        server_headers: Mapping[str, str] | None = None,
        in_process: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = ApiKey(server_key, "default", server_headers or {}) if server_key else None
        self._in_process = in_process
        self._digest_secret = os.urandom(32)
        self._refused: TTLCache[bytes, bool] = TTLCache(REFUSED_MAX, REFUSED_SECONDS, timer=clock)
        self._lock = threading.Lock()

    @classmethod
    def of(cls, config: Config, *, in_process: bool = False, catalog: Catalog | None = None) -> Self:
        """The selector that the settings describe. Of several keys of the server's the first stands for all of them:
        which of them pays is decided by the plan."""
        selector = cls(in_process=in_process)
        upstreams = (catalog or Catalog.from_config(config)).upstreams.values()
        selector._server = next((key for upstream in upstreams for key in upstream.keys), None)
        return selector

    @property
    def has_server_key(self) -> bool:
        """Whether there is a server's key that could pay."""
        return self._server is not None

    def payer(self, credentials: Credentials) -> Payer:
        """Say whose key pays for a request.

        Raises ValidationException for a malformed key, ConfigurationException when no key may pay, and
        OpenAIClientException for one that upstream refused in the last 60 seconds.
        """
        own, free_mode = credentials.api_key, credentials.free_mode
        if own and not is_well_formed(own):
            raise ValidationException(f"openai_api_key {MALFORMED_KEY}", "openai_api_key")
        if free_mode and is_placeholder(own):
            own = ""
        callers = ApiKey(own, "user_provided", credentials.headers)
        if own and not self._was_refused(callers):
            return Payer((callers, self._server) if free_mode and self._server else (callers,), free_mode)
        if free_mode or (self._in_process and not own):
            if self._server is None:
                raise no_server_key()
            return Payer((self._server,), free_mode)
        if own:
            raise rejected_key()
        message = (
            "An API key is required: send yours (the header X-OpenAI-Api-Key, on /v1 also Authorization: Bearer), or "
            "ask for the server's with free mode (`free_mode` in a chat request, the header X-Free-Mode: true on /v1)"
        )
        raise ConfigurationException(message, "openai_api_key", error_code="api_key_required")

    def remember_refused(self, key: ApiKey) -> None:
        """Upstream refused a caller's key: it is not tried again for a while."""
        with self._lock:
            self._refused[self._digest(_account(key))] = True

    def _was_refused(self, key: ApiKey) -> bool:
        with self._lock:
            return bool(self._refused) and self._digest(_account(key)) in self._refused

    def _digest(self, api_key: str) -> bytes:
        """A keyed fingerprint, so that the table of refused keys holds no key."""
        return hashlib.blake2b(api_key.encode(), key=self._digest_secret, digest_size=16).digest()


def _account(key: ApiKey) -> str:
    """What upstream refuses by 401: a key as a member of an organization. With another one the same key may be good."""
    return "\n".join([key.secret, *(key.headers[name] for name in ACCOUNT_HEADERS if name in key.headers)])


def rejected_key() -> OpenAIClientException:
    """The answer to a caller's key that upstream refuses."""
    return OpenAIClientException("The AI service rejected the API key", "api_key_rejected")


def no_server_key() -> ConfigurationException:
    """The answer when the server's key is to pay and the server has none."""
    return ConfigurationException("No API key is available: the server has none set", "OPENAI_API_KEY")
