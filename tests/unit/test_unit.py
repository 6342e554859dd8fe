"""The seed's classes, used from plain Python as the seed's examples do: contract.md, section 7."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import psutil
import pytest

from app.config import Config
from app.errors import (
    ChatServiceException,
    ConfigurationException,
    OpenAIClientException,
    ServiceException,
    ValidationException,
)
from app.models import ChatRequest, ChatResponse, Usage
from app.process.system import SystemInfoCollector
from app.services.chat import ChatService
from app.upstreams.openai_client import OpenAIClient
from app.upstreams.responses import parse_completion
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.upstream import Upstream, error_document, reply, response_document, silence

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch, upstream: Upstream) -> None:
    """The two variables that plain Python needs."""
    monkeypatch.setenv("OPENAI_API_KEY", SERVER_KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", upstream.base_url)


@pytest.mark.usefixtures("_environment")
class TestChatService:
    """ChatService, built without arguments."""

    def test_process_chat_request(self) -> None:
        """The seed's own example: in one program, the program's key pays."""
        request = ChatRequest(user_message="테스트 메시지", session_id="test_session")
        response = ChatService().process_chat_request(request)
        assert response.success is True
        assert response.response_text == "테스트 메시지"
        assert response.session_id == "test_session"
        assert response.api_key_source == "default"
        assert response.response_time is not None
        assert response.response_time > 0

    def test_process_chat_request_with_a_callers_key(self, upstream: Upstream) -> None:
        """A key in the request pays."""
        response = ChatService().process_chat_request(ChatRequest(user_message="hi", openai_api_key=CALLER_KEY))
        assert (response.api_key_source, upstream.received[0].key) == ("user_provided", CALLER_KEY)

    def test_a_refused_key_is_not_replaced(self, upstream: Upstream) -> None:
        """A request that brought a key of its own, and no free mode, is not paid for by another."""
        upstream.default = reply(401, error_document())
        with pytest.raises(OpenAIClientException) as caught:
            ChatService().process_chat_request(ChatRequest(user_message="hi", openai_api_key=CALLER_KEY))
        assert caught.value.error_code == "api_key_rejected"
        assert [received.key for received in upstream.received] == [CALLER_KEY]

    def test_no_key_at_all(self, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a key in the request or the environment nothing is sent."""
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(ConfigurationException) as caught:
            ChatService().process_chat_request(ChatRequest(user_message="hi"))
        assert (caught.value.error_code, caught.value.config_key) == ("no_api_key_available", "OPENAI_API_KEY")
        assert upstream.received == []

    def test_none_means_not_given(self, upstream: Upstream) -> None:
        """The seed types every field Optional."""
        nothing = dict.fromkeys(set(ChatRequest.__dataclass_fields__) - {"user_message", "free_mode"})
        response = ChatService().process_chat_request(ChatRequest(user_message="hi", free_mode=True, **nothing))
        assert (response.response_text, response.session_id, response.instructions) == ("hi", "", None)
        assert upstream.received[0].json["model"] == "gpt-4o-mini"

    def test_upstreams_failure_is_an_exception(self, upstream: Upstream) -> None:
        """A failure is raised, never an answer with `success` false."""
        upstream.script(reply(400, error_document("bad")))
        with pytest.raises(OpenAIClientException) as caught:
            ChatService().process_chat_request(ChatRequest(user_message="hi", free_mode=True))
        assert (caught.value.error_code, caught.value.status) == ("upstream_rejected_request", 400)

    @pytest.mark.parametrize(
        ("fields", "names"),
        [
            ({"user_message": " \n"}, ["user_message"]),
            ({"user_message": None}, ["user_message"]),
            ({"session_id": "s" * 129}, ["session_id"]),
            ({"model": "m" * 257}, ["model"]),
            ({"max_tokens": 0}, ["max_tokens"]),
            ({"temperature": 2.1}, ["temperature"]),
            ({"temperature": float("nan")}, ["temperature"]),
            ({"openai_api_key": "llms_0123456789"}, ["openai_api_key"]),
            ({"role": "a\x00"}, ["role"]),
            ({"instructions": "\ud800"}, ["instructions"]),
            ({"memory_context": ["ok", "\ud800"]}, ["memory_context"]),
            ({"conversation_history": ["user: a", "hm"]}, ["conversation_history"]),
            (
                {"user_message": "", "max_tokens": -1, "temperature": -0.1},
                ["user_message", "max_tokens", "temperature"],
            ),
        ],
        ids=lambda value: "+".join(value) if isinstance(value, list) else "",
    )
    def test_validate_request(self, fields: dict[str, Any], names: list[str]) -> None:
        """Every broken rule is named at once, the first in `field`; no value is repeated."""
        with pytest.raises(ValidationException) as caught:
            ChatService()._validate_request(ChatRequest(**{"user_message": "hi"} | fields))
        assert (caught.value.field, list(caught.value.errors)) == (names[0], names)
        assert caught.value.value is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"temperature": 0, "max_tokens": 1, "session_id": "s" * 128, "model": "m" * 256},
            {"temperature": 2, "max_tokens": 10**9, "openai_api_key": "k"},
            {"user_message": "\u200b🙂", "conversation_history": ["user:"], "memory_context": [""]},
        ],
    )
    def test_validate_request_takes_the_limits_themselves(self, fields: dict[str, Any]) -> None:
        """What stands exactly on a limit is allowed; `0` is a temperature."""
        ChatService()._validate_request(ChatRequest(**{"user_message": "hi"} | fields))

    def test_messages(self) -> None:
        """The three parts of the conversation are plain messages."""
        service = ChatService()
        request = ChatRequest(user_message="hi", role="교사", memory_context=["a"])
        system = {"role": "system", "content": "당신은 도움이 되는 AI 어시스턴트입니다.\n\n#역할\n교사\n\n#기억\n- a"}
        assert service._create_system_message(request) == system
        assert service._create_user_message(" hi ") == {"role": "user", "content": " hi "}
        assert service._format_conversation_history([]) == []
        assert service._format_conversation_history(["user: 1", "Assistant:2"]) == [
            {"role": "user", "content": "1"},
            {"role": "assistant", "content": "2"},
        ]


