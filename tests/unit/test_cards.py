"""Character cards: what is read of them, what is refused and how soon, and that they come back as they went."""

from __future__ import annotations

import copy
import gc
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from app.characters.cards import written_card
from app.characters.character import Character
from app.characters.files import CHUNKS_MAX, FILE_MAX_BYTES, Kind, kind_of, read_file
from app.characters.lore import LoreEntry
from app.characters.rules import BODY_MAX_BYTES, document_of, read_character
from app.errors import ValidationException
from tests.cards import SIGNATURE, V2, V3, chunk, coded, compressed, international, plain, png


def read(card: Any, name: str | None = None) -> tuple[Character, list[str]]:
    return read_file(json.dumps(card).encode(), "json", name)


def changed(card: dict[str, Any], **data: Any) -> dict[str, Any]:
    """The card with other members in its data."""
    return card | {"data": card["data"] | data}


def test_version_2() -> None:
    """Each member has its place; what has no use is named, and the book is in its order."""
    character, left_out = read(V2)
    assert character == Character(
        name="Seraphina",
        description="{{char}} guards the forest.\n\n{{user}} wakes up in her hut.",
        role="kind, calm",
        system_message="{{original}} You are {{char}}.",
        instructions="Stay in character.",
        examples=(
            {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": "I am {{char}}.\nAnd you?"},
            {"role": "user", "content": "Hm."},
        ),
        first_message="You are awake, {{user}}.",
        lore=(LoreEntry("Always."), LoreEntry("The glade.", ("glade",))),
        lore_turns=2,
        lore_max_tokens=300,
    )
    assert left_out == ["alternate_greetings", "character_version", "creator", "creator_notes"]


def test_version_3() -> None:
    """The nickname is what {{char}} stands for; decorators are no text."""
    character, left_out = read(V3)
    assert (character.nickname, character.called) == ("Sera", "Sera")
    assert character.lore == (LoreEntry("용은 산에 산다.", ("용",)),)
    assert {"assets", "decorators", "secondary_keys"} <= set(left_out)


def test_version_1() -> None:
    """The members without anything around them."""
    assert read({name: V2["data"][name] for name in ("name", "description", "first_mes")})[0].name == "Seraphina"


def test_another_name() -> None:
    """The card's own stays what {{char}} stands for."""
    character, _ = read(changed(V2, name="세라피나 <3"), "sera")
    assert (character.name, character.called) == ("sera", "세라피나 <3")
    assert read(V3, "sera")[0].called == "Sera"


def test_examples_without_turns_show_how_one_speaks() -> None:
    """Prose is no turn, and is not lost."""
    assert read(changed(V2, mes_example="Soft words, *smiles*."))[0].speech_style == "Soft words, *smiles*."


ALL = Character(
    name="미나",
    description="가",
    role="나\n\n다",
    speech_style="해요체",
    system_message="라",
    instructions="마",
    examples=({"role": "user", "content": "바\n사"}, {"role": "assistant", "content": "아"}),
    model="gpt-4o-mini",
    temperature=0,
    max_tokens=50,
    first_message="자",
    lore=(LoreEntry("차", ("용", "dragon")), LoreEntry("카")),
    lore_turns=7,
    lore_max_tokens=70,
)


@pytest.mark.parametrize("character", [ALL, Character(name="x"), Character(name="x", role="나"), read(V2)[0]])
def test_a_card_comes_back_as_the_same_character(character: Character) -> None:
    """Also what a card has no member for; and our own form to the byte."""
    assert read(written_card(character))[0] == character
    assert read_character(document_of(character), character.name) == character


def test_a_card_that_is_written_is_a_card_of_version_2() -> None:
    """With every member that the specification demands."""
    card = written_card(ALL)
    assert (card["spec"], card["spec_version"]) == ("chara_card_v2", "2.0")
    assert set(V2["data"]) <= set(card["data"])
    assert set(V2["data"]["character_book"]["entries"][0]) <= set(card["data"]["character_book"]["entries"][0])


FORMS: list[tuple[str, Callable[[bytes, bytes], bytes]]] = [
    ("plain", plain),
    ("compressed", compressed),
    ("international", international),
    ("international, compressed", lambda key, text: international(key, text, is_compressed=True)),
]


@pytest.mark.parametrize(("form", "write"), FORMS)
def test_a_picture_carries_a_card(form: str, write: Callable[[bytes, bytes], bytes]) -> None:
    """In each kind of text that a PNG has."""
    assert read_file(png(write(b"chara", coded(V2))), "png") == read(V2)


def test_the_newer_card_of_a_picture_counts() -> None:
    """Whichever comes first."""
    both = plain(b"chara", coded(V2)), plain(b"ccv3", coded(V3))
    assert read_file(png(*both), "png") == read_file(png(*both[::-1]), "png") == read(V3)


def test_what_a_file_is() -> None:
    """A picture by its first bytes, text by its name."""
    assert [kind_of(*given) for given in ((SIGNATURE, ".json"), (b"{", ".toml"), (b"{", ""), (b"x", ".png"))] == [
        "png",
        "toml",
        "json",
        "png",
    ]


def test_toml() -> None:
    """Our own form, for those who write by hand."""
    text = 'name = "미나"\ntemperature = 0.5\n[[lore]]\nkeywords = ["용"]\ntext = "산"\n'
    character, _ = read_file(b"\xef\xbb\xbf" + text.encode(), "toml")
    assert (character.name, character.temperature, character.lore) == ("미나", 0.5, (LoreEntry("산", ("용",)),))


def book(*entries: Any) -> dict[str, Any]:
    return changed(V2, character_book={"entries": list(entries)})


ENTRY = V2["data"]["character_book"]["entries"][0]
BOMB = b"A" * 100_000_000
HOSTILE: dict[str, tuple[Callable[[], bytes], Kind, str]] = {
    "50 MB": (lambda: png(chunk(b"IDAT", bytes(50_000_000)), plain(b"chara", coded(V2))), "png", "at most"),
    "16 MB": (lambda: png(chunk(b"IDAT", bytes(FILE_MAX_BYTES))), "png", "at most"),
    "a bomb in zTXt": (lambda: png(compressed(b"chara", BOMB)), "png", "at most"),
    "a bomb in iTXt": (lambda: png(international(b"ccv3", BOMB, is_compressed=True)), "png", "at most"),
    "2,000 bombs": (lambda: png(*[compressed(b"chara", b"A" * 1_000_000)] * 5000), "png", "not JSON"),
    "a long text": (lambda: png(plain(b"chara", bytes(3_000_000))), "png", "at most"),
    "a million chunks": (lambda: png(chunk(b"tEXt") * 1_000_000), "png", f"more than {CHUNKS_MAX}"),
    "a wrong length": (lambda: SIGNATURE + b"\x7f\xff\xff\xfftEXtchara\0", "png", "not a PNG"),
    "a wrong checksum": (lambda: png(plain(b"chara", coded(V2))[:-1] + b"x"), "png", "not a PNG"),
    "cut": (lambda: png(plain(b"chara", coded(V2)))[:-20], "png", "not a PNG"),
    "no compressed text": (lambda: png(chunk(b"zTXt", b"chara\0\0xyz")), "png", "not a PNG"),
    "no card": (lambda: png(), "png", "carries no card"),
    "no picture": (lambda: b"GIF89a", "png", "not a PNG"),
    "no base64": (lambda: png(plain(b"chara", b"{}!")), "png", "base64"),
    "no JSON": (lambda: png(plain(b"chara", coded(V2)[:40])), "png", "not JSON"),
    "no object": (lambda: png(plain(b"chara", coded([1]))), "png", "JSON object"),
    "nested": (lambda: png(plain(b"chara", b"W1tb" * 100_000)), "png", "nested"),
    "nested JSON": (lambda: b'{"spec":' + b"[" * 200_000, "json", "nested"),
    "nested TOML": (lambda: b"a = " + b"[" * 100_000, "toml", "nested"),
    "a long key of TOML": (lambda: b".".join([b"a"] * 100_000) + b" = 1", "toml", "nested"),
    "a long table of TOML": (lambda: b"[[" + b" . ".join([b"a"] * 50_000) + b"]]", "toml", "nested"),
    "a quoted key of TOML": (lambda: rb'x = {"\" b"' + rb'."\" b"' * 30_000 + b" = 1}", "toml", "nested"),
    "many tables of TOML": (lambda: b"[[a]]\n" * (BODY_MAX_BYTES // 6), "toml", "break a rule: a"),
    "many keys of TOML": (lambda: b"\n".join(b"k%d" % n + b".a" * 8 + b"=1" for n in range(9000)), "toml", "rule"),
    "many commas of TOML": (lambda: b'a = "' + b", 'x" * 60_000 + b'"', "toml", "rule"),
    "large TOML": (lambda: b"#" * (BODY_MAX_BYTES + 1), "toml", "at most"),
    "large JSON": (lambda: b"[" + b"1," * 600_000 + b"1]", "json", "at most"),
    "a thousand entries": (lambda: json.dumps(book(*[ENTRY] * 1000)).encode(), "json", "lore"),
    "a hundred thousand entries": (lambda: b'{"lore":[' + b"[]," * 300_000 + b"1]}", "json", "lore"),
    "a regular expression": (lambda: json.dumps(book(ENTRY | {"keys": ["/(a+)+$/i"]})).encode(), "json", "lore"),
    "use_regex": (lambda: json.dumps(book(ENTRY | {"use_regex": True})).encode(), "json", "lore"),
    "markup as name": (lambda: json.dumps(changed(V2, name="<script>")).encode(), "json", "name"),
    "NUL": (lambda: json.dumps(changed(V2, first_mes="a\0b")).encode(), "json", "first_message"),
    "a lone surrogate": (lambda: json.dumps(changed(V2, description="\ud800")).encode(), "json", "description"),
    "another kind of card": (lambda: json.dumps(V2 | {"spec": "x"}).encode(), "json", "spec"),
    "a card without data": (lambda: json.dumps({"spec": "chara_card_v2"}).encode(), "json", "no data"),
    "wrong types": (lambda: json.dumps(changed(V2, name=1, description=[], mes_example={})).encode(), "json", "name"),
    "a book of another type": (lambda: json.dumps(changed(V2, character_book=[])).encode(), "json", "book"),
    "entries of another type": (lambda: json.dumps(book(1, "x", None)).encode(), "json", "lore"),
    "keys of another type": (lambda: json.dumps(book(ENTRY | {"keys": {"a": 1}})).encode(), "json", "lore"),
    "too much": (lambda: json.dumps(book(*[ENTRY | {"content": "x" * 2000}] * 200)).encode(), "json", "at most"),
    "many spaces": (lambda: json.dumps(changed(V2, mes_example=" " * 900_000)).encode(), "json", ""),
    "many marks": (lambda: json.dumps(changed(V2, mes_example="{{user}}:" * 90_000)).encode(), "json", ""),
}


@pytest.fixture(scope="module", autouse=True)
def _nothing_to_finalize() -> None:
    """What other tests have left would be finalized in the middle of these, where the stack has no room for it."""
    gc.collect()


@pytest.mark.parametrize(("make", "kind", "told"), HOSTILE.values(), ids=HOSTILE)
def test_what_is_hostile_is_refused_soon(make: Callable[[], bytes], kind: Kind, told: str) -> None:
    """With a clear 422, or 400 for what cannot be parsed, within a second."""
    raw, message, status = make(), "", 0
    began = time.process_time()
    try:
        read_file(raw, kind)
    except ValidationException as exc:
        message, status = exc.message, exc.status
    assert time.process_time() - began < 1
    assert told in message
    assert len(message) < 300
    assert not told or status == 422


@pytest.mark.parametrize("name", ["a bomb in zTXt", "a bomb in iTXt"])
def test_a_bomb_takes_no_memory(name: str) -> None:
    """What it would become is never there."""
    make, kind, _ = HOSTILE[name]
    raw = make()
    tracemalloc.start()
    with pytest.raises(ValidationException):
        read_file(raw, kind)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(("raw", "kind"), [(b"{", "json"), (b"\xff", "json"), (b"a", "toml"), (b"9" * 5000, "json")])
def test_what_cannot_be_parsed(raw: bytes, kind: Kind) -> None:
    """Is no JSON or TOML, as elsewhere."""
    with pytest.raises(ValidationException) as caught:
        read_file(raw, kind)
    assert (caught.value.error_code, caught.value.status) == ("invalid_json", 400)
    assert kind.upper() in caught.value.message


def test_reading_leaves_the_card_as_it_was() -> None:
    """Nothing is written into what was given."""
    before = copy.deepcopy(V3)
    read(V3)
    assert before == V3
