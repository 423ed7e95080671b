"""Taking entries out: what goes, what stays, and that what stays is encoded as before."""

import itertools
import random

import numpy as np
import pytest
import regex

from tests.tokenizer.helpers import learned, scaffolded, texts
from tokenizer.config import Prune
from tokenizer.encoding.ranks import encode_words, ranks_of
from tokenizer.learning.prune import pollution, prune
from tokenizer.learning.reach import fit, whole
from tokenizer.learning.table import count_words
from tokenizer.learning.words import Words
from tokenizer.merges import pairs
from tokenizer.vocabulary import Entry, Vocabulary

NOTHING = Prune(unreachable=False, addresses=False, spam=False, duplicates=False)


def only(rule: str) -> Prune:
    return NOTHING.model_copy(update={rule: True})


def vocabulary(*entries: str | bytes) -> Vocabulary:
    """With these entries, each behind all its beginnings, so that joining comes to it."""
    found: dict[bytes, None] = {}
    for entry in entries:
        data = entry.encode() if isinstance(entry, str) else entry
        found |= dict.fromkeys(data[:end] for end in range(2, len(data) + 1))
    return Vocabulary().extended([Entry(text, "base") for text in found])


def words(counts: dict[str, int]) -> Words:
    return Words.of({word.encode(): count for word, count in counts.items()})


def gone(before: Vocabulary, counts: dict[str, int], rules: Prune) -> dict[str, str]:
    after, found = prune(before, words(counts), rules)
    assert after.fault() is None
    assert {entry.text for entry in found} == set(before.texts) - set(after.texts)
    assert after.entries == tuple(entry for entry in before.entries if entry.text in set(after.texts))
    return {entry.text.decode("utf-8", "backslashreplace"): entry.rule for entry in found}


def long_text() -> Words:
    """Words of the texts, repeated often enough to tell rare from frequent; words in capitals are rare."""
    counted = dict(count_words(texts()))
    rare = {word.upper(): 1 for word in counted if word.isalpha() and word.upper() not in counted}
    return Words.of({word: 100 * count for word, count in counted.items()} | rare)


def with_twins(before: Vocabulary) -> Vocabulary:
    """And the capitals of its entries."""
    capitals = dict.fromkeys(entry.text.upper() for entry in before.entries[256:] if entry.text.isalpha())
    known = set(before.texts)
    return before.extended([Entry(text, "twins") for text in capitals if text not in known])


def encoded(vocabulary: Vocabulary, text: str) -> list[bytes]:
    found = words({text: 1})
    symbols, _ = encode_words(ranks_of(vocabulary.texts), found.data, found.offsets)
    return [vocabulary.texts[rank] for rank in symbols]


def test_entries_no_text_produces_are_found() -> None:
    before = vocabulary("the", " 中", "中国", "12", "é", "don't")
    before = before.extended([Entry(text, "base") for text in (b"xyz", b"x'yzw", b"q\n.", b"\xff\xfe")])
    assert gone(before, {"the": 3}, Prune()) == {
        " \\xe4\\xb8": "unreachable",
        " 中": "unreachable",
        "12": "unreachable",
        "x'yzw": "unreachable",  # is cut
        "q\n.": "unreachable",
        "\\xff\\xfe": "unreachable",
    }  # "don'" builds "don't", and "xyz", which joining does not come to, is a whole pre-token


def test_an_entry_that_joining_misses_and_that_is_no_pre_token_is_unreachable() -> None:
    before = vocabulary("an", "nd", "a'l").extended([Entry(b"b'l", "base"), Entry(b"'ll", "base")])
    found = prune(before, words({"a'll": 1}), only("unreachable"))[1]
    assert [(entry.text, entry.evidence) for entry in found] == [(b"b'l", "joining comes to something else")]
    assert found[0].becomes == (b"b", b"'", b"l"), "`'l` alone is no entry here"


