"""The frozen values that the rooms hand to each other; their field names are the wire's."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from openai.types.responses import Response

API_KEY_PATTERN = re.compile(r"[\x21-\x7e]{1,8000}")
"""What may travel as a key in an HTTP header; anything else is a typo or an attack. Keys of local servers have a few
characters, JSON Web Tokens thousands; gunicorn takes header lines of 8,190 bytes."""
MALFORMED_KEY = "must be 1 to 8000 printable ASCII characters without spaces, and no token of this server"
PLACEHOLDER_KEYS = re.compile(
    r"empty|none|null|nil|undefined|ollama|lm-?studio|dummy|fake|placeholder|changeme|x+|-+|\.+|n/?a|unused|"
    r"(?:sk-)?(?:no|not)[-_](?:api[-_])?(?:key|needed|required|used)\S{0,40}|sk-x+|sk-\.+|sk-1234|"
    r"<?(?:your|my)[-_](?:openai[-_])?api[-_]key(?:[-_]here)?>?",
    re.IGNORECASE,
)
"""What quick starts of local servers and of programs write where a key is demanded and none is needed."""

TOKEN_PREFIX = "llms_"
"""What the tokens of this server's clients begin with, and no key of OpenAI's does."""

SESSION_ID_MAX_LENGTH = 128
SESSION_NAME = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f]+")
"""A session id under which something is kept: it can stand in a path."""
END_USER_MAX_LENGTH = 128
CHARACTER_MAX_LENGTH = 80
"""Of a character's name with a version behind it."""
USER_NAME_MAX_LENGTH = 64
MODEL_MAX_LENGTH = 256
MAX_TOKENS_LIMIT = 1_000_000_000
TEMPERATURE_MAX = 2
IMAGES_MAX = 8
SEGMENT_TAGS_MAX = 64
SEGMENT_TAG_MAX_LENGTH = 32
ENTRIES_MAX = 10_000
"""How many past turns, and how many memories, a request may have."""
SCHEMA_DEPTH_MAX = 100
SCHEMA_VALUES_MAX = 20_000
IMAGE_URL_MAX_LENGTH = 2048
IMAGE_DATA_MAX_LENGTH = 700_000
TITLE_MAX_LENGTH = 256
METADATA_MAX = 16
METADATA_KEY_MAX_LENGTH = 64
METADATA_VALUE_MAX_LENGTH = 512
SUMMARY_MAX_LENGTH = 32_000
"""Characters: as many tokens in Korean, and far more than a prompt spares for it."""
UNWRITABLE = "must not contain NUL or lone surrogates"

CLIENT_NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
CLIENT_COUNT_MAX = 1_000_000
"""Of a client's requests per minute, and of its requests at once."""
CLIENT_STATES = ("active", "expired", "revoked", "key_changed")
"""`key_changed`: its token was made under a digest key that is not known now, and opens nothing."""

USAGE_GROUPS = ("day", "model", "client", "user", "session", "api_key_source", "upstream")
USAGE_SORTS = ("key", "requests", "failed", "input_tokens", "output_tokens", "cost_usd", "p50_ms", "p95_ms")
USAGE_STEPS_SECONDS = (60, 300, 900, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400)
"""How far apart the points of a series of usage may be."""
USAGE_POINTS_MAX = 200
USAGE_PAGE_MAX = 500
SESSION_PAGE_MAX = 500
"""Of sessions, and of turns of one."""

KeySource = Literal["user_provided", "default"]
Message = dict[str, str]


@dataclass(frozen=True)
class ApiKey:
    """A key, whose it is, and the headers that go with it and with no other. The secret never shows in a repr."""

    secret: str = field(repr=False)
    source: KeySource
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Credentials:
    """What a request says of who is to pay: the caller's own key, empty if it brings none, and free mode.

    `headers` go to upstream with the caller's own key and with no other; `upstream` names where that key belongs, empty
    where nothing is said.
    """

    api_key: str = field(default="", repr=False)
    free_mode: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    upstream: str = ""


def is_well_formed(api_key: str) -> bool:
    """Tell whether `api_key` can be one: 1 to 8000 printable ASCII characters, no spaces, no token of this server."""
    return API_KEY_PATTERN.fullmatch(api_key) is not None and not api_key.startswith(TOKEN_PREFIX)


