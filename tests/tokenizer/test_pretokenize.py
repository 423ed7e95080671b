import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split

from tokenizer.splitting.cascade import CJK_RUNS, WORDS, pre_tokenizer

splits = Sequence([Split(Regex(CJK_RUNS), "isolated"), Split(Regex(WORDS), "isolated")])


def cut(text: str) -> list[str]:
    return [piece for piece, _ in splits.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The Fibonacci sequence begins with", ["The", " Fibonacci", " sequence", " begins", " with"]),
        ("in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("I've DON'T he'LL", ["I've", " DON'T", " he'LL"]),
        ("camelCase HTTPServer", ["camel", "Case", " HTTPServer"]),
        ("ab 中文 cd", ["ab", " ", "中文", " cd"]),
        ("中文，abc。", ["中文", "，", "abc", "。"]),
        ("한국어abc", ["한국어", "abc"]),
        ("ㄅㄆ中", ["ㄅㄆ", "中"]),
        ("日本語カナ", ["日本語カナ"]),
        ("x = y\n\n    z", ["x", " =", " y", "\n\n", "   ", " z"]),
        ("a   \n b", ["a", "   \n", " b"]),
        ("// x\r\n", ["//", " x", "\r\n"]),
        ("$\\frac{1}{2}$", ["$\\", "frac", "{", "1", "}{", "2", "}$"]),
        ("…”“——", ["…”“——"]),
        ("", []),
    ],
)
def test_cuts_worked_out_by_hand_from_the_reference_pattern(text: str, pieces: list[str]) -> None:
    assert cut(text) == pieces


def reference_cut(text: str) -> list[str]:
    """The cascade by another regular-expression engine."""

    def isolate(part: str, pattern: str) -> list[str]:
        found, position = [], 0
        for match in regex.finditer(pattern, part):
            found += [part[position : match.start()], match.group()]
            position = match.end()
        return [piece for piece in [*found, part[position:]] if piece]

    return [word for run in isolate(text, CJK_RUNS) for word in isolate(run, WORDS)]


# Engines carry different versions of Unicode: compare them on what Python's, an older one, has assigned.
assigned = st.one_of(
    st.characters(max_codepoint=0x7F),
    st.characters(min_codepoint=0x2000, max_codepoint=0x312F),
    st.characters(min_codepoint=0x4DF0, max_codepoint=0x4E10),
    st.sampled_from("가힣ㄱㆎ！…“’—：；，、〿︰﹏ㄅㄯ一龥゠ヿ'sSTrReE \n\r\t/"),
    st.characters(),
).filter(lambda character: unicodedata.category(character) not in ("Cn", "Cs"))


@settings(max_examples=600, deadline=None)
@given(st.text(assigned, max_size=24))
def test_two_regex_engines_agree_and_nothing_is_lost(text: str) -> None:
    assert cut(text) == reference_cut(text)
    assert "".join(cut(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("0123456789٣५ a.,-"), max_size=20))
def test_every_digit_stands_alone(text: str) -> None:
    for piece in cut(text):
        assert len(piece) == 1 or not any(character.isdigit() for character in piece)


def test_bytes_follow_the_splits() -> None:
    assert [piece for piece, _ in pre_tokenizer().pre_tokenize_str("é 中")] == ["Ã©", "Ġ", "ä¸Ń"]
