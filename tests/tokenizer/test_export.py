"""Exports: other programs give the ids of the canonical rule, and refuse what they could only get wrong."""

import ast
import base64
import copy
import itertools
import json
import pickle
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from stemma.core.errors import DamagedError
from tests.tokenizer.helpers import ENTRIES, SAMPLES, SLOTS, learned, plain_text, scaffolded, texts
from tokenizer.chat import render
from tokenizer.encoding.encoder import Encoder
from tokenizer.encoding.scaffolds import pieces
from tokenizer.errors import VocabularyError
from tokenizer.export import hf, scaffold
from tokenizer.export.tiktoken import RANKS_FILE, SETTINGS_FILE, load_tiktoken, save_tiktoken
from tokenizer.export.tokenization_scaffold import SCAFFOLD_FILE
from tokenizer.learning.hf_trainer import train_hf
from tokenizer.load import encode_plain, encode_text, load, token_bytes
from tokenizer.merges import pairs
from tokenizer.specials import special_tokens
from tokenizer.vocabulary import Entry, Vocabulary

SPECIALS = special_tokens(SLOTS)
FEW = (*texts()[:4], *SAMPLES)


def join(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The rule of ``tokenizer.vocabulary``, word for word."""
    if word in ranks:
        return [ranks[word]]
    parts = [word[place : place + 1] for place in range(len(word))]
    while True:
        joined = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        if min(joined, default=len(ranks)) == len(ranks):
            return [ranks[part] for part in parts]
        place = joined.index(min(joined))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


# Entries in any order: made of later ones, of none, periodic. No trainer gives such a list; pruning may.
ALL = ["".join(letters) for length in range(2, 6) for letters in itertools.product("ab", repeat=length)]
SMALL = st.lists(st.sampled_from(ALL), min_size=6, max_size=30, unique=True)


@settings(max_examples=120, deadline=None)
@given(
    entries=SMALL,
    words=st.lists(st.text("ab", min_size=1, max_size=40), min_size=2, max_size=4),
    times=st.integers(1, 9),
)
def test_one_pair_per_entry_is_the_whole_rule(entries: list[str], words: list[str], times: int) -> None:
    vocabulary = Vocabulary().extended([Entry(entry.encode(), "general") for entry in entries])
    ranks = {text: rank for rank, text in enumerate(vocabulary.texts)}
    ours = hf.to_tokenizers(vocabulary)
    ours.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    oracle = tiktoken.Encoding("test", pat_str=r"[\s\S]+", mergeable_ranks=ranks, special_tokens={})
    for word in words:
        expected = join((word * times).encode(), ranks)
        assert ours.encode(word * times).ids == expected
        assert oracle.encode_ordinary(word * times) == expected


def test_a_trained_vocabulary_comes_back_as_the_trainer_wrote_it() -> None:
    trained = json.loads(train_hf(ENTRIES, texts()).to_str())
    exported = json.loads(hf.to_tokenizers(learned()).to_str())
    assert exported["model"]["merges"] == trained["model"]["merges"]
    assert exported == trained


def test_what_no_merging_makes_has_no_pair() -> None:
    vocabulary = Vocabulary().extended(
        [Entry(text, "base") for text in (b"ab", b"bc", b"abc", b"xyz", b"cd", b"bcd")]
    )
    ranks = {text: rank for rank, text in enumerate(vocabulary.texts)}
    made = {
        text: tuple(parts)
        for text, parts in zip(vocabulary.texts, pairs(vocabulary).tolist())
        if parts[0] >= 0
    }
    assert made == {
        b"ab": (ranks[b"a"], ranks[b"b"]),
        b"bc": (ranks[b"b"], ranks[b"c"]),
        b"abc": (ranks[b"ab"], ranks[b"c"]),  # not a + bc: ab comes first
        b"cd": (ranks[b"c"], ranks[b"d"]),
        b"bcd": (ranks[b"bc"], ranks[b"d"]),
    }


# ---- Hugging Face with scaffolds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scaffold") / "hf"
    scaffold.save_folder(scaffolded(), SLOTS, path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return load(folder)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Code that travels with a tokenizer is copied to a cache: not the user's."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


@pytest.mark.usefixtures("modules")
def test_the_folder_is_all_that_auto_tokenizer_needs(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    remote = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=True)
    assert type(remote).__module__.startswith("transformers_modules.")
    assert len(remote) == len(tokenizer) == len(scaffolded()) + SLOTS
    assert remote.convert_tokens_to_ids(SPECIALS) == [len(scaffolded()) + slot for slot in range(SLOTS)]
    for text in FEW:
        assert remote(text).input_ids == tokenizer(text).input_ids
    messages = [
        {"role": "user", "content": "arizona?"},
        {"role": "assistant", "content": "<think>a</think>\n\nzona"},
    ]
    assert render(remote, messages) == render(tokenizer, messages)
    assert remote.apply_chat_template(messages).input_ids == render(tokenizer, messages).ids


def test_the_code_that_travels_needs_nothing_of_ours(folder: Path) -> None:
    tree = ast.parse((folder / "tokenization_scaffold.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} == {"json", "os", "typing", "tokenizers", "transformers"}


def test_scaffold_ids_are_never_given_and_are_needed(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    vocabulary = scaffolded()
    encoder = Encoder(vocabulary, SPECIALS, threads=1)
    passed = 0
    stock = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stock.encode_special_tokens = True
    for text in FEW:
        (ids,) = encode_text(tokenizer, [text])
        assert ids == encoder.encode(text).tolist()
        assert max(ids) < len(tokenizer)
        passed += sum(index >= len(tokenizer) for index in stock.encode(text).ids)
    assert passed > 300
    assert set(json.loads((folder / SCAFFOLD_FILE).read_text())) == {
        name for name, marked in zip(hf.names(vocabulary), vocabulary.scaffolds) if marked
    }


def test_a_reader_that_knows_no_scaffolds_cannot_go_on_in_silence(folder: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    stock = PreTrainedTokenizerFast.from_pretrained(str(folder))
    beyond = len(scaffolded()) + SLOTS
    for rank in pieces(scaffolded()):
        if scaffolded().texts[rank].isalpha():  # one pre-token, so it is found whole
            text = scaffolded().texts[rank].decode()
            assert [index >= beyond for index in stock(text).input_ids] == [True], text
    with pytest.raises(VocabularyError, match=r"\d+ of 1200 entries are scaffolds"):
        hf.to_tokenizers(scaffolded())


@settings(max_examples=60, deadline=None)
@given(text=plain_text)
def test_offsets_are_those_of_the_bytes(folder: Path, text: str) -> None:
    tokenizer = load_once(folder)
    (encoding,) = encode_plain(tokenizer, [text])
    of_id = token_bytes(tokenizer)
    character = [index for index, each in enumerate(text) for _ in each.encode()]
    start = 0
    for index, offsets in zip(encoding.ids, encoding.offsets, strict=True):
        stop = start + len(of_id[index])
        assert offsets == (character[start], character[stop - 1] + 1)
        start = stop


_LOADED: dict[Path, PreTrainedTokenizerFast] = {}


def load_once(folder: Path) -> PreTrainedTokenizerFast:
    if folder not in _LOADED:
        _LOADED[folder] = load(folder)
    return _LOADED[folder]


def test_batches_padding_and_truncation_are_the_library_s(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = list(FEW)
    together = tokenizer(batch, padding=True, truncation=True, max_length=50, padding_side="right")
    for text, ids, mask in zip(batch, together.input_ids, together.attention_mask):
        alone = tokenizer(text).input_ids
        kept = [index for index, real in zip(ids, mask) if real]
        assert len(ids) == 50
        assert kept == alone[-50:]  # truncation_side is left


def test_copies_are_the_same_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    text = texts()[0]
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other(text).input_ids == tokenizer(text).input_ids
        assert other.vocab_size == tokenizer.vocab_size == len(scaffolded())


def test_tokens_added_later_are_saved_behind_the_others(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    text, known = texts()[0], "self"
    other = copy.deepcopy(tokenizer)
    assert known.encode() in scaffolded().token_bytes
    other.add_tokens(["<|mine|>", AddedToken(known, special=True)])
    other.save_pretrained(str(tmp_path))
    again = load(tmp_path)
    assert len(again) == len(tokenizer) + 1
    assert again.convert_tokens_to_ids("<|mine|>") == len(tokenizer)
    assert again.convert_tokens_to_ids(known) == tokenizer.convert_tokens_to_ids(known)
    assert encode_text(again, [text]) == encode_text(tokenizer, [text])
    assert len(tokenizer) == len(scaffolded()) + SLOTS, "the original has not changed"
    other.add_tokens([json.loads((tmp_path / SCAFFOLD_FILE).read_text()).popitem()[0]])
    with pytest.raises(ValueError, match="they are scaffolds"):
        other.save_pretrained(str(tmp_path))


def test_a_folder_without_its_scaffolds_is_refused(folder: Path, tmp_path: Path) -> None:
    from tokenizer.export.tokenization_scaffold import ScaffoldTokenizerFast

    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match=r"scaffolds\.json must be beside tokenizer\.json"):
        ScaffoldTokenizerFast.from_pretrained(str(tmp_path))
    (tmp_path / SCAFFOLD_FILE).write_text("[")
    with pytest.raises(DamagedError, match="not a readable tokenizer"):
        load(tmp_path)


def test_a_vocabulary_that_marks_none_is_a_plain_one(tmp_path: Path) -> None:
    scaffold.save_folder(learned(), SLOTS, tmp_path / "none")
    hf.save_folder(hf.to_tokenizers(learned()), SLOTS, tmp_path / "plain")
    none, plain = load(tmp_path / "none"), load(tmp_path / "plain")
    assert len(none) == len(plain)
    assert [none(text).input_ids for text in FEW] == [plain(text).input_ids for text in FEW]


def test_big_vocabularies_load_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers looks for a wrong pattern of another model in every vocabulary above 100,000 entries."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "youtu"}))
    filler = [Entry(b"%06x" % index, "general") for index in range(101_000)]
    hf.save_folder(hf.to_tokenizers(Vocabulary().extended(filler)), SLOTS, tmp_path)
    logging.enable_propagation()
    try:
        assert load(tmp_path)("abc").input_ids == [64, 65, 66]
    finally:
        logging.disable_propagation()
    assert not caplog.records


# ---- tiktoken


def test_tiktoken_reads_the_rank_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiktoken(learned(), SPECIALS, tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    ranks = tiktoken.load.load_tiktoken_bpe(str(tmp_path / RANKS_FILE))
    assert ranks == {text: rank for rank, text in enumerate(learned().texts)}
    encoding = load_tiktoken(tmp_path)
    assert encoding.n_vocab == ENTRIES + SLOTS
    assert encoding.encode("".join(SPECIALS), allowed_special="all") == [
        ENTRIES + slot for slot in range(SLOTS)
    ]


def test_tiktoken_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="tiktoken cannot take apart"):
        save_tiktoken(scaffolded(), SPECIALS, tmp_path)
    with pytest.raises(DamagedError, match=RANKS_FILE):
        load_tiktoken(tmp_path)
    save_tiktoken(learned(), SPECIALS, tmp_path)
    good = (tmp_path / RANKS_FILE).read_bytes()
    lines = good.splitlines(keepends=True)
    for bad in (b"".join(lines[:-1]), b"!? 0\n", good + base64.b64encode(b"x y z"), b"\xff"):
        (tmp_path / RANKS_FILE).write_bytes(bad)
        with pytest.raises(DamagedError, match="no tiktoken encoding"):
            load_tiktoken(tmp_path)
    (tmp_path / RANKS_FILE).write_bytes(good)
    (tmp_path / SETTINGS_FILE).write_text('{"name": "x"}')
    with pytest.raises(DamagedError, match="pat_str"):
        load_tiktoken(tmp_path)
    (tmp_path / SETTINGS_FILE).unlink()
    with pytest.raises(DamagedError, match=SETTINGS_FILE):
        load_tiktoken(tmp_path)
