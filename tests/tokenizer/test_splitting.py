import time
import unicodedata
from functools import cache
from itertools import product

import numpy as np
import pytest
import regex
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split

from tokenizer.splitting.cascade import CJK_RUNS, PATTERN, WORDS, pre_tokenizer
from tokenizer.splitting.engine import CLASSES, engine_classes
from tokenizer.splitting.scan import cut, next_end, split
from tokenizer.splitting.unicode import CODE_POINTS, KIND, KINDS, RUN, character_classes

cascade = Sequence([Split(Regex(CJK_RUNS), "isolated"), Split(Regex(WORDS), "isolated")])
single = Split(Regex(PATTERN), "isolated")


def by_engine(text: str, splits: Sequence | Split = cascade) -> list[str]:
    return [piece for piece, _ in splits.pre_tokenize_str(text)]


def by_scanner(text: str) -> list[str]:
    return [piece.decode() for piece in cut(text)]


def every_character() -> str:
    return "".join(chr(code) for code in range(CODE_POINTS) if not 0xD800 <= code < 0xE000)


@cache
def edges() -> str:
    """The characters at both sides of every edge between classes or CJK runs."""
    classes = character_classes()
    last = np.flatnonzero(np.diff(classes))
    codes = np.union1d(last, last + 1)
    return "".join(chr(code) for code in codes.tolist() if not 0xD800 <= code < 0xE000)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The Fibonacci sequence begins with", ["The", " Fibonacci", " sequence", " begins", " with"]),
        ("in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("I've DON'T he'LL", ["I've", " DON'T", " he'LL"]),
        ("x's' s'tt 'd'D", ["x's", "'", " s't", "t", " '", "d'D"]),
        ("camelCase HTTPServer", ["camel", "Case", " HTTPServer"]),
        ("ABªCD abªCD", ["ABª", "CD", " abª", "CD"]),
        ("\u0301ABC !\u0301ABC", ["\u0301", "ABC", " !\u0301", "ABC"]),
        ("ab 中文 cd", ["ab", " ", "中文", " cd"]),
        ("中文，abc。", ["中文", "，", "abc", "。"]),
        ("한국어abc's", ["한국어", "abc's"]),
        ("한국어's", ["한국어", "'s"]),
        ("ㄅㄆ中", ["ㄅㄆ", "中"]),
        ("日本語カナ", ["日本語カナ"]),
        ("カ・ナ", ["カ", "・ナ"]),
        ("一〇二々三", ["一", "〇", "二", "々", "三"]),
        ("x = y\n\n    z", ["x", " =", " y", "\n\n", "   ", " z"]),
        ("a   \n b", ["a", "   \n", " b"]),
        ("a  中", ["a", "  ", "中"]),
        ("// x\r\n", ["//", " x", "\r\n"]),
        (" !\n/\nx", [" !\n/\n", "x"]),
        ("\t\tx\u3000x", ["\t", "\tx", "\u3000x"]),
        ("$\\frac{1}{2}$", ["$\\", "frac", "{", "1", "}{", "2", "}$"]),
        ("…”“——", ["…”“——"]),
        ("", []),
    ],
)
def test_cuts_worked_out_by_hand_from_the_reference_pattern(text: str, pieces: list[str]) -> None:
    assert by_scanner(text) == pieces
    assert by_engine(text) == pieces


def test_the_table_is_the_engines() -> None:
    """Fails after an upgrade to another Unicode: ``tokenizer/splitting/engine.py`` says what to do."""
    classes = character_classes()
    assert np.array_equal(classes & KIND, engine_classes())
    assert not classes.flags.writeable


def test_the_runs_are_those_of_the_first_split() -> None:
    patterns = [regex.compile(part) for part in CJK_RUNS.split("|")]
    runs = np.zeros(CODE_POINTS, np.uint8)
    for run, pattern in enumerate(patterns, start=1):
        for match in pattern.finditer(every_character()):
            runs[[ord(character) for character in match.group()]] += run
    assert np.array_equal(character_classes() >> RUN, runs)


def test_every_character_in_order_and_at_every_edge_in_context() -> None:
    text = every_character()
    assert by_scanner(text) == by_engine(text)
    contexts = ["{c}", " {c}a", "a{c}A", "A{c}{c}'s", "!{c}B\n", "中{c} {c}中", "  {c}\n{c}/"]
    contexts.append("ª{c}か{c}\u0301{c}")
    for context in contexts:
        text = "1".join(context.replace("{c}", character) for character in edges())
        assert by_scanner(text) == by_engine(text)


@pytest.mark.parametrize(
    ("alphabet", "length"),
    [
        ("Aaª\u0301 \n/!中", 5),  # every class that words and spaces take back or give on
        ("'stTrReEvVlLmdDſ", 4),  # contractions; ſ is a case of s
        ("aA1ª\u0301 \t\u3000\r\n/!'sー・〇々、\u302a〄한ㄅ\u3040\u0378🙂", 3),
    ],
)
def test_every_short_text(alphabet: str, length: int) -> None:
    for size in range(1, length + 1):
        for characters in product(alphabet, repeat=size):
            text = "".join(characters)
            assert by_scanner(text) == by_engine(text), repr(text)


