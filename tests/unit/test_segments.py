"""Sentences for speech: where an answer is cut and where not, with which piece a segment comes, and what that costs."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest

from app.services.segments import LIMIT, MOST, PIECE, Segment, Segmenter

TAGS = ("happy", "sad", "a. b")


def segments(pieces: Iterable[str], tags: Iterable[str] = ()) -> list[Segment]:
    """All segments of an answer."""
    segmenter = Segmenter([*tags])
    return [*(segment for piece in pieces for segment in segmenter.add(piece)), *segmenter.finish()]


def texts(answer: str, tags: Iterable[str] = ()) -> list[str]:
    return [segment.text for segment in segments([answer], tags)]


@pytest.mark.parametrize(
    "cut",
    [
        "안녕하세요! |반갑습니다. |오늘은 어때요? |좋죠.",
        "정말?! |그럼요!! |네~ 알겠어요. |iPhone이네요.",
        "반가워요! 😊 |무엇을 도와드릴까요? |좋아요.👍🏽 |네. |좋아!😀|다음.",
        "첫 줄입니다\n|둘째 줄\n\n|셋째 줄",
        "Hello there. |How are you? |Fine!  |It is 3 p.m. |Let us go. |It costs 42. |Then we left.",
        "Stop! |you said. |So do I. |Then don't. |Oh no. |Not me. |Plan it etc. |Then go.",
        'He said "Stop." |Then he left. |(He was tired.) |**Bold!** |It is.',
        "こんにちは。|元気ですか？|はい！|半角!|次です。",
        "「はい。元気です。」と言った。|『本当！』|「そう。」と。|（笑）いいね。",
        "你好。|你好吗？|很好！",
        "(맛있어요.) |그리고 네. 😀\n|다음.",
        "Hi\u2028|Next\r|End",
        "O'Neil came. |He left. |Is it O'Hara? |No.",
    ],
)
def test_where_sentences_are_cut(cut: str) -> None:
    """Behind their ends and the white space there, in Korean, English and Japanese."""
    assert texts(cut.replace("|", "")) == cut.split("|")


@pytest.mark.parametrize(
    "sentence",
    [
        "원주율은 3.14이고 2.0 버전은 3. 5배예요",
        "오늘은 2026. 11. 26. 목요일이에요",
        "음… 그럴 수도 있죠... 그런데… 글쎄요",
        "そう。。。でも…ね",
        "Wait... What? ",
        "Dr. Kim met Mrs. Lee and Mr. 박 at St. Mary vs. Rome",
        "Use fruit, e.g. apples, i.e. 사과, or J. R. R. Tolkien, Ph.D. Kim of the U.S. Army",
        "See no. 5, Fig. 3, vol. 2 and p. 7 of Jan. 5, approx. five, to the corp. next door",
        "See https://a.b/c?d=e.f!g and mail me@a.co.kr or read README.md. it helps",
        "1. First",
        "- 2. 둘째",
        "**3. 셋째",
        "a. letter",
        "IV. Roman",
        '"정말요? 대단해요!"라고 말했다',
        '"정말요? 대단해요!" 하고 말했다',
        "‘정말? 그럴까?’라고",
        "'정말? 그럴까?'라고 생각했다",
        "'Really? No!' she asked",
        '"Stop! Now." he said',
        "“Wait. Don't!” — he said",
        "그는 (그렇다! 정말로.) 했다",
        "「はい。ええ。」と言った",
        "（本当に！）と言った",
        "Yahoo!뉴스",
        "ver.次",
        "저 **Dr. Kim**",
        "３．５円",
        "https://ja.example/どこ?ここ",
        "👨\u200d👩\u200d👧\u200d👦 가족 👍🏽❤️ 좋아요",
        "!!! ... ?! 안녕",
        "😀\n---\n안녕",
        "Good. , or not",
    ],
)
def test_where_nothing_is_cut(sentence: str) -> None:
    """Numbers, dates, titles, pauses, addresses, lists, quotations, emoji, and marks with nothing to say."""
    assert texts(sentence) == [sentence]


def test_a_quotation_that_never_ends_delays_little() -> None:
    """After 200 characters, or at the end of the line, sentences are cut again. An apostrophe opens none."""
    answer = '"안녕? ' + "그래. " * 100
    first, *rest = texts(answer)
    assert 200 <= len(first) <= 210
    assert set(rest) == {"그래. "}
    assert texts('"안녕? 그래.\n그래. 응.') == ['"안녕? 그래.\n', "그래. ", "응."]
    assert texts("Rock 'n' roll. Get 'em. It's :( fun. Go (") == [
        "Rock 'n' roll. ",
        "Get 'em. ",
        "It's :( fun. ",
        "Go (",
    ]
    assert texts("'I don't. No.' she said. Yes.") == ["'I don't. No.' she said. ", "Yes."]


def test_a_sentence_without_an_end_is_cut() -> None:
    """Behind the last white space of 400 characters, else behind a comma, else there, but never in a character."""
    words = "단어 " * 200
    first, second = texts(words)[:2]
    assert (len(first), first[-1], second[0]) == (399, " ", "단")
    assert [len(text) for text in texts("단어가 " * 200)] == [400, 400]
    assert [len(text) for text in texts("\n" + "가" * 450 + ". 네.")] == [400, 53, 2]
    assert segments(["가" * 450 + ". 네."]) == segments("가" * 450 + ". 네.")
    assert [len(text) for text in texts("가나、" * 200)] == [399, 201]
    assert [len(text) for text in texts("가" * 900)] == [LIMIT, LIMIT, 100]
    family = "👨\u200d👩\u200d👧"
    assert all(text.startswith("👨") for text in texts("a" + family * 200)[1:])
    assert all(text[0] == "e" for text in texts("a" + "e\u0301" * 300)[1:])


def test_a_quotation_goes_on_behind_a_cut() -> None:
    """Nothing else is cut in its 200 characters, whatever was cut before."""
    first, second, *rest = texts("가 " * 195 + '"나나나나나나나나나나. ' + "다. " * 100)
    assert (len(first), 200 <= len(second) <= 210, set(rest)) == (390, True, {"다. "})


TAGGED = "\n[happy] 안녕! [sad]슬퍼. [none] 뭐. 그 [happy] 말. [happy][sad] 하하. [sad]\n흑. [sad]"


def test_a_tag_is_told_apart() -> None:
    """A known one at the beginning of a segment, which is not spoken; all else in brackets is text."""
    told = [(segment.tag, segment.text) for segment in segments(TAGGED, ("happy", "sad"))]
    assert told == [
        ("happy", "\n 안녕! "),
        ("sad", "슬퍼. "),
        (None, "[none] 뭐. "),
        (None, "그 [happy] 말. "),
        ("happy", ""),
        ("sad", " 하하. "),
        ("sad", "\n흑. "),
        ("sad", ""),
    ]
    assert texts("[Happy] a. [hap", ("happy",)) == ["[Happy] a. [hap"]
    assert texts("[happy] 안녕!") == ["[happy] 안녕!"]
    blank = " " * LIMIT
    assert segments([f"{blank}[happy] a"], TAGS) == segments(f"{blank}[happy] a", TAGS)
    assert segments(["[a. b] Hi."], TAGS) == [Segment(0, " Hi.", 0, 10, "a. b")]


PARTS = [
    *""".!?…。！.'"“”‘’「」()[]가요다かaIxA3,、*\u200d\ufe0f\u2028\n\t""",
    *("[happy]", "[sad]", "[hap", "😀", " 😀", "🇰🇷", "Dr", "e.g", "12", "a://b ", "word ", "\r\n", " ", "  "),
    *(" " * 90, "z" * 50, "가나다라" * 20),
]


