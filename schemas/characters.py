"""The wire form of characters. What is sent is read by app/characters/rules.py; here it is described."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from app.characters.character import LORE_MAX_TOKENS, LORE_TURNS, NAME_MAX_LENGTH, NAME_PATTERN, VERSION_MAX
from app.characters.rules import (
    EXAMPLES_MAX,
    KEYWORD_MAX_LENGTH,
    KEYWORDS_MAX,
    LORE_MAX,
    LORE_TOKENS_MAX,
    LORE_TURNS_MAX,
    PAGE_MAX,
    ROLES,
    TEXT_MAX_LENGTH,
    TEXTS,
)
from app.models import MAX_TOKENS_LIMIT, TEMPERATURE_MAX
from schemas.fields import beginning

NO_REGULAR_EXPRESSION = (
    r"(?!/[\s\S]+/[a-z]*$)(?!\^[\s\S]*\$$)"
    r"(?![\s\S]*(\\[A-Za-z.()\[\]^$*+?]|\.[*+]|[)\]][*+?{]|\(\?|\[\^|\w\|\w))"
)
"""As app/characters/rules.py has it, for readers of the specification."""
NOT_BLANK = r"^[^\u0000]*[^\s\u0000\u001c-\u001f\u0085][^\u0000]*$"
NAME_PARAMETER: dict[str, Any] = {
    "in": "path",
    "name": "name",
    "required": True,
    "description": "The character's name.",
    "schema": {"type": "string", "pattern": NAME_PATTERN, "maxLength": NAME_MAX_LENGTH, "example": "mina"},
}


def text(name: str, description: str, example: str) -> fields.String:
    """A text of a character; null and empty mean "not given"."""
    metadata = {
        "description": description,
        "example": example,
        "pattern": r"^[^\u0000]*$",
        "maxLength": TEXTS[name],
        "default": "",
    }
    return fields.String(allow_none=True, metadata=metadata)


def number(description: str, most: int, example: int, default: Any) -> fields.Integer:
    """A number of a character's."""
    metadata = {"description": description, "example": example, "minimum": 1, "maximum": most, "default": default}
    return fields.Integer(allow_none=True, metadata=metadata)


class ExampleSchema(Schema):
    """One turn of a character's examples."""

    class Meta:
        title = "Example"

    role = fields.String(
        required=True, validate=validate.OneOf(ROLES), metadata={"description": "Who speaks.", "example": "user"}
    )
    content = fields.String(
        required=True,
        metadata={
            "description": "What is said; not blank.",
            "example": "안녕?",
            "pattern": NOT_BLANK,
            "maxLength": TEXT_MAX_LENGTH,
        },
    )


class LoreEntrySchema(Schema):
    """What is told when one of the keywords was said."""

    class Meta:
        title = "LoreEntry"

    keywords = fields.List(
        fields.String(
            metadata={"pattern": f"^{NO_REGULAR_EXPRESSION}{NOT_BLANK[1:]}", "maxLength": KEYWORD_MAX_LENGTH}
        ),
        allow_none=True,
        metadata={
            "description": "Plain texts, in either case; no regular expressions. Without one the entry always applies.",
            "example": ["용", "dragon"],
            "maxItems": KEYWORDS_MAX,
            "default": [],
        },
    )
    text = fields.String(
        required=True,
        metadata={
            "description": "What is told; not blank.",
            "example": "용은 북쪽 산에 산다.",
            "pattern": NOT_BLANK,
            "maxLength": TEXT_MAX_LENGTH,
        },
    )


class TraitsSchema(Schema):
    """What makes a character, as it is put and as it is told."""

    nickname = text("nickname", "What `{{char}}` stands for. Default: the name.", "미나")
    description = text("description", "Who the character is; a section of the system message.", "바닷가 서점의 주인.")
    role = text("role", "The part the model plays, as in a chat request.", "서점 주인 미나")
    speech_style = text("speech_style", "How it speaks; a section of the system message.", "해요체, 짧은 문장")
    system_message = text("system_message", "As in a chat request.", "당신은 게임의 등장인물입니다.")
    instructions = text("instructions", "As in a chat request.", "두 문장 이내로 대답하세요.")
    examples = fields.List(
        fields.Nested(ExampleSchema),
        allow_none=True,
        metadata={
            "description": "Turns that show how the character speaks; they stand before the history.",
            "example": [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "어서 오세요!"}],
            "maxItems": EXAMPLES_MAX,
            "default": [],
        },
    )
    model = text("model", "As in a chat request.", "gpt-4o-mini")
    temperature = fields.Float(
        allow_none=True,
        metadata={
            "description": "As in a chat request.",
            "example": 0.8,
            "minimum": 0,
            "maximum": TEMPERATURE_MAX,
            "default": None,
        },
    )
    max_tokens = number("As in a chat request.", MAX_TOKENS_LIMIT, 200, None)
    first_message = text("first_message", "What the character says where nothing was said before.", "어서 오세요!")
    lore = fields.List(
        fields.Nested(LoreEntrySchema),
        allow_none=True,
        metadata={
            "description": "What is told when it is spoken of, in this order.",
            "example": [{"keywords": ["용"], "text": "용은 북쪽 산에 산다."}],
            "maxItems": LORE_MAX,
            "default": [],
        },
    )
    lore_turns = number(
        "In how many of the last turns keywords are looked for, the user's message among them.",
        LORE_TURNS_MAX,
        LORE_TURNS,
        LORE_TURNS,
    )
    lore_max_tokens = number(
        "How much of the lore is told at most, in estimated tokens.", LORE_TOKENS_MAX, LORE_MAX_TOKENS, LORE_MAX_TOKENS
    )


