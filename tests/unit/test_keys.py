"""Keys by themselves: what is remembered of a refused one, and which are malformed."""

from __future__ import annotations

from typing import Any

import pytest

from app.config import Config
from app.errors import ConfigurationException, OpenAIClientException, ValidationException
from app.models import ApiKey, Credentials
from app.upstreams.keys import KeySelector
from app.upstreams.openai_client import OpenAIClient
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.upstream import Answer, Received, Upstream, echo, error_document, reply

OTHER_KEY = "sk-another-0123456789"


def refuse(*keys: str, status: int = 401) -> Answer:
    """Refuse these keys and echo for the others."""

    async def answer(received: Received, writer: Any) -> None:
        refusal = reply(status, error_document("invalid_api_key"))
        await (refusal if received.key in keys else echo)(received, writer)

    return answer


def keys_seen(upstream: Upstream) -> list[str]:
    """The key of every call in order."""
    return [received.key for received in upstream.received]


class FakeClock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ask(llm: OpenAIClient, key: str, free_mode: bool = True) -> str:
    """One call; gives the key source, or the error code."""
    try:
        return llm.generate_response([{"role": "user", "content": "hi"}], key, free_mode)[2]
    except (OpenAIClientException, ConfigurationException) as exc:
        return exc.error_code


def test_a_refused_key_is_remembered_for_a_minute(upstream: Upstream) -> None:
    """A refused key costs one call a minute, in free mode and without; then it may try again."""
    clock = FakeClock()
    config = Config(openai_api_key=SERVER_KEY, openai_base_url=upstream.base_url)
    llm = OpenAIClient(config, keys=KeySelector(SERVER_KEY, clock=clock))
    upstream.default = refuse(CALLER_KEY)

    assert ask(llm, CALLER_KEY) == "default"
    assert ask(llm, CALLER_KEY) == "default"
    assert ask(llm, CALLER_KEY, free_mode=False) == "api_key_rejected"
    assert keys_seen(upstream) == [CALLER_KEY, SERVER_KEY, SERVER_KEY]
    assert ask(llm, OTHER_KEY) == "user_provided"

    upstream.received.clear()
    clock.now += 59
    assert ask(llm, CALLER_KEY) == "default"
    assert keys_seen(upstream) == [SERVER_KEY]
    clock.now += 2
    upstream.default = echo
    assert ask(llm, CALLER_KEY) == "user_provided"
    assert keys_seen(upstream) == [SERVER_KEY, CALLER_KEY]


@pytest.mark.parametrize(
    "key",
    [
        *("EMPTY", "empty", "none", "None", "null", "ollama", "lm-studio", "dummy", "x", "xxx", "-", "na", "undefined"),
        *(
            "sk-no-key-required",
            "no-key",
            "not-needed",
            "sk-xxxx",
            "sk-...",
            "sk-1234",
            "your-api-key",
            "<your_api_key>",
        ),
        *("YOUR_OPENAI_API_KEY", "placeholder", "no_key_needed", "changeme"),
    ],
)
def test_placeholders_count_as_none_in_free_mode(key: str) -> None:
    """What quick starts write where a key is demanded; without free mode it is upstream that has to say."""
    keys = KeySelector(SERVER_KEY)
    assert [key.secret for key in keys.payer(Credentials(key, True)).keys] == [SERVER_KEY]
    assert [key.secret for key in keys.payer(Credentials(key)).keys] == [key]


@pytest.mark.parametrize("key", ["sk-12345", "nokia", "ollama-7f3a", "dummy1", "xa", "sk-x1", "your-key-7f3a9", "norm"])
def test_short_keys_are_keys(key: str) -> None:
    """A local server may take any word."""
    assert KeySelector(SERVER_KEY).payer(Credentials(key, True)).first.secret == key


def test_a_key_is_refused_as_a_member_of_an_organization() -> None:
    """With the right organization the same key may be good."""
    keys = KeySelector(SERVER_KEY)
    wrong, right = {"OpenAI-Organization": "org-wrong"}, {"OpenAI-Organization": "org-right"}
    keys.remember_refused(keys.payer(Credentials(CALLER_KEY, headers=wrong)).first)
    with pytest.raises(OpenAIClientException):
        keys.payer(Credentials(CALLER_KEY, headers=wrong | {"Idempotency-Key": "1"}))
    for headers in (right, {}):
        assert keys.payer(Credentials(CALLER_KEY, headers=headers)).first.secret == CALLER_KEY


def test_remembered_keys_are_digests() -> None:
    """The memory of refused keys holds no key, and its digests differ from process to process."""
    keys, others = KeySelector(SERVER_KEY), KeySelector(SERVER_KEY)
    keys.remember_refused(ApiKey(CALLER_KEY, "user_provided"))
    with pytest.raises(OpenAIClientException):
        keys.payer(Credentials(CALLER_KEY))
    assert CALLER_KEY.encode() not in b"".join(keys._refused)
    assert CALLER_KEY not in repr(keys.payer(Credentials(OTHER_KEY, True))) + repr(Credentials(CALLER_KEY))
    assert keys._digest(CALLER_KEY) != others._digest(CALLER_KEY)


def test_selector_refuses_a_malformed_key_by_itself() -> None:
    """Plain Python gets the same rule as the API."""
    with pytest.raises(ValidationException) as caught:
        KeySelector(SERVER_KEY).payer(Credentials("sk-0123456789\r\nX-Evil: 1", True))
    assert caught.value.field == "openai_api_key"
