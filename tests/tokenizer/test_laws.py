"""What holds for every text, whoever encodes it: our encoder, Hugging Face's two readers, tiktoken."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiktoken import Encoding
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.tokenizer.helpers import SLOTS, any_text, learned, markup_text, plain_text, scaffolded, texts
from tokenizer.encoding.encoder import Encoder
from tokenizer.encoding.ranks import encode_words, ranks_of
from tokenizer.export import hf, scaffold
from tokenizer.export.tiktoken import load_tiktoken, save_tiktoken
from tokenizer.load import encode_text, load, token_bytes
from tokenizer.specials import CONTROL, MARKUP, NAMED, special_tokens
from tokenizer.vocabulary import VOCABULARY_FILE

SPECIALS = special_tokens(SLOTS)
TABLES = ranks_of(learned().texts)
EXAMPLES = settings(max_examples=200, deadline=None)


@dataclass(frozen=True, repr=False)  # a failure would print whole vocabularies
class Readers:
    """One artifact, as everyone reads it; ``tokenizers`` gives out scaffolds, ``tiktoken`` has none."""

    ours: Encoder
    transformers: PreTrainedTokenizerFast
    tokenizers: Tokenizer
    tiktoken: Encoding | None = None


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    folder = tmp_path_factory.mktemp("plain")
    learned().save(folder / VOCABULARY_FILE)
    hf.save_folder(hf.to_tokenizers(learned()), SLOTS, folder / "hf")
    save_tiktoken(learned(), SPECIALS, folder / "tiktoken")
    return Readers(
        Encoder.load(folder, threads=1),
        AutoTokenizer.from_pretrained(str(folder / "hf")),
        Tokenizer.from_file(str(folder / "hf" / "tokenizer.json")),
        load_tiktoken(folder / "tiktoken"),
    )


@pytest.fixture(scope="module")
def scaffolds(tmp_path_factory: pytest.TempPathFactory) -> Readers:
    folder = tmp_path_factory.mktemp("scaffolds")
    scaffolded().save(folder / VOCABULARY_FILE)
    scaffold.save_folder(scaffolded(), SLOTS, folder / "hf")
    return Readers(
        Encoder.load(folder, threads=1),
        load(folder / "hf"),
        Tokenizer.from_file(str(folder / "hf" / "tokenizer.json")),
    )


@pytest.fixture(scope="module", params=["plain", "scaffolds"])
def readers(request: pytest.FixtureRequest) -> Readers:
    return request.getfixturevalue(request.param)


@EXAMPLES
@given(text=markup_text)
def test_ordinary_text_has_one_encoding(plain: Readers, text: str) -> None:
    ids = plain.ours.encode(text).tolist()
    assert encode_text(plain.transformers, [text]) == [ids]
    assert plain.tiktoken.encode(text, allowed_special=set(MARKUP), disallowed_special=()) == ids


@settings(max_examples=100, deadline=None)
@given(text=markup_text)
def test_scaffolds_are_taken_apart_alike(scaffolds: Readers, text: str) -> None:
    assert encode_text(scaffolds.transformers, [text]) == [scaffolds.ours.encode(text).tolist()]


@EXAMPLES
@given(text=any_text)
def test_special_tokens_have_one_encoding(plain: Readers, text: str) -> None:
    ids = plain.tokenizers.encode(text).ids
    assert plain.transformers(text).input_ids == ids
    assert plain.tiktoken.encode(text, allowed_special="all") == ids


def test_real_text_has_one_encoding(plain: Readers) -> None:
    for text in texts():
        ids = plain.ours.encode(text).tolist()
        assert plain.tokenizers.encode(text).ids == ids
        assert plain.tiktoken.encode_ordinary(text) == ids


@EXAMPLES
@given(text=any_text)
def test_every_text_comes_back(readers: Readers, text: str) -> None:
    ids = readers.ours.encode(text)
    assert readers.transformers.decode(readers.transformers(text).input_ids) == text
    assert not {readers.transformers.convert_tokens_to_ids(token) for token in CONTROL} & set(ids.tolist())
    assert readers.ours.decode(ids) == text.encode()
    assert readers.transformers.decode(ids.tolist()) == text


@EXAMPLES
@given(
    data=st.binary(max_size=80)
    | st.builds(lambda part, times: part * times, st.binary(max_size=4), st.integers(1, 80))
)
def test_all_bytes_come_back(plain: Readers, data: bytes) -> None:
    """Also those no text has: a pre-token of any bytes is merged, and is its tokens' bytes."""
    raw, ends = np.frombuffer(data, np.uint8), np.array([0, len(data)])
    ranks, _ = encode_words(TABLES, raw, ends)
    assert plain.ours.decode(ranks) == data
    assert plain.tiktoken.decode_bytes(ranks.tolist()) == data
    assert ranks.tolist() == (plain.tiktoken._encode_single_piece(data) if data else [])


def test_readers_keep_the_same_bytes(readers: Readers) -> None:
    assert token_bytes(readers.transformers) == readers.ours.token_bytes
    assert token_bytes(readers.tokenizers)[: len(readers.ours)] == readers.ours.token_bytes


@EXAMPLES
@given(ids=st.lists(st.integers(0, len(learned()) + SLOTS - 1), max_size=40))
def test_all_ids_stand_for_the_same_bytes(plain: Readers, ids: list[int]) -> None:
    raw = plain.ours.decode(ids)
    assert plain.transformers.decode(ids, skip_special_tokens=True) == raw.decode(errors="replace")
    spelled = plain.transformers.decode(ids).encode()
    assert plain.tiktoken.decode_bytes(ids).decode(errors="replace").encode() == spelled


@EXAMPLES
@given(before=plain_text, token=st.sampled_from(NAMED), after=plain_text)
def test_text_beside_a_special_token_is_encoded_as_if_alone(
    plain: Readers, before: str, token: str, after: str
) -> None:
    """So conversations may be encoded in pieces, and a prefix stays a prefix whatever the model writes."""
    whole = before + token + after
    index = plain.transformers.convert_tokens_to_ids(token)
    apart = [*plain.ours.encode(before).tolist(), index, *plain.ours.encode(after).tolist()]
    assert plain.transformers(whole).input_ids == apart
    assert plain.tiktoken.encode(whole, allowed_special="all") == apart
    if token in MARKUP:
        assert plain.ours.encode(whole).tolist() == apart
        assert encode_text(plain.transformers, [whole]) == [apart]