class CharacterBodySchema(TraitsSchema):
    """A character as it is put. `null` means "not given"; an unknown field is an error."""

    class Meta:
        title = "CharacterBody"

    shared = fields.Boolean(
        allow_none=True,
        metadata={
            "description": "Whether it is everybody's, which only an admin may put. In open mode all are.",
            "example": False,
            "default": False,
        },
    )


class CharacterSummarySchema(Schema):
    """A character of a list, in its newest version."""

    class Meta:
        title = "CharacterSummary"

    name = fields.String(metadata={"description": "Its name.", "example": "mina"})
    version = fields.Integer(metadata={"description": "Its version, from 1 on.", "example": 3, "minimum": 1})
    shared = fields.Boolean(metadata={"description": "Whether everybody sees it.", "example": False})
    created_at = fields.String(
        metadata={"description": "When this version was made, ISO 8601, UTC.", "example": "2026-01-31T12:00:00+00:00"}
    )


class CharacterSchema(CharacterSummarySchema, TraitsSchema):
    """One version of a character; of its own fields those that were given."""

    class Meta:
        title = "Character"

    left_out = fields.List(
        fields.String(),
        metadata={"description": "Members of a card that was put which have no use here.", "example": ["tags"]},
    )


class CharactersSchema(Schema):
    """A page of the characters that a client sees."""

    class Meta:
        title = "Characters"

    characters = fields.List(fields.Nested(CharacterSummarySchema), metadata={"description": "By name.", "example": []})
    next_cursor = fields.String(
        allow_none=True, metadata={"description": "Pass as `cursor` for the next page.", "example": None}
    )


class CharacterVersionSchema(Schema):
    """One of a character's versions."""

    class Meta:
        title = "CharacterVersion"

    version = fields.Integer(metadata={"description": "Its number, from 1 on.", "example": 3, "minimum": 1})
    created_at = fields.String(
        metadata={"description": "When it was made, ISO 8601, UTC.", "example": "2026-01-31T12:00:00+00:00"}
    )


class CharacterVersionsSchema(Schema):
    """A page of a character's versions."""

    class Meta:
        title = "CharacterVersions"

    versions = fields.List(
        fields.Nested(CharacterVersionSchema), metadata={"description": "The newest first.", "example": []}
    )
    next_cursor = fields.Integer(
        allow_none=True, metadata={"description": "Pass as `cursor` for the next page.", "example": 100, "minimum": 1}
    )


class CardSchema(Schema):
    """A character as a card of version 2."""

    class Meta:
        title = "Card"

    spec = fields.String(metadata={"description": "The kind of card.", "example": "chara_card_v2"})
    spec_version = fields.String(metadata={"description": "Its version.", "example": "2.0"})
    data = fields.Dict(metadata={"description": "What the card says.", "example": {"name": "mina"}})


class PageQuerySchema(Schema):
    """Which page of characters."""

    cursor = fields.String(
        validate=validate.Regexp(NAME_PATTERN, error="must be `next_cursor` of a page"),
        metadata={"description": "`next_cursor` of the page before."},
    )
    limit = fields.Integer(
        load_default=100,
        validate=validate.Range(min=1, max=PAGE_MAX),
        metadata={"description": "Characters per page.", "example": 100},
    )
    search = beginning("Only characters whose name begins with this.", NAME_MAX_LENGTH)


class SharedQuerySchema(Schema):
    """Whose character is meant."""

    shared = fields.String(
        validate=validate.OneOf(["true", "false"]),
        metadata={"description": "`true`: everybody's, not the client's own of that name.", "example": "false"},
    )


class VersionQuerySchema(SharedQuerySchema):
    """Which version of whose character."""

    version = fields.Integer(
        validate=validate.Range(min=1, max=VERSION_MAX),
        metadata={"description": "One of its versions. Default: the newest."},
    )


class VersionsQuerySchema(SharedQuerySchema):
    """Which versions of whose character."""

    cursor = fields.Integer(
        validate=validate.Range(min=1, max=VERSION_MAX),
        metadata={"description": "`next_cursor` of the page before: its last version."},
    )
    limit = fields.Integer(
        load_default=100,
        validate=validate.Range(min=1, max=PAGE_MAX),
        metadata={"description": "Versions per page.", "example": 100},
    )
