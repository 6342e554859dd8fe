"""Characters: what one may be called and have, what of its lore is told, and what it adds to a request."""

from __future__ import annotations

import math
import time
import unicodedata
from typing import Any

import pytest

from app.characters.character import Character, parse_reference
from app.characters.lore import Lore, LoreEntry, last_words
from app.characters.rules import ALL_KEYWORDS_MAX, LORE_MAX, document_of, kept, read_character, read_name
from app.characters.speaking import Script, opening_turn, script
from app.config import Config
from app.errors import ServiceException, ValidationException
from app.ledger.accounts import NOBODY
from app.models import ChatRequest, Message
from app.services.chat import ChatService


def broken(document: Any, name: str | None = "mina") -> dict[str, Any]:
    """The rules that are broken, by member."""
    with pytest.raises(ValidationException) as caught:
        read_character(document, name)
    return dict(caught.value.errors)


@pytest.mark.parametrize(
    "name", ["mina", "미나", "ミナ", "मीना", "Dr. Who", "a-b_c.d", "1", "✨Luna✨", "가" * 64, "_x"]
)
def test_names(name: str) -> None:
    """Of every script; the same in the parts in which macOS writes them."""
    assert read_name(name) == name
    assert read_name(unicodedata.normalize("NFD", name)) == name if len(name) < 64 else True
    assert parse_reference(name) == (name, None)
    assert parse_reference(f"{name}@12") == (name, 12)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " ",
            "a ",
            " a",
            ".",
            "..",
            "-a",
            "a/b",
            "a\\b",
            "a@1",
            "<b>",
            "a?",
            "a#",
            "a%20",
            "a\0",
            "a\nb",
            "a" * 65,
        ),
        *("a\u200bb", "\u202ea", "\ud800", "\u00a0a", "a:b", 'a"', "a'b", 5, None, ["a"]),
    ],
)
def test_what_is_no_name(name: Any) -> None:
    """Nothing that means something in a URL, in markup or in a label, and nothing invisible."""
    with pytest.raises(ValidationException) as caught:
        read_name(name)
    assert caught.value.field == "name"
    if isinstance(name, str) and name != "a@1":
        assert parse_reference(name) is None


@pytest.mark.parametrize("reference", ["mina@", "mina@0", "mina@01", "mina@x", "mina@1@2", "@1", "mina@99999999999"])
def test_what_is_no_reference(reference: str) -> None:
    """A version is a number from 1 on."""
    assert parse_reference(reference) is None


def test_nothing_need_be_given() -> None:
    """Blank and null mean "not given"; what an answer says besides says nothing when it comes back."""
    told = {"version": 7, "created_at": "2026-01-31", "left_out": ["tags"], "name": "mina"}
    given = dict.fromkeys(("description", "lore", "examples", "temperature", "lore_turns")) | {"role": " \n"}
    assert read_character(told | given, "mina") == Character(name="mina")


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"mood": "x"}, "Unknown field."),
    "type": ({"description": 5}, "Not a valid string."),
    "length": ({"role": "x" * 50_001}, "must be at most 50000 long"),
    "NUL": ({"role": "a\0"}, "must not contain NUL or lone surrogates"),
    "surrogate": ({"role": "\udc00"}, "must not contain NUL or lone surrogates"),
    "number as text": ({"temperature": "0.5"}, "Not a valid number."),
    "boolean as number": ({"max_tokens": True}, "Not a valid number."),
    "NaN": ({"temperature": math.nan}, "must be from 0 to 2"),
    "fraction": ({"max_tokens": 1.5}, "Not a valid integer."),
    "huge": ({"lore_turns": 10**400}, "must be from 1 to 100"),
    "shared": ({"shared": "yes"}, "Not a valid boolean."),
    "model": ({"model": "m" * 257}, "must be at most 256 long"),
    "list": ({"lore": "x"}, "Not a valid list."),
    "entries": ({"lore": [{"text": "x"}] * (LORE_MAX + 1)}, f"must be at most {LORE_MAX} long"),
    "keywords in all": (
        {"lore": [{"text": "x", "keywords": ["a"] * 50}] * (ALL_KEYWORDS_MAX // 50 + 1)},
        f"must have at most {ALL_KEYWORDS_MAX} keywords in all",
    ),
}


@pytest.mark.parametrize(("document", "message"), BROKEN.values(), ids=BROKEN)
def test_rules(document: dict[str, Any], message: str) -> None:
    """Each names its member."""
    assert broken(document) == {next(iter(document)): [message]}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("x", "must be {"),
        ({"text": "x", "keywords": ["a"], "regex": True}, "must be {"),
        ({"keywords": ["a"]}, "must be {"),
        ({"text": " "}, "must not be blank"),
        ({"text": "x", "keywords": [" "]}, "must not be blank"),
        ({"text": "x", "keywords": "a"}, "Not a valid list."),
        ({"text": "x", "keywords": ""}, "Not a valid list."),
        ({"text": "x", "keywords": ["k" * 101]}, "must be at most 100 long"),
        *[
            ({"text": "x", "keywords": [keyword]}, "must be plain text; this is a regular expression")
            for keyword in (r"(a+)+$", "/dragon/i", "용|dragon", r"\bdragon\b", "dragon.*", "[a-z]+", "(?i)x", "^x.*$")
        ],
    ],
)
def test_rules_of_lore(entry: Any, told: str) -> None:
    """Each names its place."""
    assert told in str(broken({"lore": [{"text": "good"}, entry]})["lore"]["1"])


