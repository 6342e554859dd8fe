"""How texts of sessions are stored: with a key nobody reads them without it, and nobody changes one unnoticed."""

from __future__ import annotations

import base64
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import ChatServiceException
from app.sessions.seal import Seal
from tests.server import ROOT

FIRST, SECOND = "GYdceDzzzwZjX7GLztvQb7xrsvR0VGqM8QRqHks6hLI=", "d4350d3a495e3c479890a0dec0d3ccff"
TEXTS = [
    "a",
    "이름은 미나예요.",
    "🙂 e\u0301\r\n\t\x01",
    "llms1:",
    "llms0:llms0:",
    "llms1:abcdefgh:AAAA",
    "글" * 300_000,
]


@pytest.mark.parametrize("seal", [Seal(), Seal(FIRST), Seal("", [FIRST]), Seal(FIRST, [SECOND])])
@pytest.mark.parametrize("text", ["", *TEXTS])
def test_what_was_closed_is_opened(seal: Seal, text: str) -> None:
    """Whatever it is, also where it looks like something stored."""
    assert seal.open(seal.close(text)) == text
    assert seal.open_all(*seal.close_all(None, text)) == [None, text]
    assert seal.is_newest(seal.close(text))


@pytest.mark.parametrize("text", TEXTS)
def test_a_sealed_text_does_not_show(text: str) -> None:
    """Nor whether two texts are the same; its length does."""
    seal = Seal(FIRST)
    stored = {seal.close(text) for _ in range(3)}
    assert len(stored) == 3
    for one in stored:
        data = base64.b64decode(one.split(":")[2])
        assert len(data) == len(text.encode()) + 28
        assert len(text) < 6 or text.encode() not in data


@pytest.mark.parametrize("seal", [Seal(), Seal(FIRST)])
def test_texts_are_stored_as_they_are_without_a_key(seal: Seal) -> None:
    """With one they are read all the same."""
    for text in ("a", "이름은 미나예요.", "llms2:", " llms1:"):
        assert Seal().close(text) == text
        assert seal.open(text) == text
    assert seal.open(Seal().close("llms1:abc")) == "llms1:abc"


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_what_a_database_could_not_take(text: str) -> None:
    """It is left out as where texts are stored as they are, so that every text can be stored without a key again."""
    assert Seal(FIRST).open(Seal(FIRST).close(text)) in {"ab", "a?b"}


def test_old_keys_are_read_and_not_written() -> None:
    """Each text says which key opens it."""
    old, both = Seal(FIRST), Seal(SECOND, [FIRST])
    stored = old.close("Mina")
    assert both.open(stored) == "Mina"
    assert not both.is_newest(stored)
    renewed = both.close(both.open(stored))
    assert both.is_newest(renewed)
    assert Seal(SECOND).open(renewed) == "Mina"
    assert not Seal("", [FIRST]).is_newest(stored)
    with pytest.raises(ChatServiceException):
        old.open(renewed)


def test_what_was_stored_once_is_readable_forever() -> None:
    """The form does not change with a version of the server."""
    stored = "llms1:DM_dvTpa:B+T17tcGcJvx00cJ2VdaHLGh38ahJXd7O0W8j49SWbmpyw0XoiltfwfU4VgURCn26sUo"
    assert Seal(FIRST).open(stored) == "이름은 미나예요."


def changed(stored: str) -> list[str]:
    """The stored text with each of its parts changed."""
    mark, key_id, data = stored.split(":")
    raw = bytearray(base64.b64decode(data))
    found = [
        f"{mark}:{key_id}:{data[:-4]}",
        f"{mark}:{key_id}:",
        f"{mark}:AAAAAAAA:{data}",
        f"{mark}:{data}",
        f"{mark}:",
    ]
    found += [f"{mark}:{key_id}:{data}!", f"{mark}:{key_id}:글"]
    for place in range(len(raw)):
        raw[place] ^= 1
        found.append(f"{mark}:{key_id}:{base64.b64encode(raw).decode()}")
        raw[place] ^= 1
    return found


@pytest.mark.parametrize("seal", [Seal(FIRST), Seal(SECOND), Seal()])
def test_what_cannot_be_opened(seal: Seal) -> None:
    """A changed text, one of another key, and any without a key: an error of its own, which holds nothing."""
    stored = Seal(FIRST).close("Mina 미나")
    for damaged in changed(stored) + ([] if seal.is_newest(stored) else [stored]):
        with pytest.raises(ChatServiceException) as raised:
            seal.open(damaged)
        assert (raised.value.error_code, raised.value.status, raised.value.retryable) == (
            "session_unreadable",
            500,
            False,
        )
        assert raised.value.__cause__ is None
        assert "Mina" not in raised.value.message


def test_threads_share_a_seal() -> None:
    """The writer closes while reads open."""
    seal = Seal(FIRST)
    with ThreadPoolExecutor(8) as pool:
        texts = [f"{number} 글" * 500 for number in range(400)]
        assert list(pool.map(lambda text: seal.open(seal.close(text)), texts)) == texts


def test_without_a_key_nothing_is_loaded() -> None:
    """The library takes 7 MB of each worker."""
    program = """
import sys
from app import create_app
from app.config import Config
for key in ("", sys.argv[1]):
    create_app(Config(token_digest_key="k" * 32, session_key=key))
    print("cryptography" in sys.modules)
"""
    command = [sys.executable, "-c", program, FIRST]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "True"]
