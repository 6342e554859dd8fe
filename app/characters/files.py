"""A character from the bytes that somebody sends or has in a file: our own JSON or TOML, or a card as JSON or PNG.

The library for PNG is loaded with the first one. Nothing of the picture is decoded: only the chunks around it are read.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
import zlib
from collections.abc import Iterator
from typing import Any, Literal

from app.characters.cards import is_card, read_card, renamed
from app.characters.character import Character
from app.characters.rules import BODY_MAX_BYTES, read_character, unreadable
from app.errors import ValidationException

Kind = Literal["json", "toml", "png"]
FILE_MAX_BYTES = 16 * 1024 * 1024
TEXT_MAX_BYTES = 1024 * 1024
"""Of a card, or of a character, as text."""
CHUNKS_MAX = 10_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEYWORDS = ("ccv3", "chara")
"""Under which a picture carries its card: V3's first, then V2's."""
DEEP_KEY = re.compile(
    r"""(?:^|[\[{,])[ \t]*+(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){10}""", re.MULTILINE
)
"""A dotted key of TOML: the time to read one grows with the square of its parts. A character needs none."""
TOO_LARGE = (
    f"A picture has at most {FILE_MAX_BYTES} bytes, and what is written in it, or a file of text, {TEXT_MAX_BYTES}",
    f"그림은 {FILE_MAX_BYTES}바이트, 그 안의 글이나 글 파일은 {TEXT_MAX_BYTES}바이트까지입니다.",
)


def read_file(raw: bytes, kind: Kind, name: str | None = None) -> tuple[Character, list[str]]:
    """The character in `raw`, under `name` where one is given, and the members of a card that have no use here.

    Raises ValidationException: `invalid_json` for text that cannot be parsed, else `validation_error`.
    """
    if len(raw) > FILE_MAX_BYTES:
        raise too_large()
    text = _card_in_picture(raw) if kind == "png" else raw
    if len(text) > (BODY_MAX_BYTES if kind == "toml" else TEXT_MAX_BYTES):
        raise too_large()
    document = _parsed(text, kind)
    if not is_card(document):
        return read_character(document, name), []
    members, left_out = read_card(document)
    return read_character(renamed(members, name)), left_out


def kind_of(raw: bytes, suffix: str) -> Kind:
    """What a file of this suffix is that begins like this."""
    if raw.startswith(PNG_SIGNATURE) or suffix == ".png":
        return "png"
    return "toml" if suffix == ".toml" else "json"


def too_large() -> ValidationException:
    """The error of what is not looked at."""
    return unreadable(*TOO_LARGE)


def _parsed(raw: bytes, kind: Kind) -> Any:
    try:
        text = raw.decode("utf-8-sig")
        if kind != "toml":
            return json.loads(text)
        if DEEP_KEY.search(text):
            raise RecursionError
        return tomllib.loads(text)
    except RecursionError:
        raise unreadable("It is nested too deeply", "중첩이 너무 깊습니다.") from None
    except ValueError:
        if kind == "png":
            raise unreadable("The card in the picture is not JSON", "그림 속 카드가 올바른 JSON이 아닙니다.") from None
        message = f"The character is not {kind.upper()} that can be read"
        raise ValidationException(message, error_code="invalid_json") from None


def _card_in_picture(raw: bytes) -> bytes:
    """The JSON that a PNG carries in one of its texts."""
    texts = dict(_texts(raw))
    coded = next((texts[keyword] for keyword in KEYWORDS if keyword in texts), None)
    if coded is None:
        raise unreadable("The picture carries no card", "그림에 캐릭터 카드가 들어 있지 않습니다.")
    try:
        return base64.b64decode(coded.strip(), validate=True)
    except ValueError:
        raise unreadable("The card in the picture is not base64", "그림 속 카드가 base64가 아닙니다.") from None


def _texts(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The texts of a picture by their keywords. Source: PNG specification (third edition), 11.3.3."""
    import png

    readers = {b"tEXt": _plain, b"zTXt": _compressed, b"iTXt": _international}
    wanted = {keyword.encode(): keyword for keyword in KEYWORDS}
    try:
        for number, (kind, content) in enumerate(png.Reader(bytes=raw).chunks()):
            if number == CHUNKS_MAX:
                raise unreadable(f"The picture has more than {CHUNKS_MAX} chunks", "그림의 청크가 너무 많습니다.")
            keyword, _, rest = content.partition(b"\0") if kind in readers else (b"", b"", b"")
            # Of each the first: thousands, compressed, would take long.
            if keyword in wanted:
                yield wanted.pop(keyword), readers[kind](rest)
    except (png.Error, ValueError, EOFError):
        raise unreadable("The picture is not a PNG that can be read", "읽을 수 있는 PNG가 아닙니다.") from None


def _plain(rest: bytes) -> bytes:
    if len(rest) > 2 * TEXT_MAX_BYTES:
        raise too_large()
    return rest


def _compressed(rest: bytes) -> bytes:
    """The text behind the byte that names the method, of which there is one."""
    return _inflated(rest[1:])


def _international(rest: bytes) -> bytes:
    """The text behind flag, method, language and translated keyword."""
    parts = rest[2:].split(b"\0", 2)
    text = parts[2] if len(parts) == 3 else b""
    return _inflated(text) if rest[:1] == b"\1" else _plain(text)


def _inflated(data: bytes) -> bytes:
    """The data decompressed, as far as it may reach."""
    try:
        return _plain(zlib.decompressobj().decompress(data, 2 * TEXT_MAX_BYTES + 1))
    except zlib.error:
        raise ValueError("not compressed") from None
