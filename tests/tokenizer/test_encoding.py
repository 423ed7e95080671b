"""Encoding: the canonical rule spelled out, Hugging Face and tiktoken as oracles, and streams."""

import json
import random
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

import tokenizer.encoding.encoder as encoder_module
from stemma.core.errors import DamagedError
from tokenizer.encoding.encoder import LONGEST_KEY, Encoder
from tokenizer.encoding.ranks import encode_words, ranks_of
from tokenizer.encoding.rule import NONE, SHORT, pair_rank
from tokenizer.encoding.scaffolds import pieces
from tokenizer.encoding.stream import StreamDecoder
from tokenizer.errors import TextError, VocabularyError
from tokenizer.export.hf import to_tokenizers
from tokenizer.learning.hf_trainer import train_hf
from tokenizer.learning.words import Words
from tokenizer.load import encode_text, token_bytes
from tokenizer.merges import pairs
from tokenizer.specials import MARKUP, special_tokens
from tokenizer.vocabulary import VOCABULARY_FILE, Entry, Vocabulary, byte_order

SPECIALS = special_tokens(20)
BYTES = [bytes([byte]) for byte in byte_order()]
TEXTS = [
    "",
    " ",
    "I'll say: it's 31415926535 \t\n\n  x=1;//\r\n",
    "生活就像一盒巧克力，你永远不知道下一颗是什么味道。한국어 ㄅㄆㄇ ほげ",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 na\u0308ive \x00\x00\x01 \ue000\U0010ffff",
    "<think>why</think> <think <tool_call>{}</tool_call><|end_of_text|><|User|>",
    "<<think>><tool_response></tool_response><tool_response>",
    "a" * 5000,
    " " * 700 + "\n" * 300,
]