@pytest.mark.parametrize(
    "phrase",
    [
        *("@gmail", ".blogspot", "/facebook", ",www", "_https", "deadbeef", "FADEBABE"),
        *(
            "天天中彩票",
            "北京赛车",
            "大发快三",
            "娱乐平台注册",
            "在线观看",
            "免费视频",
            "注册网址",
            "久久综合",
            "一本道",
            "送料無料",
        ),
    ],
)
def test_pollution_is_found(phrase: str) -> None:
    found = gone(vocabulary(phrase), {phrase: 9}, Prune())
    assert found[phrase] in {"addresses", "spam"}


@pytest.mark.parametrize(
    "word",
    [
        *(
            "@Override",
            "@param",
            "http",
            "https",
            " https",
            "://",
            "(https",
            "www",
            ".com",
            ".github",
            ".google",
        ),
        *(
            "facade",
            " decade",
            "defaced",
            "ffffffff",
            "abcdefghijklmnopqrstuvwxyz",
            " lottery",
            " casino",
            " adult",
        ),
        *(
            "彩票",
            "开奖",
            "棋牌",
            "在线",
            "免费",
            "视频",
            "观看",
            "时时刻刻",
            "久久不能",
            "人人有责",
        ),
        *(
            "亚洲国家",
            "国产化",
            "综合利用",
            "天天向上",
            "不卡顿",
            "注册表",
            "计划经济",
            "赛车手",
            "飞艇",
            "香蕉皮",
            "色彩",
        ),
        *(
            "中文字幕",
            "联系我们",
            "数据库",
            "服务器",
            "中华人民共和国",
            "生命周期",
            "五月天气",
            "精品课程",
            "人体结构",
            "快三年了",
        ),
        *(
            "微积分",
            "线性代数",
            "概率分布",
            "提取现金",
            "成人教育",
            "自动驾驶",
            "在线文档",
            "免费软件",
            "高清晰度",
        ),
    ],
)
def test_what_good_text_has_is_no_pollution(word: str) -> None:
    before = vocabulary(word)
    assert gone(before, {word: 9}, Prune()) == {}


def test_what_others_are_built_from_stays() -> None:
    before = vocabulary("@gmail").extended([Entry(b"@gmaily", "base")])
    assert gone(before, {}, Prune()) == {}, "`@gmaily` is no address, and is built from one"
    assert list(gone(vocabulary("@gmail"), {}, Prune())) == ["@gmail"], "its beginnings are harmless"