def is_placeholder(api_key: str) -> bool:
    """Tell whether `api_key` only stands for one, as `EMPTY` or `ollama` do."""
    return PLACEHOLDER_KEYS.fullmatch(api_key) is not None


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One chat turn as the caller asked for it. None means "not given": the setting's default is used.

    `upstream` is where the caller's own key belongs, which a header says.
    """

    user_message: str
    session_id: str | None = ""
    system_message: str | None = ""
    role: str | None = ""
    instructions: str | None = ""
    conversation_history: Sequence[str | Message] | None = ()
    memory_context: Sequence[str] | None = ()
    max_tokens: int | None = None
    temperature: float | None = None
    model: str | None = None
    openai_api_key: str | None = field(default="", repr=False)
    upstream: str | None = ""
    free_mode: bool | None = False
    stream: bool | None = False
    max_context_tokens: int | None = None
    response_schema: Mapping[str, Any] | None = None
    images: Sequence[str] | None = ()
    remember: bool | None = False
    segments: bool | None = False
    segment_tags: Sequence[str] | None = ()
    user: str | None = None
    character: str | None = ""
    user_name: str | None = ""

    @property
    def credentials(self) -> Credentials:
        """Who is to pay."""
        return Credentials(self.openai_api_key or "", bool(self.free_mode), upstream=self.upstream or "")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one upstream call is asked for, before it takes the form of one of upstream's APIs.

    The first message is the system's, the last the user's; `images` are URLs that ride on the last.
    `defaults` are the parameters that the caller did not give: a model that does not take them is asked without them.
    """

    messages: Sequence[Message]
    model: str
    instructions: str
    max_tokens: int
    temperature: float
    response_schema: Mapping[str, Any] | None = None
    images: Sequence[str] = ()
    defaults: frozenset[str] = frozenset()

    def sends_temperature(self, without: frozenset[str]) -> bool:
        """Whether a model that is asked `without` these names is told the temperature: always the caller's own."""
        return "temperature" not in without or "temperature" not in self.defaults


@dataclass(frozen=True, kw_only=True)
class ChatPreview:
    """What a chat request would send upstream, and who would pay. Token numbers are estimates. `plan`: with several
    upstreams, each that may be asked, in order, with the model's name there and the reason for its place."""

    upstream_path: str
    upstream_body: str
    api_key_source: str
    tokens: Mapping[str, int]
    total_tokens: int
    tokens_estimated: bool
    dropped_turns: int
    plan: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens as upstream counted them; 0 where it said nothing. `service_tier`: empty for the standard one.

    Parts of the input: what was read from a cache of prompts, and what was written to one, for the usual time or for an
    hour. `has_fees`: it costs more than its tokens, by an amount that is not known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    service_tier: str = ""
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    has_fees: bool = False


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A model's finished answer, whichever API it came by, reduced to what we use."""

    id: str | None
    model: str | None
    output_text: str
    finish_reason: str
    usage: Usage | None
    output_format: str
    created_at: float | None
    temperature: float | None


@dataclass(frozen=True, kw_only=True)
class ChatResponse:
    """A successful chat turn. Times are seconds, `created_at` is UTC. `turn`: its number in its session, once that is
    durable; None, as `summarised_turns`, where nothing is remembered."""

    session_id: str
    response_text: str
    model: str
    input_tokens: int
    output_tokens: int
    total_tokens_used: int
    output_format: str
    created_at: datetime
    temperature: float | None = None
    instructions: str | None = None
    response_time: float | None = None
    success: bool = True
    error_message: str | None = None
    api_key_source: str | None = None
    response_id: str | None = None
    finish_reason: str = "stop"
    cached: bool = False
    request_id: str | None = None
    response_json: Any = None
    dropped_turns: int = 0
    cost_usd: str | None = None
    turn: int | None = None
    summarised_turns: int | None = None
    ai_generated: bool = True
    character: str | None = None

    @classmethod
    def from_openai_response(
        cls,
        openai_response: Completion | Response,
        session_id: str = "",
        response_time: float | None = None,
        **known: Any,
    ) -> ChatResponse:
        """Build the answer from a Completion or the SDK's own Response.

        `known` are fields that the request or the server knows better than upstream: `api_key_source`, `request_id`,
        `instructions`, `cached`, and `model` and `temperature` for when upstream leaves them out.
        """
        usage = openai_response.usage
        sent_temperature, model = known.pop("temperature", None), known.pop("model", None)
        temperature = getattr(openai_response, "temperature", None)
        return cls(
            session_id=session_id,
            response_text=openai_response.output_text,
            model=openai_response.model or model or "",
            input_tokens=usage.input_tokens if usage else 0,
            output_tokens=usage.output_tokens if usage else 0,
            total_tokens_used=usage.total_tokens if usage else 0,
            output_format=_output_format(openai_response),
            created_at=_utc(openai_response.created_at),
            temperature=sent_temperature if temperature is None else temperature,
            response_time=response_time,
            response_id=openai_response.id,
            finish_reason=_finish_reason(openai_response),
            **known,
        )


def _output_format(response: Completion | Response) -> str:
    if isinstance(response, Completion):
        return response.output_format
    kind = getattr(getattr(getattr(response, "text", None), "format", None), "type", None)
    return kind or "text"


def _finish_reason(response: Completion | Response) -> str:
    if isinstance(response, Completion):
        return response.finish_reason
    if getattr(response, "status", None) != "incomplete":
        return "stop"
    reason = getattr(getattr(response, "incomplete_details", None), "reason", None)
    return "content_filter" if reason == "content_filter" else "length"


def _utc(seconds: float | None) -> datetime:
    """A Unix time as an aware datetime; now, when upstream gave none or one beyond the calendar."""
    if seconds is not None and math.isfinite(seconds) and 0 <= seconds < 253_402_300_800:
        return datetime.fromtimestamp(seconds, UTC)
    return datetime.now(UTC)