def files(count: int) -> list[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    return [
        path.read_text(encoding="utf-8", errors="replace") for path in sorted(library.glob("*.py"))[:count]
    ]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """Learned from real text, with entries taken out and others moved to where no trainer would put them."""
    learned = token_bytes(train_hf(1500, [*files(40), *TEXTS]))[256:]
    rng = random.Random(0)
    learned = [text for text in learned if rng.random() < 0.9]
    for _ in range(100):
        learned.insert(rng.randrange(len(learned)), learned.pop(rng.randrange(len(learned))))
    return Vocabulary().extended([Entry(text, "learned") for text in learned])


@pytest.fixture(scope="module")
def encoder(vocabulary: Vocabulary) -> Encoder:
    return Encoder(vocabulary, SPECIALS, threads=2)


@pytest.fixture(scope="module")
def hugging_face(vocabulary: Vocabulary) -> Tokenizer:
    """The same vocabulary as ``tokenizer.load.encode_text`` uses it."""
    tokenizer = to_tokenizers(vocabulary)
    tokenizer.add_tokens([AddedToken(t, special=t not in MARKUP, normalized=False) for t in SPECIALS])
    tokenizer.encode_special_tokens = True
    return tokenizer


def spelled_out(texts: list[bytes], word: bytes) -> list[int]:
    """The rule of ``tokenizer.vocabulary``, word for word."""
    ranks = {text: rank for rank, text in enumerate(texts)}
    if word in ranks:
        return [ranks[word]]
    parts = [word[place : place + 1] for place in range(len(word))]
    while True:
        joined = [ranks.get(left + right, NONE) for left, right in pairwise(parts)]
        if not joined or min(joined) == NONE:
            return [ranks[part] for part in parts]
        place = joined.index(min(joined))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


def ranks_in(texts: list[bytes], words: list[bytes]) -> list[list[int]]:
    offsets = np.cumsum([0, *map(len, words)])
    symbols, ends = encode_words(ranks_of(texts), np.frombuffer(b"".join(words), np.uint8), offsets)
    return [symbols[start:stop].tolist() for start, stop in pairwise(ends.tolist())]


SMALL = st.lists(st.text("ab ", min_size=2, max_size=6), unique=True, max_size=12)


@settings(max_examples=150, deadline=None)
@given(entries=SMALL, words=st.lists(st.text("ab ", max_size=SHORT + 8), max_size=4))
def test_any_list_of_entries_joins_as_the_rule_says(entries: list[str], words: list[str]) -> None:
    texts = [*BYTES, *(entry.encode() for entry in entries)]
    encoded = [word.encode() for word in words]
    assert ranks_in(texts, encoded) == [spelled_out(texts, word) for word in encoded]


@settings(max_examples=60, deadline=None)
@given(entries=SMALL, period=st.text("ab ", min_size=1, max_size=5), repeats=st.integers(20, 90))
def test_long_runs_join_as_the_rule_says(entries: list[str], period: str, repeats: int) -> None:
    texts = [*BYTES, *(entry.encode() for entry in entries)]
    word = (period * repeats).encode()
    assert ranks_in(texts, [word]) == [spelled_out(texts, word)]


def test_tiktoken_joins_the_same(vocabulary: Vocabulary) -> None:
    oracle = tiktoken.Encoding(
        "test",
        pat_str=".+",
        special_tokens={},
        mergeable_ranks={t: r for r, t in enumerate(vocabulary.texts)},
    )
    rng = random.Random(1)
    words = [b"".join(rng.choices(vocabulary.texts, k=k)) for k in range(1, 60) for _ in range(5)]
    assert ranks_in(vocabulary.texts, words) == [oracle._encode_single_piece(word) for word in words]


def test_words_of_the_learning_room_are_read_as_they_are(vocabulary: Vocabulary) -> None:
    words = Words.of({b"import": 3, b" self": 2, b"\x00\xff": 1})
    symbols, ends = encode_words(ranks_of(vocabulary.texts), words.data, words.offsets)
    for index, (word, _) in enumerate(words):
        assert b"".join(vocabulary.texts[r] for r in symbols[ends[index] : ends[index + 1]]) == word


def test_one_pair_stands_for_each_entry(vocabulary: Vocabulary) -> None:
    ranks = ranks_of(vocabulary.texts)
    numbers = {text: rank for rank, text in enumerate(vocabulary.texts)}
    made: dict[int, int] = {}
    for text in vocabulary.texts:
        for cut in range(1, len(text)):
            if text[:cut] in numbers and text[cut:] in numbers:
                rank = pair_rank(ranks.pairs, numbers[text[:cut]], numbers[text[cut:]])
                if rank != NONE:
                    assert rank == numbers[text]
                    made[rank] = made.get(rank, 0) + 1
    assert set(made.values()) == {1}
    assert len(made) > 800


def test_long_entries_are_taken_apart_in_linear_time() -> None:
    lengths = [1 << power for power in range(1, 19)]  # what merging makes of a long run; 50 s when quadratic
    runs = [b"a" * length for length in lengths]
    start = time.perf_counter()
    made = pairs(Vocabulary().extended([Entry(run, "general") for run in runs]))
    assert time.perf_counter() - start < 10
    a = byte_order().index(ord("a"))
    assert made[256:].tolist() == [[a, a], *([rank, rank] for rank in range(256, 256 + len(runs) - 1))]


def test_a_run_of_a_million_bytes_is_not_quadratic(vocabulary: Vocabulary, encoder: Encoder) -> None:
    for text in ("a" * 1_000_000, "ab" * 500_000, "".join(random.Random(2).choices("abcdxyz", k=1_000_000))):
        assert encoder.decode(encoder.encode(text)) == text.encode()  # squared, it would take hours


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (BYTES[1:], "must be the bytes"),
        ([*BYTES, b"ab", b""], "entry 257 is empty"),
        ([*BYTES, b"ab", b"cd", b"ab"], r"entry 258 \(b'ab'\) is there twice: first as 256"),
    ],
)
def test_what_is_no_vocabulary_is_refused(texts: list[bytes], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        ranks_of(texts)


def test_ids_are_hugging_face_s_on_real_text(encoder: Encoder, hugging_face: Tokenizer) -> None:
    texts = [*TEXTS, *files(60)]
    expected = [encoding.ids for encoding in hugging_face.encode_batch(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in encoder.encode_batch(texts)] == expected


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
PIECES = st.one_of(ANY_TEXT, st.sampled_from(SPECIALS), st.sampled_from(["  ", "\r\n", "'ll", "é", "漢字"]))


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(PIECES, max_size=8))
def test_ids_are_hugging_face_s_on_any_text(
    parts: list[str], encoder: Encoder, hugging_face: Tokenizer
) -> None:
    text = "".join(parts)
    ids = encoder.encode(text)
    assert ids.tolist() == hugging_face.encode(text, add_special_tokens=False).ids
    assert encoder.decode(ids) == text.encode()


def test_the_cache_changes_no_id(
    vocabulary: Vocabulary, hugging_face: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pre-tokens of every length about a key's, at every place of a word, that differ in their zeros at most.
    runs = ["\x00" * k for k in range(1, LONGEST_KEY + 4)] + ["ab" * k for k in range(1, 20)]
    texts = [" " * shift + run + "z" + run[1:] for shift, run in product(range(8), runs)] * 2
    texts += files(10)
    expected = [encoding.ids for encoding in hugging_face.encode_batch(texts, add_special_tokens=False)]
    for lines in (1, 64, encoder_module.CACHE_LINES):
        monkeypatch.setattr(encoder_module, "CACHE_LINES", lines)
        encoder = Encoder(vocabulary, SPECIALS, threads=1)
        for _ in range(2):  # cold, then with what the first time left
            assert [ids.tolist() for ids in encoder.encode_batch(texts)] == expected


def test_threads_change_no_id(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*TEXTS, *files(40)]
    expected = [ids.tolist() for ids in Encoder(vocabulary, SPECIALS, threads=1).encode_batch(texts)]
    monkeypatch.setattr(encoder_module, "GROUP", 5000)
    encoder = Encoder(vocabulary, SPECIALS, threads=4)
    with ThreadPoolExecutor(3) as pool:  # and batches side by side
        batches = list(pool.map(encoder.encode_batch, [texts] * 3))
    for encoded in batches:
        assert [ids.tolist() for ids in encoded] == expected
    assert all(ids.dtype == np.int32 for ids in batches[0])


def test_two_threads_may_want_the_last_cache(vocabulary: Vocabulary, encoder: Encoder) -> None:
    class Taken(list[Any]):
        """Not empty when asked, and empty when taken from: another thread was faster."""

        def __len__(self) -> int:
            return 1

    mine = Encoder(vocabulary)
    mine._caches = Taken()
    assert mine.encode("hello").tolist() == encoder.encode("hello").tolist()


def test_threads_leave_hugging_face_s_tokenizer_as_it_was(hugging_face: Tokenizer) -> None:
    """Encoding text sets what a special token in it is taken for, and sets it back."""
    wrapped = PreTrainedTokenizerFast(tokenizer_object=hugging_face)
    wrapped.backend_tokenizer.encode_special_tokens = False
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: encode_text(wrapped, ["hello " * 20] * 20), range(400)))
    finally:
        sys.setswitchinterval(interval)
    assert not wrapped.backend_tokenizer.encode_special_tokens


