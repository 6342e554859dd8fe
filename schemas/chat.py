"""The wire form of a chat turn: which fields there are and their JSON types. The rules are in app/services/rules.py."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate

from app.models import (
    API_KEY_PATTERN,
    CHARACTER_MAX_LENGTH,
    END_USER_MAX_LENGTH,
    ENTRIES_MAX,
    IMAGE_DATA_MAX_LENGTH,
    IMAGES_MAX,
    MALFORMED_KEY,
    MAX_TOKENS_LIMIT,
    MODEL_MAX_LENGTH,
    SEGMENT_TAG_MAX_LENGTH,
    SEGMENT_TAGS_MAX,
    SESSION_ID_MAX_LENGTH,
    TEMPERATURE_MAX,
    USER_NAME_MAX_LENGTH,
    ChatRequest,
    is_well_formed,
)
from schemas.fields import BoundedList, OptionalInteger, OptionalString, StrictBoolean, StrictFloat, StrictInteger, Turn
from schemas.quick import QuickSchema

TEXT = r"^[^\u0000]*$"
KEY = rf"^({API_KEY_PATTERN.pattern})?$"
IMAGE_PATTERN = r"^(https://[\x21-\x7e]{1,2040}|data:image/(png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2})$"
TAG_PATTERN = r"^[^\[\]\u0000]+$"
TURN_TEXT = r"^([uU][sS][eE][rR]|[aA][sS][sS][iI][sS][tT][aA][nN][tT]):[^\u0000]*$"
TURN_ROLE = r"^([uU][sS][eE][rR]|[aA][sS][sS][iI][sS][tT][aA][nN][tT])$"


SEGMENTS_RULE = {
    "if": {"properties": {"segments": {"const": True}}, "required": ["segments"]},
    "then": {"properties": {"stream": {"const": True}, "response_schema": {"type": "null"}}, "required": ["stream"]},
    "else": {"properties": {"segment_tags": {"maxItems": 0}}},
}
"""What the rules of `segments` are in the specification; the service checks them."""


def text(description: str, example: str, **schema: Any) -> fields.String:
    """An optional text; null and empty mean "not given"."""
    metadata = {"description": description, "example": example, "default": "", "pattern": TEXT} | schema
    return fields.String(allow_none=True, metadata=metadata)


def well_formed_key(key: str) -> None:
    """Refuse a malformed key here already: one that the header's overrides would never be looked at."""
    if key and not is_well_formed(key):
        raise ValidationError(MALFORMED_KEY)


def upstream_header() -> fields.String:
    """The header that says which upstream the caller's own key belongs to."""
    return fields.String(
        data_key="X-Upstream",
        validate=validate.Length(max=64),
        metadata={
            "example": "",
            "description": "With several upstreams: where the caller's own key belongs. Default: the first that speaks "
            "the API of this route.",
        },
    )


