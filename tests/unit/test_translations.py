"""The Korean form of a document says what the English one says: it cannot fall behind unnoticed.

What words mean a test cannot know. It compares what is the same in every language: the order of headings, the blocks of
code, the tables, what stands in backticks, and where links lead.
"""

from __future__ import annotations

import re

import pytest

from tests.server import ROOT

TRANSLATED = ["README", "docs/api/README", "docs/console/README", "docs/guide/README", "docs/overview/README"]
TRANSLATED += ["docs/reference"]
GENERATED = "docs/reference"
"""Written from pairs of sentences in the code; a Korean one may name a thing where the English one says `it`."""

every_document = pytest.mark.parametrize("name", TRANSLATED)


def both(name: str) -> tuple[str, str]:
    """The English and the Korean form."""
    return (ROOT / f"{name}.md").read_text(), (ROOT / f"{name}.ko.md").read_text()


def sections(text: str) -> list[tuple[str, str]]:
    """Each heading's marks with what is below it, code blocks left out; first comes what is above every heading."""
    words = re.sub(r"^ {4,}.*\n", "", text, flags=re.MULTILINE)
    pieces = re.split(r"^(#+) .*$", words, flags=re.MULTILINE)
    return list(zip(["", *pieces[1::2]], pieces[0::2], strict=True))


def code_blocks(text: str) -> list[str]:
    """The indented blocks, without the comments behind commands."""
    blocks = re.findall(r"(?:^ {4,}.*\n)+", text, re.MULTILINE)
    return [re.sub(r" {2,}# .*", "", block) for block in blocks]


def table_rows(text: str) -> list[tuple[int, str]]:
    """Each row's number of cells, and the code at the beginning of the first."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [(len(cells), found[0] if (found := re.match(r" `[^`]+`", cells[0])) else "") for cells in rows]


def links(text: str) -> list[str]:
    """The files that links lead to; the Korean form of a document counts as the document."""
    targets = (link.partition("#")[0].replace(".ko.md", ".md") for link in re.findall(r"\]\(([^)\s]+)\)", text))
    return sorted(target for target in targets if target)


def named(text: str) -> set[str]:
    """What stands in backticks."""
    return set(re.findall(r"`([^`]+)`", re.sub(r"\s+", " ", text)))


def test_every_korean_document_is_compared() -> None:
    """No Korean form escapes this test."""
    found = [*ROOT.glob("*.ko.md"), *(ROOT / "docs").rglob("*.ko.md")]
    assert {str(path.relative_to(ROOT)).removesuffix(".ko.md") for path in found} == set(TRANSLATED)


@every_document
def test_headings_have_the_same_order(name: str) -> None:
    """As many of each level, in the same order."""
    english, korean = both(name)
    assert [level for level, _ in sections(korean)] == [level for level, _ in sections(english)]


@every_document
def test_code_blocks_are_the_same(name: str) -> None:
    """Whatever is pasted or compared is the same to the letter."""
    english, korean = both(name)
    assert code_blocks(korean) == code_blocks(english)


@every_document
def test_tables_have_the_same_rows(name: str) -> None:
    """In the same order, each for the same name."""
    english, korean = both(name)
    assert table_rows(korean) == table_rows(english)


@pytest.mark.parametrize("name", [name for name in TRANSLATED if name != GENERATED])
def test_sections_name_the_same_things(name: str) -> None:
    """Every setting, field, code and header that a section names, and no other."""
    for (_, english), (_, korean) in zip(*map(sections, both(name)), strict=True):
        assert named(korean) == named(english), korean[:100]
        assert links(korean) == links(english), korean[:100]


@every_document
def test_korean_documents_lead_to_korean_ones(name: str) -> None:
    """A reader stays in the language where there is one; only the line to the other language leaves it."""
    path = ROOT / f"{name}.ko.md"
    targets = re.findall(r"\[(?!English\])[^\]]*\]\(([^)\s#]+\.md)", path.read_text())
    english = [target for target in targets if not target.endswith(".ko.md")]
    assert [target for target in english if (path.parent / target.replace(".md", ".ko.md")).exists()] == []


@every_document
def test_korean_documents_are_korean_and_polite(name: str) -> None:
    """No paragraph was left in English, and sentences end in 합니다체, but for those in tables."""
    text = re.sub(r"^( {4,}|\||#|\[English).*$", "", both(name)[1], flags=re.MULTILINE)
    for paragraph in filter(None, (piece.strip() for piece in re.split(r"\n{2,}", text))):
        assert re.search("[가-힣]", paragraph), paragraph
        assert re.findall(r"\S*[^니]다\.", paragraph) == []