def test_bad_input_is_named(encoder: Encoder) -> None:
    assert encoder.encode_batch([]) == []
    assert encoder.decode([]) == b""
    with pytest.raises(TextError, match=r"character 10 of a text of 12 .* U\+DC80"):
        encoder.encode_batch(["fine", "<think>ab \udc80c"])
    for wrong in (-1, len(encoder)):
        with pytest.raises(TextError, match=f"{wrong} is no id"):
            encoder.decode([0, wrong])


def test_markup_is_written_and_control_tokens_are_not(encoder: Encoder, vocabulary: Vocabulary) -> None:
    ids = {token: len(vocabulary) + index for index, token in enumerate(SPECIALS)}
    assert encoder.decode([ids["<|User|>"], ids["<think>"], ids["<|end_of_text|>"]]) == b"<think>"
    assert len(encoder) == len(vocabulary) + len(SPECIALS)


def with_scaffolds(vocabulary: Vocabulary, rng: random.Random, share: float) -> Vocabulary:
    return Vocabulary(
        tuple(
            entry if len(entry.text) == 1 else replace(entry, scaffold=rng.random() < share)
            for entry in vocabulary.entries
        )
    )


def fewest(text: bytes, entries: set[bytes]) -> int:
    reached = {0}
    for count in range(1, len(text) + 1):
        reached = {e for s in reached for e in range(s + 1, len(text) + 1) if text[s:e] in entries}
        if len(text) in reached:
            return count
    raise AssertionError(text)


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_scaffolds_are_passed_through_and_never_returned(vocabulary: Vocabulary, share: float) -> None:
    scaffolded = with_scaffolds(vocabulary, random.Random(3), share)
    entries = set(scaffolded.token_bytes)
    apart = pieces(scaffolded)
    assert set(apart) == set(np.flatnonzero(scaffolded.scaffolds).tolist())
    for rank, ids in apart.items():
        text = scaffolded.texts[rank]
        assert b"".join(scaffolded.token_bytes[index] for index in ids) == text
        assert len(ids) == fewest(text, entries)
    plain, encoder = Encoder(vocabulary, SPECIALS), Encoder(scaffolded, SPECIALS)
    own = scaffolded.ids.tolist()
    for text in [*TEXTS, *files(5)]:
        if "<" in text:  # the special tokens have other ids there
            continue
        ranks = plain.encode(text).tolist()  # without scaffolds, an id is a rank
        expected = [index for rank in ranks for index in apart.get(rank, (own[rank],))]
        assert encoder.encode(text).tolist() == expected
        assert encoder.decode(encoder.encode(text)) == text.encode()