@pytest.mark.parametrize(
    "keyword", ["C++", "what?", "Mr. Smith", "(주)가게", "A/S", "$5", "3.5", "a*", "[Mina]", "U.S.", "^^"]
)
def test_plain_keywords(keyword: str) -> None:
    """Signs alone make no regular expression; such a keyword is found as it stands."""
    (entry,) = read_character({"lore": [{"text": "x", "keywords": [keyword]}]}, "mina").lore
    assert Lore([entry]).told(f"about {keyword}, yes", 10) == ["x"]


def test_many_wrong_entries_are_named_to_a_bound() -> None:
    """As elsewhere, 50."""
    assert len(broken({"lore": [5] * LORE_MAX})["lore"]) == 50


@pytest.mark.parametrize(
    "turn", ["user: hi", {"role": "system", "content": "x"}, {"role": "user"}, {"role": [], "content": "x"}]
)
def test_rules_of_examples(turn: Any) -> None:
    """A turn is the user's or the character's."""
    assert list(broken({"examples": [turn]})["examples"]) == ["0"]


def test_a_name_is_that_of_the_address() -> None:
    """Where there is one; it may be left out."""
    assert list(broken({"name": "other"})) == list(broken({}, None)) == ["name"]
    assert read_character({"name": "mina"}).name == "mina"


@pytest.mark.parametrize("document", [None, [], "x", 5])
def test_what_is_no_object(document: Any) -> None:
    """Is told so in both languages."""
    with pytest.raises(ValidationException) as caught:
        read_character(document, "mina")
    assert "must be a JSON object" in caught.value.message
    assert "JSON 객체" in caught.value.told


def test_size() -> None:
    """All together has a bound below the sum of the members'."""
    with pytest.raises(ValidationException) as caught:
        read_character({"description": "가" * 50_000, "role": "가" * 50_000}, "mina")
    assert "at most 262144 bytes" in caught.value.message


def test_what_is_kept_is_what_was_given() -> None:
    """Without what is the default anyway."""
    given = {
        "description": "가",
        "examples": [{"role": "user", "content": "나"}],
        "temperature": 0,
        "lore": [{"keywords": ["a"], "text": "다"}, {"text": "라"}],
        "lore_turns": 5,
    }
    character = read_character(given, "mina")
    assert document_of(character) == given
    assert kept(document_of(character), name="mina") == character


LORE = Lore(
    [
        LoreEntry("always"),
        LoreEntry("dragon", ("Dragon", "용")),
        LoreEntry("art", ("art",)),
        LoreEntry("café", ("café au lait",)),
        LoreEntry("tower", ("흰 탑",)),
    ]
)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", ["always"]),
        ("The DRAGON!", ["always", "dragon"]),
        ("용이 온다", ["always", "dragon"]),
        (unicodedata.normalize("NFD", "용이 온다"), ["always", "dragon"]),
        ("dragon이 온다", ["always", "dragon"]),
        ("dragonfly start party", ["always"]),
        ("cafés. CAFÉ AU LAIT?", ["always", "café"]),
        ("흰  탑", ["always"]),
        ("저 흰 탑은 art 같다", ["always", "art", "tower"]),
    ],
)
def test_which_lore_is_told(said: str, told: list[str]) -> None:
    """Either case, whole words of Latin letters, also before Korean endings; in the order of the entries."""
    assert LORE.told(said, 1000) == told


