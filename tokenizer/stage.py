"""The tokenizer stage: text and conversations in, a Hugging Face tokenizer and a compression report out."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from stemma.core.errors import DamagedError
from stemma.core.files import write_json
from stemma.core.stage import Stage, Workspace
from tokenizer.bpe import train_bpe
from tokenizer.chat import render
from tokenizer.config import TokenizerConfig
from tokenizer.export.hf import save_folder
from tokenizer.learning.sample import choose, read_documents
from tokenizer.learning.sentencepiece_backend import train_sentencepiece
from tokenizer.load import encode_text, load, token_bytes
from tokenizer.specials import BEGIN_OF_TEXT, END_OF_TEXT

BACKENDS = {"bpe": train_bpe, "sentencepiece": train_sentencepiece}
ROLES = ("corpus", "trajectories")  # in the order they are read


class TokenizerStage(Stage):
    """Learns the vocabulary from a sample of the documents of its inputs.

    Inputs: ``corpus``, and optionally ``trajectories``, whose conversations it takes as the chat template
    renders them.
    """

    kind: ClassVar[str] = "tokenizer"
    recipe: ClassVar[int] = 2

    def run(self, work: Workspace) -> dict[str, Any]:
        config = cast(TokenizerConfig, self.config)
        folders = [self.inputs[role].path for role in ROLES if role in self.inputs]
        os.environ.setdefault("RAYON_NUM_THREADS", str(work.execution.workers))
        sample = choose(folders, config)
        sampled = sum(sample.sampled_bytes.values())
        work.progress.say(
            f"learning {config.learned_size} entries ({config.backend}) from {sampled / 1e6:.1f} MB"
        )

        def texts() -> Iterator[str]:
            done = 0
            for document in read_documents(folders, "train"):
                if document.id in sample.ids:
                    for piece in document.pieces():
                        yield piece
                        done += len(piece.encode())
                    work.progress.step(done, sampled, "bytes", "reading")

        save(BACKENDS[config.backend](config, texts()), config, work.path / "hf")
        report: dict[str, Any] = {
            "backend": config.backend,
            "vocab_size": config.vocab_size,
            "sampled_bytes": sample.sampled_bytes,
            "available_bytes": sample.available_bytes,
            "compression": compression(load(work.path / "hf"), folders),
        }
        write_json(work.path / "report.json", report)
        return {
            "backend": config.backend,
            "vocab_size": config.vocab_size,
            "sampled_bytes": sampled,
            "bytes_per_token": {name: row["bytes_per_token"] for name, row in report["compression"].items()},
        }

    def verify(self, work: Workspace) -> None:
        """The saved folder must have the ids the config promises."""
        config = cast(TokenizerConfig, self.config)
        tokenizer = load(work.path / "hf")
        begin, end = tokenizer.convert_tokens_to_ids([BEGIN_OF_TEXT, END_OF_TEXT])
        expected = (config.vocab_size, config.learned_size, config.learned_size + 1)
        if (len(tokenizer), begin, end) != expected:
            raise DamagedError(
                f"{work.path / 'hf'}: size and ids are {(len(tokenizer), begin, end)}, not {expected}"
            )


def save(trained: Tokenizer, config: TokenizerConfig, folder: Path) -> None:
    """Write the folder that ``AutoTokenizer`` loads."""
    save_folder(trained, config.special_slots, folder)


def compression(tokenizer: PreTrainedTokenizerFast, folders: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Bytes per token on validation documents: ``{domain: {documents, bytes, tokens, bytes_per_token}}``.

    A conversation counts as rendered: all its tokens, and the bytes they stand for (none for turn marks).
    """
    sizes = [len(text) for text in token_bytes(tokenizer)]
    totals: dict[str, dict[str, float]] = {}
    for document in read_documents(folders, "valid"):
        if document.messages:
            ids = document.conversation(partial(render, tokenizer)).ids
        else:
            ids = encode_text(tokenizer, [document.text])[0]
        total = totals.setdefault(document.domain, {"documents": 0, "bytes": 0, "tokens": 0})
        total["documents"] += 1
        total["bytes"] += sum(sizes[index] for index in ids)
        total["tokens"] += len(ids)
    for total in totals.values():
        total["bytes_per_token"] = round(total["bytes"] / max(total["tokens"], 1), 4)
    return dict(sorted(totals.items()))
