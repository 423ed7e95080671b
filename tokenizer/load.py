"""Reading a trained tokenizer, and the exact bytes behind its ids."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from stemma.core.errors import DamagedError
from tokenizer.errors import TextError

_SETTING = threading.Lock()  # one thread's restoring must not change what another is encoding

if TYPE_CHECKING:  # importing transformers takes over a second: only load() has to
    from transformers import PreTrainedTokenizerFast


def load(folder: Path | str) -> "PreTrainedTokenizerFast":
    """Load the Hugging Face folder a ``TokenizerStage`` wrote (``<artifact>/hf``), offline.

    Code in the folder (of vocabularies with scaffolds) is not run: the project's own of the same name is.

    Raises:
        DamagedError: it is not there or not readable.
    """
    from transformers import PreTrainedTokenizerFast

    from tokenizer.export.tokenization_scaffold import SCAFFOLD_FILE, ScaffoldTokenizerFast

    path = Path(folder)
    if not (path / "tokenizer.json").is_file():
        raise DamagedError(f"{path} has no tokenizer.json; expected the hf/ folder of a tokenizer artifact")
    reader = ScaffoldTokenizerFast if (path / SCAFFOLD_FILE).is_file() else PreTrainedTokenizerFast
    try:
        return reader.from_pretrained(str(path), local_files_only=True)
    except Exception as error:
        raise DamagedError(f"{path} is not a readable tokenizer ({error}). It was left as it is.") from error


def encode_text(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[list[int]]:
    """Encode documents: no token added, and control tokens that occur in the text taken as ordinary text.

    So a source file that mentions ``<|end_of_text|>`` cannot end a document, and
    ``b"".join(token_bytes[i] for i in ids) == text.encode()`` holds for every text.

    Raises:
        TextError: a text holds a lone surrogate, which no UTF-8 can express.
    """
    encodings = encode_plain(tokenizer, texts)
    return [encoding.ids for encoding in encodings]


def encode_plain(tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]) -> list[Any]:
    """``encode_text`` with offsets: one ``tokenizers.Encoding`` per text."""
    for text in texts:
        check_text(text)
    backend = tokenizer.backend_tokenizer
    with _SETTING:
        before = backend.encode_special_tokens
        backend.encode_special_tokens = True
        try:
            return list(backend.encode_batch(list(texts), add_special_tokens=False))
        finally:
            backend.encode_special_tokens = before


def check_text(text: str) -> None:
    """Refuse what is not Unicode text.

    Raises:
        TextError: names the position of a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"character {error.start} of a text of {len(text)} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}; decode the source with errors='replace'"
        ) from error


def token_bytes(tokenizer: "PreTrainedTokenizerFast | Tokenizer") -> list[bytes]:
    """The exact bytes each id stands for, ``[vocab_size]``; what bits per byte divide by.

    Control and reserved tokens stand for no text and give ``b""``; markup (``<think>``) gives its UTF-8.
    """
    backend = tokenizer if isinstance(tokenizer, Tokenizer) else tokenizer.backend_tokenizer
    vocabulary = backend.get_vocab(with_added_tokens=False)
    added = backend.get_added_tokens_decoder()
    result = [b""] * backend.get_vocab_size()
    byte_fallback = getattr(backend.model, "byte_fallback", False)
    characters = {character: byte for byte, character in enumerate(byte_characters())}
    for token, index in vocabulary.items():
        if not byte_fallback:
            result[index] = bytes(characters[character] for character in token)
        elif index <= 256:  # SentencePiece: <unk> first, then <0x00> to <0xFF>
            result[index] = bytes([index - 1]) if index else b""
        else:
            result[index] = token.encode()
    for index, entry in added.items():
        result[index] = b"" if entry.special else entry.content.encode()
    return result


def byte_characters() -> list[str]:
    """GPT-2's mapping: printable bytes stand for themselves, the other 68 for U+0100 and up."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
