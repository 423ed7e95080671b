"""Tokenizers under one roof: whatever made them, the report can encode and knows the bytes of each entry."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import regex
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from tokenizer.load import byte_characters, check_text
from tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    import tiktoken

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class NamedEncoder:
    """A tokenizer to measure. Special tokens that occur in a text are ordinary text to it.

    Attributes:
        name: key of its figures, such as ``llama3_1``.
        title: what people call it, such as ``Llama-3.1``.
        entries: size of its vocabulary, special tokens included.
        token_bytes: what each id stands for, ``[ids]``; ``b""`` for special tokens.
        encode: texts to ids, ``[texts]`` of ``[tokens]`` int32.
        rule: says how it cuts text before it looks for entries; the same string, the same cuts. "" if it
            does not cut.
        pre_tokens: texts to how many pieces that rule makes of each, ``[texts]``; no vocabulary behind the
            rule, however large, can give fewer tokens.
    """

    name: str
    title: str
    entries: int
    token_bytes: Sequence[bytes]
    encode: Callable[[Sequence[str]], Sequence[Ids]]
    rule: str = ""
    pre_tokens: Callable[[Sequence[str]], NDArray[np.int64]] | None = None
    sizes: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", np.array([len(entry) for entry in self.token_bytes], np.int64))


def from_vocabulary(name: str, title: str, vocabulary: Vocabulary, specials: int) -> NamedEncoder:
    """A vocabulary of ours behind the cascade, with room for so many special tokens."""
    from tokenizer.encoding.encoder import Encoder  # these two import Numba
    from tokenizer.splitting.scan import split

    encoder = Encoder(vocabulary)

    def pre_tokens(texts: Sequence[str]) -> NDArray[np.int64]:
        return np.array([len(split(np.frombuffer(text.encode(), np.uint8))) for text in texts], np.int64)

    entries = len(vocabulary) + specials
    return NamedEncoder(
        name, title, entries, vocabulary.token_bytes, encoder.encode_batch, "cascade", pre_tokens
    )


def from_tokenizers(name: str, title: str, tokenizer: Tokenizer) -> NamedEncoder:
    """A ``tokenizers.Tokenizer``, byte-level or with byte fallback; added tokens are taken out of it.

    What a text becomes through its normalizer, if it has one, is what is measured.
    """
    entries = tokenizer.get_vocab_size(with_added_tokens=True)
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    settings = json.loads(tokenizer.to_str())
    settings.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    plain = Tokenizer.from_str(json.dumps(settings))

    def encode(texts: Sequence[str]) -> list[Ids]:
        for text in texts:
            check_text(text)
        encodings = plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    rule, counter = "", None
    if settings["pre_tokenizer"]:
        rule = json.dumps([settings["normalizer"], settings["pre_tokenizer"]], sort_keys=True)
        counter = _pre_token_counter(settings)
    return NamedEncoder(name, title, entries, _token_bytes(plain, added), encode, rule, counter)


def from_tiktoken(name: str, title: str, encoding: "tiktoken.Encoding", pattern: str) -> NamedEncoder:
    """A ``tiktoken.Encoding``; ``pattern`` is the regular expression it was made with."""
    compiled = regex.compile(pattern)
    token_bytes = [b""] * encoding.n_vocab
    for entry in encoding.token_byte_values():
        token_bytes[encoding.encode_single_token(entry)] = entry

    def encode(texts: Sequence[str]) -> list[Ids]:
        for text in texts:
            check_text(text)
        batch = encoding.encode_ordinary_batch(list(texts), num_threads=len(os.sched_getaffinity(0)))
        return [np.array(ids, np.int32) for ids in batch]

    def pre_tokens(texts: Sequence[str]) -> NDArray[np.int64]:
        return np.array([sum(1 for _ in compiled.finditer(text)) for text in texts], np.int64)

    return NamedEncoder(name, title, encoding.n_vocab, token_bytes, encode, pattern, pre_tokens)


def _pre_token_counter(settings: dict[str, object]) -> Callable[[Sequence[str]], NDArray[np.int64]]:
    """Counts pre-tokens in Rust: behind the same cuts, a vocabulary in which every word is one token."""
    words = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    made = json.loads(words.to_str())
    made.update(normalizer=settings["normalizer"], pre_tokenizer=settings["pre_tokenizer"])
    counter = Tokenizer.from_str(json.dumps(made))

    def count(texts: Sequence[str]) -> NDArray[np.int64]:
        encodings = counter.encode_batch_fast(list(texts), add_special_tokens=False)
        return np.array([len(encoding) for encoding in encodings], np.int64)

    return count


def _token_bytes(tokenizer: Tokenizer, added: set[str]) -> list[bytes]:
    """Bytes by id of the model's own entries; ``b""`` for those that were added tokens too."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    result = [b""] * (max(vocabulary.values()) + 1)
    fallback = bool(getattr(tokenizer.model, "byte_fallback", False))
    characters = {character: byte for byte, character in enumerate(byte_characters())}
    for token, index in vocabulary.items():
        if token in added or (fallback and token == "<unk>"):
            continue
        if not fallback:
            result[index] = bytes(characters[character] for character in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            result[index] = bytes([int(token[3:5], 16)])
        else:
            result[index] = token.encode()
    return result
