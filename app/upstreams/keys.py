"""Key selection: whose key pays for a request, and which keys upstream has refused of late."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from cachetools import TTLCache

from app.errors import ConfigurationException, OpenAIClientException, ValidationException
from app.models import API_KEY_PATTERN, ApiKey

REFUSED_SECONDS = 600
REFUSED_MAX = 10_000
MALFORMED_KEY = "must be 8 to 256 printable ASCII characters without spaces"

Answer = TypeVar("Answer")


class KeySelector:
    """Chooses between the caller's key and the server's by the truth table of docs/api, "Whose key pays".

    `in_process`: caller and server are one Python program, so its key pays unless a request brings another.
    """

    def __init__(
        self, server_key: str = "", *, in_process: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server_key = server_key
        self._in_process = in_process
        self._digest_secret = os.urandom(32)
        self._refused: TTLCache[bytes, bool] = TTLCache(REFUSED_MAX, REFUSED_SECONDS, timer=clock)
        self._lock = threading.Lock()

    def select(self, api_key: str | None, free_mode: bool) -> ApiKey:
        """Give the key to try first.

        Raises ValidationException for a malformed key, ConfigurationException when no key may pay, and
        OpenAIClientException for one that upstream refused in the last ten minutes.
        """
        if api_key and not is_well_formed(api_key):
            raise ValidationException(f"openai_api_key {MALFORMED_KEY}", "openai_api_key")
        if api_key and not self._was_refused(api_key):
            return ApiKey(api_key, "user_provided")
        if free_mode or (self._in_process and not api_key):
            return self._server()
        if api_key:
            raise rejected_key()
        raise ConfigurationException(
            "An API key is required: bring one, or ask for free mode to use the server's",
            "openai_api_key",
            error_code="api_key_required",
        )

    def pay(self, api_key: str | None, free_mode: bool, attempt: Callable[[ApiKey], Answer]) -> tuple[Answer, ApiKey]:
        """Call `attempt` with the selected key; in free mode once more with the server's if the caller's is refused."""
        key = self.select(api_key, free_mode)
        try:
            return attempt(key), key
        except OpenAIClientException as exc:
            if exc.error_code != "api_key_rejected":
                raise
            self._remember_refused(key.secret)
            if not free_mode:
                raise
        key = self._server()
        return attempt(key), key

    def payer(self, source: str, api_key: str | None) -> str:
        """The key that paid when a request with `api_key` was answered with key source `source`."""
        return self._server_key if source == "default" else api_key or ""

    def digest(self, api_key: str) -> bytes:
        """A keyed fingerprint, so that no table of ours holds a key."""
        return hashlib.blake2b(api_key.encode(), key=self._digest_secret, digest_size=16).digest()

    def _server(self) -> ApiKey:
        if not self._server_key:
            raise ConfigurationException("No API key is available: the server has none set", "OPENAI_API_KEY")
        return ApiKey(self._server_key, "default")

    def _was_refused(self, api_key: str) -> bool:
        with self._lock:
            return self.digest(api_key) in self._refused

    def _remember_refused(self, api_key: str) -> None:
        with self._lock:
            self._refused[self.digest(api_key)] = True


def is_well_formed(api_key: str) -> bool:
    """Tell whether `api_key` can be sent in a header: 8 to 256 printable ASCII characters, no spaces."""
    return API_KEY_PATTERN.fullmatch(api_key) is not None


def rejected_key() -> OpenAIClientException:
    """The answer to a caller's key that upstream refuses."""
    return OpenAIClientException("The AI service rejected the API key", "api_key_rejected")