def test_lore_within_its_limit() -> None:
    """An entry that does not fit is left out; a later one may."""
    lore = Lore([LoreEntry("가" * 6), LoreEntry("나" * 6), LoreEntry("다" * 4)])
    assert lore.told("", 10) == ["가" * 6, "다" * 4]
    assert lore.told("", 3) == []


TURNS: list[Message] = [{"role": "user", "content": f"word{number}"} for number in range(5)]


@pytest.mark.parametrize(
    ("number", "said"), [(1, "now"), (2, "word4\nnow"), (6, "word0\nword1\nword2\nword3\nword4\nnow")]
)
def test_the_last_turns(number: int, said: str) -> None:
    """The user's message is one of them."""
    assert last_words(TURNS, "now", number) == said
    assert last_words([], "now", number) == "now"
    assert last_words(TURNS, "x" * 30_000, number) == "x" * 5_000


@pytest.mark.parametrize("beginning", ["a" * 90, "가 " * 45, "keyword number ", ""])
def test_what_the_largest_lore_costs(beginning: str) -> None:
    """All keywords that a character may have, in the longest text that is looked at, each almost found everywhere."""
    keywords = [f"{beginning}{number}" for number in range(ALL_KEYWORDS_MAX)]
    lore = Lore([LoreEntry("x", tuple(keywords[start : start + 50])) for start in range(0, len(keywords), 50)])
    said = last_words([], (beginning or "x") * 5000, 1)
    began = time.process_time()
    for _ in range(10):
        assert lore.told(said, 1000) == []
    assert (time.process_time() - began) / 10 < 0.05


MINA = Character(
    name="mina",
    version=3,
    nickname="미나",
    description="{{char}}는 {{user}}의 친구",
    role="<BOT>",
    speech_style="해요체",
    system_message="{{original}} {{CHAR}}",
    instructions="짧게",
    examples=({"role": "user", "content": "나 {{user}}"}, {"role": "assistant", "content": "나 {{char}}"}),
    model="m",
    temperature=0.3,
    max_tokens=9,
    first_message="왔어, {{user}}?",
    lore=(LoreEntry("{{char}}의 용", ("용",)), LoreEntry("친구", ("왔어",))),
)


def cast(history: list[Message] | None = None, **fields: Any) -> Script:
    """What Mina adds to a request."""
    request = ChatRequest(user_message=fields.pop("user_message", "hi"), character="mina", **fields)
    return script(MINA, request, history or [], default_system="기본", default_user="사용자")


def test_a_character_fills_in_what_a_request_leaves_out() -> None:
    """With its placeholders replaced."""
    filled = cast().request
    assert (filled.system_message, filled.role, filled.instructions) == ("기본 미나", "미나", "짧게")
    assert (filled.model, filled.temperature, filled.max_tokens) == ("m", 0.3, 9)
    own = {
        "system_message": "{{char}}",
        "role": "r",
        "instructions": "i",
        "model": "n",
        "temperature": 0,
        "max_tokens": 1,
    }
    kept_fields = cast(**own).request
    assert {name: getattr(kept_fields, name) for name in own} == own
    assert cast(role=" ").request.role == "미나"


def test_who_the_user_is() -> None:
    """The request says it, else the setting; what stands for one placeholder is no other one."""
    assert cast().sections["description"] == "미나는 사용자의 친구"
    assert cast(user_name="{{char}}").sections["description"] == "미나는 {{char}}의 친구"
    assert cast(user_name="도윤").examples[0]["content"] == "나 도윤"


def test_the_first_message_opens_what_has_no_history() -> None:
    """And is something that was said."""
    assert cast(user_name="도윤").opening == {"role": "assistant", "content": "왔어, 도윤?"}
    assert cast().sections["lore"] == "- 친구"
    later = cast(history=[{"role": "user", "content": "용"}])
    assert later.opening is None
    assert later.sections["lore"] == "- 미나의 용"
    assert opening_turn(Character(name="x"), "y") is None


def test_plain_python_has_no_characters() -> None:
    """There is no store; the error is the server's."""
    with pytest.raises(ServiceException) as caught:
        ChatService(config=Config()).preview(ChatRequest(user_message="hi", character="mina"), NOBODY)
    assert caught.value.error_code == "character_not_found"