def test_a_scaffold_gives_way_to_its_longest_pieces() -> None:
    """The paper's example: ``zona`` only builds ``Arizona``."""
    entries = [(b"zo", False), (b"na", False), (b"zona", True), (b"Ari", True), (b"Arizona", False)]
    vocabulary = Vocabulary().extended([Entry(text, "x", 0, scaffold) for text, scaffold in entries])
    encoder = Encoder(vocabulary)
    assert [encoder.token_bytes[i] for i in encoder.encode("Arizona zona")] == [
        b"Arizona",
        b" ",
        b"zo",
        b"na",
    ]


def saved(folder: Path, vocabulary: Vocabulary, tokenizer: Tokenizer) -> Path:
    vocabulary.save(folder / VOCABULARY_FILE)
    (folder / "hf").mkdir()
    tokenizer.save(str(folder / "hf" / "tokenizer.json"))
    return folder


def test_an_artifact_is_loaded(
    tmp_path: Path, vocabulary: Vocabulary, encoder: Encoder, hugging_face: Tokenizer
) -> None:
    loaded = Encoder.load(saved(tmp_path, vocabulary, hugging_face))
    assert loaded.token_bytes == token_bytes(hugging_face) == encoder.token_bytes
    for text in TEXTS:
        assert loaded.encode(text).tolist() == encoder.encode(text).tolist()


def test_an_artifact_that_does_not_fit_is_refused(
    tmp_path: Path, vocabulary: Vocabulary, hugging_face: Tokenizer
) -> None:
    with pytest.raises(DamagedError, match=VOCABULARY_FILE):
        Encoder.load(tmp_path)
    shorter = Vocabulary(vocabulary.entries[:-1])
    with pytest.raises(DamagedError, match="do not follow"):
        Encoder.load(saved(tmp_path, shorter, hugging_face))
    path = tmp_path / "hf" / "tokenizer.json"
    path.write_text(json.dumps({"added_tokens": []}))
    assert len(Encoder.load(tmp_path)) == len(shorter)
    for content in ("{}", "[]", "{", '{"added_tokens": [{}]}'):
        path.write_text(content)
        with pytest.raises(DamagedError, match=r"tokenizer\.json"):
            Encoder.load(tmp_path)
    path.unlink()
    with pytest.raises(DamagedError, match=r"tokenizer\.json"):
        Encoder.load(tmp_path)


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 1000), max_size=60))
def test_a_stream_is_its_bytes_decoded(ids: list[int], encoder: Encoder) -> None:
    stream = StreamDecoder(encoder.token_bytes)
    for _ in range(2):  # the end begins anew
        shown = "".join(stream.push(index) for index in ids) + stream.flush()
        assert shown == encoder.decode(ids).decode(errors="replace")


@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT)
def test_a_stream_never_splits_a_character(text: str, encoder: Encoder) -> None:
    stream, shown, seen = StreamDecoder(encoder.token_bytes), "", b""
    for index in encoder.encode(text).tolist():
        shown += stream.push(index)
        seen += encoder.token_bytes[index]
        assert text.startswith(shown)
        assert len(seen) - len(shown.encode()) < 4  # and holds back no whole one
    assert shown == text
    assert stream.flush() == ""


def test_a_stream_takes_no_id_from_the_end(encoder: Encoder) -> None:
    with pytest.raises(IndexError, match="-1"):
        StreamDecoder(encoder.token_bytes).push(-1)