def test_rare_twins_of_frequent_entries_go() -> None:
    before = vocabulary(" self", "self", "Self", " SELF", " selfish", "elf", " ärger", "Ärger")
    counts = {"self": 5, " self": 20_000, "Self": 20, " SELF": 21, " selfish": 0, " ärger": 2_000, "Ärger": 1}
    found = prune(before, words(counts), only("duplicates"))[1]
    assert [(entry.text.decode(), entry.twin.decode(), entry.count) for entry in found] == [
        ("self", " self", 5),
        ("Self", " self", 20),
        ("Ärger", " ärger", 1),
    ]
    assert found[0].evidence == "its twin occurs 20,000 times"
    assert gone(before, counts, Prune()) == {}, "only where the profile asks for it"
    few = {word: count // 50 for word, count in counts.items()}
    assert gone(before, few, only("duplicates")) == {}, "too few to know what is rare"


def test_counts_are_in_occurrences_whatever_a_source_weighs() -> None:
    before = vocabulary("the", "The")
    plain = words({"the": 3_000, "The": 2})
    scaled = Words(plain.data, plain.offsets, plain.counts * 640, scale=640)
    first, second = (prune(before, counted, only("duplicates"))[1] for counted in (plain, scaled))
    assert first == second
    assert [(entry.text, entry.count) for entry in first] == [(b"The", 2)]


def test_rows_say_where_an_entry_was_seen_and_what_it_becomes() -> None:
    found = prune(vocabulary("@gmail"), words({"@gmail": 2, "mail": 1}), Prune())[1]
    assert [entry.row() for entry in found] == [
        {
            "entry": "@gmail",
            "bytes": "40676d61696c",
            "stage": "base",
            "rule": "addresses",
            "evidence": "providers of e-mail behind an at sign",
            "count": 2,
            "example": "@gmail",
            "twin": "",
            "becomes": ["@gmai", "l"],
        }
    ]


def test_the_example_is_the_most_frequent_word() -> None:
    before = vocabulary("@gmail")
    counted = words({"!@gmail": 3, "#@gmail": 8, "@gmail": 1, "%@gmail": 8})
    (found,) = prune(before, counted, Prune())[1]
    assert (found.example, found.count) == (b"#@gmail", 20)


def test_what_is_left_can_be_reached_and_encodes_as_before() -> None:
    """Joins of kept entries do not change: a word without pruned entries has the same ones as before."""
    draw = random.Random(3)
    before = with_twins(learned())
    strays = [bytes(draw.choices(b"ab1 .\n'\xe4\xb8\xad", k=draw.randint(2, 5))) for _ in range(300)]
    strays = [text for text in dict.fromkeys(strays) if text not in set(before.texts)]
    before = before.extended([Entry(text, "stray") for text in strays])
    counted = long_text()
    after, found = prune(before, counted, Prune(duplicates=True))
    assert {entry.rule for entry in found} >= {"unreachable", "duplicates"}
    reachable = whole(after.texts) | (fit(after.texts) & (pairs(after)[:, 0] >= 0))
    assert reachable[256:].all()
    assert prune(after, counted, Prune(duplicates=True)) == (after, [])

    symbols, ends = encode_words(ranks_of(before.texts), counted.data, counted.offsets)
    again, again_ends = encode_words(ranks_of(after.texts), counted.data, counted.offsets)
    taken = {before.texts.index(entry.text) for entry in found}
    same = 0
    for index in range(len(counted)):
        ranks = symbols[ends[index] : ends[index + 1]].tolist()
        if taken.isdisjoint(ranks):
            own = [after.texts[rank] for rank in again[again_ends[index] : again_ends[index + 1]]]
            assert own == [before.texts[rank] for rank in ranks]
            same += 1
    assert 0.5 * len(counted) < same < len(counted)


def test_what_a_pruned_entry_becomes_is_what_text_encodes_as() -> None:
    before = with_twins(learned())
    counted = long_text()
    after, found = prune(before, counted, only("duplicates"))
    assert found
    for entry in found:
        assert b"".join(entry.becomes) == entry.text
        assert list(entry.becomes) == encoded(after, entry.text.decode())


def test_scaffolds_keep_their_places_and_never_appear_in_a_row() -> None:
    before = with_twins(scaffolded())
    hidden = {entry.text for entry in before.entries if entry.scaffold}
    after, found = prune(before, long_text(), Prune(duplicates=True))
    assert found
    assert {entry.text for entry in after.entries if entry.scaffold} == hidden
    assert hidden.isdisjoint(itertools.chain.from_iterable(entry.becomes for entry in found))


def test_without_rules_nothing_happens() -> None:
    before = vocabulary("12", "@gmail")
    assert prune(before, words({}), NOTHING) == (before, [])


def test_no_words_are_no_evidence_of_duplicates() -> None:
    assert prune(vocabulary("the", "The"), words({}), Prune(duplicates=True))[1] == []


def test_the_rules_are_readable() -> None:
    for item in (*pollution()["addresses"], *pollution()["spam"]):
        pattern = regex.compile(item["pattern"], regex.VERSION1)
        assert not pattern.search(""), "a pattern that is found in nothing is found everywhere"
        assert item["about"]
    assert np.all([item["least"] >= 3 for item in pollution()["spam"]]), (
        "words of two characters are no phrases"
    )
