"""A vocabulary for ``tiktoken``: its rank file, and what ``tiktoken.Encoding`` wants to know besides.

tiktoken's rule is the canonical one, so ranks are ids and nothing is converted. Without this project::

    with open("vocabulary.tiktoken", "rb") as lines:
        ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
    with open("encoding.json") as settings:
        encoding = tiktoken.Encoding(**json.load(settings), mergeable_ranks=ranks)

(``tiktoken.load.load_tiktoken_bpe`` would keep a copy under the file's *path*, and go on reading that one.)
"""

import base64
from collections.abc import Sequence
from pathlib import Path

import tiktoken

from stemma.core.errors import DamagedError
from stemma.core.files import read_json, write_atomic, write_json
from tokenizer.errors import VocabularyError
from tokenizer.splitting import cascade
from tokenizer.vocabulary import Vocabulary

RANKS_FILE = "vocabulary.tiktoken"
SETTINGS_FILE = "encoding.json"


def save_tiktoken(vocabulary: Vocabulary, specials: Sequence[str], folder: Path) -> None:
    """Write ``vocabulary.tiktoken`` (a line per entry: base64, rank) and ``encoding.json``.

    Args:
        vocabulary: learned entries.
        specials: special tokens in the order of their ids, which follow those of the entries.
        folder: where to; made if it is not there.

    Raises:
        VocabularyError: the vocabulary has scaffolds, which tiktoken would give out.
    """
    if vocabulary.scaffolds.any():
        raise VocabularyError(
            f"{int(vocabulary.scaffolds.sum())} of {len(vocabulary.entries)} entries are scaffolds, which "
            "tiktoken cannot take apart. Learn with tokenizer.scaffold: false to have its format"
        )
    lines = [f"{base64.b64encode(text).decode()} {rank}\n" for rank, text in enumerate(vocabulary.texts)]
    write_atomic(folder / RANKS_FILE, "".join(lines))
    first = len(vocabulary)
    settings = {
        "name": "stemma",
        "pat_str": cascade.PATTERN,
        "special_tokens": {token: first + index for index, token in enumerate(specials)},
        "explicit_n_vocab": first + len(specials),
    }
    write_json(folder / SETTINGS_FILE, settings)


def load_tiktoken(folder: Path | str) -> tiktoken.Encoding:
    """Read what ``save_tiktoken`` wrote.

    Raises:
        DamagedError: a file is absent or not readable, or the two do not fit; says which.
    """
    path = Path(folder)
    for name in (RANKS_FILE, SETTINGS_FILE):
        if not (path / name).is_file():
            raise DamagedError(f"{path} has no {name}; expected what save_tiktoken wrote")
    settings = read_json(path / SETTINGS_FILE)
    try:
        with open(path / RANKS_FILE, "rb") as lines:
            ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, lines)}
        return tiktoken.Encoding(**settings, mergeable_ranks=ranks)
    except (AssertionError, TypeError, ValueError) as error:
        reason = str(error) or "they do not have as many entries as promised"
        raise DamagedError(
            f"{path}: {RANKS_FILE} and {SETTINGS_FILE} are no tiktoken encoding ({reason}). "
            "They were left as they are."
        ) from error