@pytest.mark.usefixtures("_environment")
class TestOpenAIClient:
    """OpenAIClient, built without arguments."""

    def test_generate_response(self, upstream: Upstream) -> None:
        """Gives the response, the seconds it took, and whose key paid."""
        response, seconds, source = OpenAIClient().generate_response(HELLO, free_mode=True)
        assert (response.output_text, response.usage, source) == ("hello", Usage(11, 7, 18), "default")
        assert 0 < seconds < 5
        assert upstream.received[0].json == {
            "model": "gpt-4o-mini",
            "input": HELLO,
            "temperature": 0.7,
            "max_output_tokens": 1000,
            "store": False,
        }

    def test_generate_response_by_the_seeds_signature(self, upstream: Upstream) -> None:
        """The seed's parameters, in the seed's order."""
        OpenAIClient().generate_response(HELLO, CALLER_KEY, False, "gpt-4o", "be brief", 5, 0)
        sent = upstream.received[0].json
        assert upstream.received[0].key == CALLER_KEY
        assert [sent[name] for name in ("model", "instructions", "max_output_tokens", "temperature")] == [
            *("gpt-4o", "be brief", 5, 0),
        ]

    def test_generate_response_has_a_deadline(self, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
        """An upstream that says nothing does not hold the program for ever."""
        monkeypatch.setenv("REQUEST_TIMEOUT", "0.3")
        upstream.default = silence()
        with pytest.raises(OpenAIClientException) as caught:
            OpenAIClient().generate_response(HELLO, free_mode=True)
        assert caught.value.error_code == "upstream_timeout"

    def test_organization_and_project_go_with_the_programs_key(
        self, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In plain Python as over HTTP; never with another key."""
        monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
        monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
        OpenAIClient().generate_response(HELLO, free_mode=True)
        ChatService().process_chat_request(ChatRequest(user_message="hi"))
        ChatService().process_chat_request(ChatRequest(user_message="hi", openai_api_key=CALLER_KEY))
        sent = [
            (received.headers.get("openai-organization"), received.headers.get("openai-project"))
            for received in upstream.received
        ]
        assert sent == [("org-1", "proj-1"), ("org-1", "proj-1"), (None, None)]

    def test_select_api_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The key that is tried first and its source."""
        client = OpenAIClient()
        assert client._select_api_key(CALLER_KEY) == (CALLER_KEY, "user_provided")
        assert client._select_api_key(CALLER_KEY, True) == (CALLER_KEY, "user_provided")
        assert client._select_api_key("", True) == (SERVER_KEY, "default")
        with pytest.raises(ConfigurationException):
            client._select_api_key()
        monkeypatch.delenv("OPENAI_API_KEY")
        with pytest.raises(ConfigurationException) as caught:
            OpenAIClient()._select_api_key(None, True)
        assert caught.value.error_code == "no_api_key_available"

    @pytest.mark.parametrize(
        ("key", "well_formed"),
        [
            ("k", True),
            ("k" * 8000, True),
            ("k" * 8001, False),
            ("llms_1234567", False),
            ("a b c d e", False),
            ("", False),
        ],
    )
    def test_validate_api_key(self, upstream: Upstream, key: str, well_formed: bool) -> None:
        """A key is judged by its form; no call is made to probe it."""
        assert OpenAIClient()._validate_api_key(key) is well_formed
        assert upstream.received == []

    def test_close_ends_idle_connections(self, upstream: Upstream) -> None:
        """A closed client starts anew when it is used again."""
        client = OpenAIClient()
        client.generate_response(HELLO, free_mode=True)
        client.close()
        assert upstream.connections == 1


class TestChatResponse:
    """ChatResponse.from_openai_response."""

    WANTED = {
        "session_id": "s-1",
        "response_text": "hello",
        "model": "gpt-4o-mini-2024",
        "input_tokens": 11,
        "output_tokens": 7,
        "total_tokens_used": 18,
        "output_format": "text",
        "created_at": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        "temperature": 0.7,
        "instructions": None,
        "response_time": 1.5,
        "success": True,
        "error_message": None,
        "api_key_source": "default",
        "response_id": "resp_1",
        "finish_reason": "stop",
        "cached": False,
        "request_id": None,
        "response_json": None,
        "dropped_turns": 0,
        "cost_usd": None,
        "turn": None,
        "summarised_turns": None,
        "character": None,
        "ai_generated": True,
    }

    def test_from_our_response(self) -> None:
        """From what OpenAIClient gives."""
        response = parse_completion(text_document("hello"))
        answer = ChatResponse.from_openai_response(response, "s-1", 1.5, api_key_source="default")
        assert vars(answer) == self.WANTED

    def test_from_the_sdks_response(self) -> None:
        """From the SDK's own object, by the seed's parameter names."""
        answer = ChatResponse.from_openai_response(
            openai_response=sdk_response("hello"), session_id="s-1", response_time=1.5, api_key_source="default"
        )
        assert vars(answer) == self.WANTED

    @pytest.mark.parametrize(
        ("reason", "wanted"), [("max_output_tokens", "length"), ("content_filter", "content_filter"), (None, "length")]
    )
    def test_incomplete(self, reason: str | None, wanted: str) -> None:
        """Both kinds say why an incomplete answer ends."""
        changes = {"status": "incomplete", "incomplete_details": {"reason": reason} if reason else None}
        for response in (sdk_response("half", changes), parse_completion(text_document("half", changes))):
            assert ChatResponse.from_openai_response(response).finish_reason == wanted

    def test_what_upstream_leaves_out(self) -> None:
        """The request's model and temperature stand in; tokens are 0; the time is now, in UTC."""
        sparse = {"text": None, "temperature": None, "usage": None}
        ours = parse_completion(text_document("hi", sparse | {"created_at": None, "model": None}))
        for response in (sdk_response("hi", sparse), ours):
            answer = ChatResponse.from_openai_response(response, model="gpt-4o", temperature=0.0)
            assert (answer.temperature, answer.total_tokens_used, answer.output_format) == (0.0, 0, "text")
            assert answer.created_at.tzinfo is UTC
        assert answer.model == "gpt-4o"
        assert abs((answer.created_at - datetime.now(UTC)).total_seconds()) < 5


def text_document(value: str, changes: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """A finished answer as bytes."""
    return json.dumps(response_document(value) | changes).encode()


def sdk_response(value: str, changes: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The same as the SDK's object, built as the SDK builds it. Its import takes half a second."""
    from openai.types.responses import Response

    return Response.construct(**response_document(value) | changes)


SECTIONS = {
    "system": "platform platform_version architecture processor hostname python_version",
    "cpu": "usage_percent count frequency_mhz frequency_max_mhz load_average",
    "memory": "total_gb available_gb used_gb usage_percent swap_total_gb swap_used_gb swap_usage_percent",
    "disk": "total_gb used_gb free_gb usage_percent read_bytes write_bytes read_count write_count",
    "network": "bytes_sent bytes_recv packets_sent packets_recv active_connections",
    "process": "pid name cpu_percent memory_mb memory_percent num_threads create_time",
    "docker": "is_docker container_id image",
}


def test_system_info() -> None:
    """Every section of the contract with its fields, in its order and units."""
    info = SystemInfoCollector.get_system_info()
    assert list(info) == ["timestamp", *SECTIONS]
    assert {name: " ".join(info[name]) for name in SECTIONS} == SECTIONS
    assert datetime.fromisoformat(info["timestamp"]).tzinfo is not None
    assert info["process"]["pid"] == psutil.Process().pid
    assert info["memory"]["total_gb"] == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.01)
    assert len(info["cpu"]["load_average"]) == 3


def test_system_info_of_an_instance() -> None:
    """The seed calls it on the class; an instance does as well."""
    assert list(SystemInfoCollector().get_system_info()) == ["timestamp", *SECTIONS]


class TestConfig:
    """Config.get and Config.get_int."""

    CONFIG = Config.from_env({"SERVER_PORT": "8000", "OPENAI_API_KEY": SERVER_KEY, "DEFAULT_TEMPERATURE": "0"})

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("SERVER_PORT", "8000"),
            ("OPENAI_API_KEY", SERVER_KEY),
            ("DEFAULT_MODEL", "gpt-4o-mini"),
            ("DEFAULT_TEMPERATURE", "0.0"),
            ("LOCAL_MODEL", ""),
            ("NO_SUCH_SETTING", None),
            ("FROM_ENV", None),
        ],
    )
    def test_get(self, key: str, value: str | None) -> None:
        """A setting as text, by its environment name."""
        assert self.CONFIG.get(key) == value

    def test_get_gives_the_default_for_what_is_unknown(self) -> None:
        """Known settings keep their own value."""
        assert self.CONFIG.get("NO_SUCH_SETTING", "x") == "x"
        assert self.CONFIG.get("SERVER_PORT", "x") == "8000"

    @pytest.mark.parametrize(
        ("key", "value"),
        [("SERVER_PORT", 8000), ("DEFAULT_MAX_TOKENS", 1000), ("DEFAULT_MODEL", 7), ("LOCAL_MODEL", 7), ("NOPE", 7)],
    )
    def test_get_int(self, key: str, value: int) -> None:
        """A setting as a whole number; the default when it is none."""
        assert self.CONFIG.get_int(key, 7) == value
        assert self.CONFIG.get_int("NOPE") == 0

    def test_settings_are_frozen_and_keep_the_key_out_of_their_repr(self) -> None:
        """A Config can be logged and not changed."""
        assert SERVER_KEY not in repr(self.CONFIG)
        with pytest.raises(AttributeError):
            self.CONFIG.server_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("error", "message", "status", "attributes"),
    [
        (
            ValidationException("too long", "session_id", "v"),
            "입력 데이터 오류: too long",
            422,
            {"field": "session_id", "value": "v", "errors": {"session_id": ["too long"]}},
        ),
        (
            ConfigurationException("no key", "OPENAI_API_KEY"),
            "시스템 설정 오류: no key",
            503,
            {"config_key": "OPENAI_API_KEY"},
        ),
        (
            OpenAIClientException("lost", "upstream_connection_error", {"param": "model"}),
            "AI 서비스 연결 오류: lost",
            502,
            {"error_code": "upstream_connection_error", "details": {"param": "model"}},
        ),
        (ChatServiceException("busy", "server_busy"), "채팅 서비스 오류: busy", 503, {"details": {}, "retry_after": 1}),
        (ChatServiceException("bug"), "채팅 서비스 오류: bug", 500, {"error_code": "internal_error"}),
        (OpenAIClientException("?"), "AI 서비스 연결 오류: ?", 502, {"error_code": "upstream_error"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_exceptions(error: ServiceException, message: str, status: int, attributes: dict[str, Any]) -> None:
    """The seed's four exceptions: their message, prefix, status and own attributes."""
    assert (error.error_message, error.status) == (message, status)
    assert str(error) == error.message == message.partition(": ")[2]
    assert {name: getattr(error, name) for name in attributes} == attributes