def test_pieces_change_nothing() -> None:
    """However an answer is cut into pieces, its segments are the same, and together they are the answer."""
    from hypothesis import given, settings
    from hypothesis import strategies as st

    answers = st.lists(st.sampled_from(PARTS), max_size=300).map("".join)
    given_all = given(answers, st.lists(st.integers(1, 60), min_size=1), st.sampled_from([(), TAGS]))
    settings(max_examples=300, deadline=None, derandomize=True)(given_all(check_pieces))()


def check_pieces(answer: str, lengths: list[int], tags: tuple[str, ...]) -> None:
    """An answer in pieces of these lengths, again and again."""
    pieces, at = [], 0
    while at < len(answer):
        pieces.append(answer[at : at + lengths[len(pieces) % len(lengths)]])
        at += len(pieces[-1])
    whole = segments([answer], tags)
    assert whole == segments(pieces, tags) == segments(answer, tags)
    at = 0
    for index, segment in enumerate(whole):
        assert (segment.index, segment.start, len(segment.text) <= MOST) == (index, at, True)
        tag = "" if segment.tag is None else f"[{segment.tag}]"
        blank, found, rest = answer[at : segment.end].partition(tag) if tag else ("", "", answer[at : segment.end])
        assert (blank.strip(), found, blank + rest) == ("", tag, segment.text)
        at = segment.end
    assert at == len(answer)


def test_a_segment_comes_with_the_next_character() -> None:
    """Behind its end and the white space there, whatever that is: nothing more is waited for."""
    answer = (
        '안녕! 3.5점. "그래?" Dr. Kim came. 1. One.\n\n[x] 음… 네。「はい。」そう。 [happy] [나\n네. 끝. 😀 Bye now. '
    )
    segmenter = Segmenter(TAGS)
    for position, character in enumerate(answer):
        for segment in segmenter.add(character):
            assert (segment.end, character.isspace()) == (position, False)
    last = segmenter.finish()
    assert [segment.text for segment in last] == ["Bye now. "]


@pytest.mark.parametrize(
    "unit", ["a", ".", "[", '"', "'", " ", "\n", "! ", '?"', "[happy]", "[hap", "(a", ". 😀", "word "]
)
def test_a_character_costs_the_same_in_a_long_answer(unit: str) -> None:
    """One by one, whatever they are; and little is held."""
    segmenter, began = Segmenter(("happy",)), time.process_time()
    for character in (unit * 30_000)[:30_000]:
        for _ in segmenter.add(character):
            pass
    assert time.process_time() - began < 2
    assert len(segmenter._text) <= MOST + PIECE


def test_a_long_piece_costs_what_its_characters_cost() -> None:
    """An answer from the cache comes as one."""
    began = time.process_time()
    assert len(texts("안녕하세요. " * 50_000)) == 50_000
    assert time.process_time() - began < 5