def texts(size: int) -> st.SearchStrategy[str]:
    """Any Unicode, leaning to what the cascade treats in a special way, and to few different characters."""
    special = st.sampled_from(
        "aAbZ9'sStTrReElLvVmMdD \t\r\n/!.\u00a0\u0085\u3000\u2028ªʰǅßé\u0301ー・゠々〇〄，가ㄱㅤㄅ一龥🙂\u200d"
    )
    character = st.one_of(
        special, special, st.sampled_from(edges()), st.characters(exclude_categories=["Cs"])
    )
    runs = st.lists(st.tuples(character, st.integers(1, 4)), max_size=size)
    return runs.map(lambda found: "".join(character * times for character, times in found))


@settings(max_examples=800, deadline=None)
@given(texts(30))
@example("'")
@example(" 'S")
@example("A'r")
def test_scanner_and_engine_cut_alike_and_lose_nothing(text: str) -> None:
    assert by_scanner(text) == by_engine(text)
    assert "".join(by_scanner(text)) == text


def same_everywhere(character: str) -> bool:
    """Python's ``regex`` follows a later Unicode than HF's engine, ``unicodedata`` an earlier one."""
    return unicodedata.category(character) not in ("Cn", "Cs") and character != "\u0295"


def by_python(text: str, *patterns: str) -> list[str]:
    """The splits by Python's engine."""
    parts = [text]
    for pattern in patterns:
        found = []
        for part in parts:
            position = 0
            for match in regex.finditer(pattern, part):
                found += [part[position : match.start()], match.group()]
                position = match.end()
            found.append(part[position:])
        parts = found
    return [part for part in parts if part]


@settings(max_examples=300, deadline=None)
@given(texts(24).map(lambda text: "".join(filter(same_everywhere, text))))
def test_another_engine_cuts_alike_by_the_cascade_and_by_the_single_pattern(text: str) -> None:
    assert by_python(text, CJK_RUNS, WORDS) == by_scanner(text)
    assert by_python(text, PATTERN) == by_scanner(text)


@settings(max_examples=300, deadline=None)
@given(texts(30))
def test_the_single_pattern_is_the_cascade(text: str) -> None:
    assert by_engine(text, single) == by_scanner(text)


def test_the_single_pattern_is_the_cascade_on_every_character() -> None:
    text = every_character()
    assert by_engine(text, single) == by_scanner(text)


def by_tiktoken(text: str) -> list[str]:
    """tiktoken's pieces: where every part of the text is an entry, each piece becomes one id."""
    parts = {text[first:last] for first in range(len(text)) for last in range(first + 1, len(text) + 1)}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for part in sorted(parts):
        ranks.setdefault(part.encode(), len(ranks))
    encoding = tiktoken.Encoding("parts", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return [encoding.decode_single_token_bytes(token).decode() for token in encoding.encode_ordinary(text)]


@settings(max_examples=100, deadline=None)
@given(texts(10))
def test_tiktoken_cuts_alike_by_the_single_pattern(text: str) -> None:
    assert by_tiktoken(text) == by_scanner(text)


@pytest.mark.parametrize("name", CLASSES)
def test_tiktoken_takes_every_character_for_the_same(name: str) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(name, pat_str=f"[{CLASSES[name]}]", mergeable_ranks=ranks, special_tokens={})
    found = bytes(encoding.encode_ordinary(every_character())).decode()
    kinds = character_classes() & KIND
    assert found == "".join(map(chr, np.flatnonzero(kinds == KINDS[name]).tolist()))


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("0123456789٣५Ⅷ a.,-"), max_size=20))
def test_every_digit_stands_alone(text: str) -> None:
    for piece in by_scanner(text):
        assert len(piece) == 1 or not any(unicodedata.category(character)[0] == "N" for character in piece)


@settings(max_examples=150, deadline=None)
@given(texts(12), texts(12), texts(12))
def test_what_lies_outside_of_start_and_stop_is_not_read(before: str, text: str, after: str) -> None:
    data = np.frombuffer((before + text + after).encode(), np.uint8)
    position, stop = len(before.encode()), len((before + text).encode())
    pieces = []
    while position < stop:
        end = next_end(data, position, stop, character_classes())
        pieces.append(data[position:end].tobytes())
        position = end
    assert pieces == cut(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=40), texts(10).map(lambda text: text.encode()[:-1])))
@example(b"\xf7\xbf\xbf\xbf")
@example(b"a\xe4\xb8")
def test_broken_utf8_is_cut_somewhere_within_its_bounds(data: bytes) -> None:
    ends = split(np.frombuffer(data, np.uint8))
    assert (np.diff(ends, prepend=0) > 0).all()
    assert (ends[-1:] == len(data)).all()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a", 1),
        ("A", 1),
        (" ", 1),
        ("!", 1),
        ("中", 1),
        ("ªA", 2),
        ("\n ", 2),
        ("!é", 1_000_000),
        ("aé ", 1_000_001),
    ],
)
def test_long_runs_take_linear_time(text: str, pieces: int) -> None:
    """The engine behind Hugging Face gives up on runs of ten million; quadratic would take hours."""
    long = np.frombuffer((text * 8_000_000 if len(text) == 1 else text * 1_000_000).encode(), np.uint8)
    start = time.perf_counter()
    assert len(split(long)) == pieces
    assert time.perf_counter() - start < 20


def test_lone_surrogates_are_no_text() -> None:
    with pytest.raises(UnicodeEncodeError):
        cut("a\ud800")


def test_bytes_follow_the_splits() -> None:
    assert by_engine("é 中", pre_tokenizer()) == ["Ã©", "Ġ", "ä¸Ń"]