class ChatRequestSchema(QuickSchema):
    """One chat turn. `null` means "not given" for every optional field; an unknown field is an error."""

    class Meta:
        title = "ChatRequest"

    session_id = text("Echoed in the answer.", "s-1", maxLength=SESSION_ID_MAX_LENGTH)
    system_message = text(
        "How the model is to behave. Default: setting DEFAULT_SYSTEM_MESSAGE.", "You are a helpful assistant."
    )
    user_message = fields.String(
        required=True,
        metadata={
            "description": "What the user says; not blank.",
            "example": "What is the capital of France?",
            "pattern": r"^[^\u0000]*[^\s\u0000\u001c-\u001f\u0085][^\u0000]*$",
            "minLength": 1,
        },
    )
    role = text("The part the model plays; becomes a section of the system message.", "a geography teacher")
    instructions = text(
        "Extra instructions; a section of the system message, and sent as `instructions`.", "Answer in one sentence."
    )
    conversation_history = BoundedList(
        Turn(
            metadata={
                "anyOf": [
                    {"type": "string", "pattern": TURN_TEXT},
                    {
                        "type": "object",
                        "required": ["role", "content"],
                        "additionalProperties": False,
                        "properties": {
                            "role": {"type": "string", "pattern": TURN_ROLE},
                            "content": {"type": "string", "pattern": TEXT},
                        },
                    },
                ]
            }
        ),
        most=ENTRIES_MAX,
        allow_none=True,
        metadata={
            "description": 'Past turns in order: `"user: text"`, `"assistant: text"`, or objects of role and content.',
            "example": ["user: Hello", "assistant: Hi!"],
            "default": [],
        },
    )
    memory_context = BoundedList(
        fields.String(metadata={"pattern": TEXT}),
        most=ENTRIES_MAX,
        allow_none=True,
        metadata={"description": "What to remember.", "example": ["The user lives in Seoul"], "default": []},
    )
    max_tokens = StrictInteger(
        allow_none=True,
        metadata={
            "description": "Upper bound of the answer in tokens. Default: setting DEFAULT_MAX_TOKENS.",
            "example": 200,
            "minimum": 1,
            "maximum": MAX_TOKENS_LIMIT,
        },
    )
    temperature = StrictFloat(
        allow_none=True,
        metadata={
            "description": "Randomness of the answer, 0 to 2. Default: setting DEFAULT_TEMPERATURE.",
            "example": 0,
            "minimum": 0,
            "maximum": TEMPERATURE_MAX,
        },
    )
    model = text("Upstream's model. Default: setting DEFAULT_MODEL.", "gpt-4o-mini", maxLength=MODEL_MAX_LENGTH)
    openai_api_key = fields.String(
        allow_none=True,
        validate=well_formed_key,
        metadata={
            "description": "The caller's own key; 1 to 8000 printable ASCII characters.",
            "example": "",
            "default": "",
            "pattern": KEY,
        },
    )
    free_mode = StrictBoolean(
        allow_none=True,
        metadata={
            "description": "Let the server's key pay when the caller's is missing or refused.",
            "example": True,
            "default": False,
        },
    )

    stream = StrictBoolean(
        allow_none=True,
        metadata={"description": "Answer with an event stream.", "example": False, "default": False},
    )
    max_context_tokens = StrictInteger(
        allow_none=True,
        metadata={
            "description": "Drop the oldest turns of the history until the prompt has at most so many (estimated) "
            "tokens. Default: setting DEFAULT_MAX_CONTEXT_TOKENS.",
            "example": 4000,
            "minimum": 1,
            "maximum": MAX_TOKENS_LIMIT,
        },
    )
    response_schema = fields.Dict(
        allow_none=True,
        metadata={
            "description": "JSON schema that the answer has to follow; the answer is in `response_json`, too. "
            "Default: free text.",
            "example": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    )
    images = BoundedList(
        fields.String(metadata={"pattern": IMAGE_PATTERN, "maxLength": IMAGE_DATA_MAX_LENGTH}),
        most=IMAGES_MAX,
        allow_none=True,
        metadata={
            "description": "`https:` or `data:` URLs of images that belong to the user's message.",
            "example": ["https://example.com/cat.png"],
            "default": [],
        },
    )
    segments = StrictBoolean(
        allow_none=True,
        metadata={
            "description": "Cut a streamed answer into sentences, for speech: `segment` events beside `delta`. Needs "
            "`stream`, and no `response_schema`.",
            "example": False,
            "default": False,
        },
    )
    segment_tags = BoundedList(
        fields.String(metadata={"pattern": TAG_PATTERN, "minLength": 1, "maxLength": SEGMENT_TAG_MAX_LENGTH}),
        most=SEGMENT_TAGS_MAX,
        allow_none=True,
        metadata={
            "description": "Names that the model may write in square brackets before a sentence: `[happy]` is then the "
            "segment's `tag` and no part of its text. Needs `segments`.",
            "example": [],
            "default": [],
        },
    )

    remember = StrictBoolean(
        allow_none=True,
        metadata={
            "description": "Keep this turn in the session `session_id`, and send what the session has as the history.",
            "example": False,
            "default": False,
        },
    )

    user = fields.String(
        allow_none=True,
        metadata={
            "description": "Your application's end user, for limits and usage by user. Not sent upstream. "
            "Default: nobody.",
            "example": "player-42",
            "pattern": TEXT,
            "minLength": 1,
            "maxLength": END_USER_MAX_LENGTH,
        },
    )

    character = text(
        "Who speaks: a character's name, or name and version, `mina@3`. Default: nobody.",
        "mina",
        maxLength=CHARACTER_MAX_LENGTH,
    )
    user_name = text(
        "What `{{user}}` in the character's texts stands for. Default: setting PROMPT_USER_NAME.",
        "도윤",
        maxLength=USER_NAME_MAX_LENGTH,
    )

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> ChatRequest:
        """Give the service's own value."""
        return ChatRequest(**data)


class ChatHeadersSchema(QuickSchema):
    """Headers that shape a chat turn."""

    openai_api_key = fields.String(
        data_key="X-OpenAI-Api-Key",
        validate=well_formed_key,
        metadata={"description": "The caller's own key; wins over the body's.", "pattern": KEY, "example": ""},
    )
    upstream = upstream_header()
    cache_control = fields.String(
        data_key="Cache-Control",
        metadata={"description": "`no-cache` skips the response cache.", "example": "no-cache"},
    )


class ChatResponseSchema(QuickSchema):
    """A successful chat turn."""

    class Meta:
        title = "ChatResponse"

    session_id = fields.String(metadata={"description": "As in the request.", "example": "s-1"})
    response_text = fields.String(metadata={"description": "The model's answer.", "example": "Paris."})
    model = fields.String(metadata={"description": "The model that answered.", "example": "gpt-4o-mini"})
    input_tokens = fields.Integer(
        metadata={"description": "Tokens of the prompt, 0 or more.", "example": 24, "minimum": 0}
    )
    output_tokens = fields.Integer(
        metadata={"description": "Tokens of the answer, 0 or more.", "example": 3, "minimum": 0}
    )
    total_tokens_used = fields.Integer(
        metadata={"description": "Their sum as upstream counts it.", "example": 27, "minimum": 0}
    )
    output_format = fields.String(
        metadata={"description": "Upstream's `text.format.type`, else `text`.", "example": "text"}
    )
    created_at = fields.DateTime(
        format="iso", metadata={"description": "ISO 8601, UTC.", "example": "2026-01-31T12:00:00+00:00"}
    )
    temperature = fields.Float(
        allow_none=True, metadata={"description": "Upstream's, else the one sent; 0 to 2.", "example": 0.7}
    )
    instructions = fields.String(
        allow_none=True, metadata={"description": "As in the request.", "example": "Answer in one sentence."}
    )
    response_time = fields.Float(
        metadata={"description": "Seconds for the whole handling.", "example": 0.41, "minimum": 0}
    )
    success = fields.Boolean(metadata={"description": "Always `true`.", "example": True})
    error_message = fields.String(allow_none=True, metadata={"description": "Always `null`.", "example": None})
    api_key_source = fields.String(
        validate=validate.OneOf(["user_provided", "default"]),
        metadata={"description": "Whose key paid: the caller's or the server's.", "example": "default"},
    )
    response_id = fields.String(
        allow_none=True, metadata={"description": "Upstream's id of the answer.", "example": "resp_1"}
    )
    finish_reason = fields.String(
        validate=validate.OneOf(["stop", "length", "content_filter"]),
        metadata={"description": "Why the answer ended.", "example": "stop"},
    )
    cached = fields.Boolean(metadata={"description": "Served from the response cache.", "example": False})
    request_id = fields.String(
        allow_none=True, metadata={"description": "The `X-Request-ID` of the answer.", "example": "a1b2c3"}
    )
    response_json = fields.Raw(
        allow_none=True,
        metadata={"description": "The answer parsed, when `response_schema` was given.", "example": {"city": "Paris"}},
    )
    dropped_turns = fields.Integer(
        metadata={
            "description": "Turns of the history left out for `max_context_tokens`, 0 or more.",
            "example": 0,
            "minimum": 0,
        }
    )
    cost_usd = fields.String(
        allow_none=True,
        metadata={"description": "US dollars, decimal; `null` when the price is unknown.", "example": "0.0000054"},
    )
    turn = OptionalInteger(
        metadata={"description": "Of a remembered turn: its number in the session.", "example": 1, "minimum": 1}
    )
    summarised_turns = OptionalInteger(
        metadata={
            "description": "Of a remembered turn: how many turns of the session stand in its summary.",
            "example": 0,
            "minimum": 0,
        }
    )
    ai_generated = fields.Boolean(metadata={"description": "Always `true`: a model wrote the answer.", "example": True})
    character = OptionalString(metadata={"description": "Who spoke, in which version.", "example": "mina@3"})


def token_count(description: str, example: int) -> fields.Integer:
    """A number of tokens."""
    return fields.Integer(metadata={"description": description, "example": example, "minimum": 0})


class TokensSchema(Schema):
    """Tokens of each part of the prompt."""

    system = token_count("System message.", 9)
    role = token_count("Role.", 0)
    description = token_count("The character's description; only with a character, as the other parts of one.", 0)
    speech_style = token_count("The character's manner of speech.", 0)
    lore = token_count("What is told of the character's lore.", 0)
    examples = token_count("The character's examples that are sent.", 0)
    first_message = token_count("What the character said first.", 0)
    memory = token_count("Memories.", 0)
    summary = token_count("Summary of a session's earlier turns, where there is a session.", 0)
    instructions = token_count("Instructions.", 0)
    history = token_count("Past turns that are sent.", 0)
    user = token_count("The user's message.", 8)


class PlannedSchema(Schema):
    """One attempt that may be made for a chat turn."""

    class Meta:
        title = "Planned"

    upstream = fields.String(metadata={"description": "The upstream's name in the file.", "example": "openai"})
    model = fields.String(metadata={"description": "The model's name there.", "example": "gpt-4o-mini"})
    reason = fields.String(metadata={"description": "Why it stands in this place.", "example": "chosen by weight"})


class ChatPreviewSchema(Schema):
    """What a chat turn would send upstream."""

    class Meta:
        title = "ChatPreview"

    upstream_path = fields.String(metadata={"description": "Path below OPENAI_BASE_URL.", "example": "/responses"})
    upstream_body = fields.String(
        metadata={"description": "The body upstream would receive, to the byte.", "example": '{"model":"gpt-4o-mini"}'}
    )
    api_key_source = fields.String(
        validate=validate.OneOf(["user_provided", "default"]),
        metadata={"description": "Whose key would be tried first.", "example": "default"},
    )
    tokens = fields.Nested(TokensSchema, metadata={"description": "Tokens of each part."})
    total_tokens = token_count("Their sum.", 17)
    tokens_estimated = fields.Boolean(
        metadata={"description": "`true`: one token per 4 ASCII characters, one per other character.", "example": True}
    )
    dropped_turns = fields.Integer(
        metadata={
            "description": "Turns of the history left out for `max_context_tokens`, 0 or more.",
            "example": 0,
            "minimum": 0,
        }
    )
    plan = fields.List(
        fields.Nested(PlannedSchema),
        metadata={"description": "Who may be asked, in order; empty where the server has one upstream.", "example": []},
    )
