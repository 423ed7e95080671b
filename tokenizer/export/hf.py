"""A vocabulary for Hugging Face: a ``tokenizers.Tokenizer``, and the folder that ``AutoTokenizer`` loads.

``tokenizers`` merges pairs, where the canonical rule (``tokenizer.vocabulary``) joins whatever bytes make an
entry; ``tokenizer.merges`` says why one pair per entry makes both the same.
"""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from stemma.core.files import read_json, write_json
from tokenizer.chat import chat_template
from tokenizer.errors import VocabularyError
from tokenizer.load import byte_characters
from tokenizer.merges import pairs
from tokenizer.specials import BEGIN_OF_TEXT, END_OF_TEXT, MARKUP, special_tokens
from tokenizer.splitting.cascade import pre_tokenizer
from tokenizer.vocabulary import Vocabulary

MODEL_MAX_LENGTH = 131_072  # of the reference; a model's config says what it can really take


def to_tokenizers(vocabulary: Vocabulary) -> Tokenizer:
    """Byte-level BPE behind the cascade, ``ignore_merges`` as the reference; no special tokens yet.

    Raises:
        VocabularyError: the vocabulary has scaffolds, which ``tokenizers`` cannot take apart again.
    """
    if vocabulary.scaffolds.any():
        raise VocabularyError(
            f"{int(vocabulary.scaffolds.sum())} of {len(vocabulary.entries)} entries are scaffolds, which a "
            "plain tokenizers.Tokenizer would give out; use tokenizer.export.scaffold.save_folder"
        )
    return bpe(vocabulary, {name: index for index, name in enumerate(names(vocabulary))})


def bpe(vocabulary: Vocabulary, ids: Mapping[str, int]) -> Tokenizer:
    """The tokenizer of all entries, scaffolds like any other.

    Args:
        vocabulary: entries by rank.
        ids: id of every entry's name, and of special tokens where those are not to follow the entries.
    """
    name = names(vocabulary)
    merges = [(name[left], name[right]) for left, right in pairs(vocabulary).tolist() if left >= 0]
    tokenizer = Tokenizer(models.BPE(vocab=dict(ids), merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def names(vocabulary: Vocabulary) -> list[str]:
    """Entries as ``tokenizers`` writes them, a printable character per byte, ``[ranks]``."""
    characters = byte_characters()
    return ["".join(characters[byte] for byte in text) for text in vocabulary.texts]


def save_folder(trained: Tokenizer, special_slots: int, folder: Path) -> None:
    """Add the special tokens behind the learned entries and write the folder that ``AutoTokenizer`` loads."""
    trained.add_tokens(
        [
            AddedToken(token, special=token not in MARKUP, normalized=False)
            for token in special_tokens(special_slots)
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained,
        bos_token=BEGIN_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=MODEL_MAX_LENGTH,
        truncation_side="left",
    )
    tokenizer.chat_template = chat_template()
    # The template inside tokenizer_config.json, not beside it, is what every version of every reader finds.
    tokenizer.save_pretrained(str(folder), save_jinja_files=False)
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    roles = {"bos_token": BEGIN_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
    write_json(folder / "special_tokens_map.json", roles)
