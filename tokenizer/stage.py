"""The tokenizer stage: text and conversations in, a tokenizer in every common format and a report out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, cast

from stemma.core.errors import DamagedError
from stemma.core.files import write_atomic, write_json
from stemma.core.stage import Stage, Workspace
from tokenizer.config import TokenizerConfig
from tokenizer.errors import VocabularyError
from tokenizer.export import hf, scaffold
from tokenizer.export.tiktoken import save_tiktoken
from tokenizer.learning.base import read_ranks
from tokenizer.learning.combine import factors
from tokenizer.learning.counting import count_parts
from tokenizer.learning.hf_trainer import train_hf
from tokenizer.learning.sample import LAST_KEY, Part, document_files, key, read_file, survey
from tokenizer.learning.sentencepiece_backend import carry_over, train_model, with_specials
from tokenizer.learning.staged import Learned, learn
from tokenizer.load import load
from tokenizer.report.anchors import load_anchors
from tokenizer.report.encoders import NamedEncoder, from_tokenizers, from_vocabulary
from tokenizer.report.measure import measure
from tokenizer.report.texts import measured_texts
from tokenizer.report.write import REPORT
from tokenizer.specials import BEGIN_OF_TEXT, END_OF_TEXT, special_tokens
from tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

ROLES = ("corpus", "trajectories")  # in the order they are read
MODEL_FILE = "tokenizer.model"
TITLES = {"ours": "Ours", "hf_bpe": "Hugging Face BPE", "sentencepiece": "SentencePiece BPE"}


class TokenizerStage(Stage):
    """Learns the vocabulary from the documents of its inputs.

    Inputs: ``corpus``, and optionally ``trajectories``, whose conversations it takes as the chat template
    renders them.
    """

    kind: ClassVar[str] = "tokenizer"
    recipe: ClassVar[int] = 3

    def run(self, work: Workspace) -> dict[str, Any]:
        config = cast(TokenizerConfig, self.config)
        os.environ.setdefault("RAYON_NUM_THREADS", str(work.execution.workers))
        folders = [self.inputs[role].path for role in ROLES if role in self.inputs]
        parts = survey(folders, config)
        refuse_without_text(parts, config, folders)
        sampled = sum(part.sampled_bytes for part in parts)
        work.progress.say(
            f"learning {config.learned_size:,} entries ({config.backend}) from {sampled / 1e6:.1f} MB"
        )
        learned: Learned | None = None
        if config.backend == "bpe":
            learned = self._learn(config, parts, folders, work)
            ours = from_vocabulary("ours", TITLES["ours"], learned.vocabulary, config.special_slots)
        else:
            ours = self._sentencepiece(config, parts, folders, work.path)
        report = self._report(config, ours, learned, parts, folders, work)
        domains = {row["name"]: row for row in report["groups"] if row["group"] == "domain"}
        return {
            "backend": config.backend,
            "vocab_size": config.vocab_size,
            "sampled_bytes": sampled,
            "bytes_per_token": {name: row["by"]["ours"]["bytes_per_token"] for name, row in domains.items()},
        }

    def _learn(
        self, config: TokenizerConfig, parts: Sequence[Part], folders: Sequence[Path], work: Workspace
    ) -> Learned:
        """Count, merge in stages, prune, and write every format but SentencePiece's."""
        execution = work.execution
        base = read_ranks(config.base, work.cache, execution.offline) if config.base else Vocabulary()

        def step(done: int, total: int) -> None:
            work.progress.step(done, total, "bytes", "counting")

        counts, drafts = work.scratch / "counts", work.scratch / "stages"
        counts.mkdir(exist_ok=True)
        drafts.mkdir(exist_ok=True)
        counted = count_parts(
            folders, parts, counts, seed=config.seed, workers=execution.workers, progress=step
        )
        learned = learn(config, counted, base, drafts, work.progress)
        vocabulary = learned.vocabulary
        vocabulary.save(work.path / VOCABULARY_FILE)
        if config.scaffold:  # which tiktoken cannot express
            scaffold.save_folder(vocabulary, config.special_slots, work.path / "hf")
        else:
            hf.save_folder(hf.to_tokenizers(vocabulary), config.special_slots, work.path / "hf")
            save_tiktoken(vocabulary, special_tokens(config.special_slots), work.path / "tiktoken")
        return learned

    def _sentencepiece(
        self, config: TokenizerConfig, parts: Sequence[Part], folders: Sequence[Path], output: Path
    ) -> NamedEncoder:
        """The same through ``sentencepiece``; also writes its own ``.model``."""
        factor = factors({part: part.sampled_bytes for part in parts}, config.stages[0])
        shares = {part: min(1.0, float(value)) for part, value in factor.items()}
        model = train_model(config.learned_size, texts(folders, list(factor), config.seed, shares))
        (output / "sentencepiece").mkdir(exist_ok=True)
        write_atomic(
            output / "sentencepiece" / MODEL_FILE, with_specials(model, special_tokens(config.special_slots))
        )
        trained = carry_over(model)
        ours = from_tokenizers("ours", TITLES["ours"], trained)
        hf.save_folder(trained, config.special_slots, output / "hf")
        return ours

    def _report(
        self,
        config: TokenizerConfig,
        ours: NamedEncoder,
        learned: Learned | None,
        parts: Sequence[Part],
        folders: Sequence[Path],
        work: Workspace,
    ) -> dict[str, Any]:
        """Measure beside what else the same text gives, and beside published vocabularies."""
        rivals = {
            "hf_bpe": lambda: train_hf(config.learned_size, texts(folders, parts, config.seed)),
            "sentencepiece": lambda: carry_over(
                train_model(config.learned_size, texts(folders, parts, config.seed))
            ),
        }
        documents = measured_texts(folders, config.held_out)
        first = next((document for document in documents if any(document.pieces)), None)
        pruned = learned.pruned if learned else []
        report: dict[str, Any] = {"tokenizers": [], "groups": [], "missing": [], "pruned": pruned}
        if first is None:
            work.progress.say(
                "nothing to measure on: no validation documents, no source in tokenizer.held_out"
            )
        else:
            encoders = [ours]
            for name in config.compare:
                if name != config.backend:
                    work.progress.say(f"learning as many entries with {TITLES[name]}, to compare")
                    encoders.append(from_tokenizers(name, TITLES[name], rivals[name]()))
            anchors, missing = load_anchors(config.anchors, work.cache, work.execution.offline)
            report = measure(
                [*encoders, *anchors],
                chain([first], documents),
                vocabulary=learned.vocabulary if learned else None,
                missing=missing,
                pruned=pruned,
                seed=config.seed,
            )
        report |= {
            "backend": config.backend,
            "vocab_size": config.vocab_size,
            "learning": learned.stages if learned else [],
            "parts": [
                {
                    "source": part.source,
                    "domain": part.domain,
                    "language": part.language,
                    "documents": part.documents,
                    "available_bytes": part.available_bytes,
                    "sampled_bytes": part.sampled_bytes,
                }
                for part in parts
            ],
        }
        write_json(work.path / REPORT, report)
        return report

    def verify(self, work: Workspace) -> None:
        """The saved folder must have the ids the config promises."""
        config = cast(TokenizerConfig, self.config)
        tokenizer = load(work.path / "hf")
        begin, end = tokenizer.convert_tokens_to_ids([BEGIN_OF_TEXT, END_OF_TEXT])
        size = tokenizer.convert_tokens_to_ids(special_tokens(config.special_slots)[-1]) + 1
        expected = (config.vocab_size, config.learned_size, config.learned_size + 1)
        if (size, begin, end) != expected:
            raise DamagedError(f"{work.path / 'hf'}: size and ids are {(size, begin, end)}, not {expected}")


def texts(
    folders: Sequence[Path], parts: Sequence[Part], seed: int, shares: Mapping[Part, float] | None = None
) -> Iterator[str]:
    """The text of the chosen documents, cut at special tokens and without them.

    Args:
        folders: of the artifacts.
        parts: of ``survey``; others are left out.
        seed: of the survey.
        shares: how much of a part to take, from 0 to 1, for a trainer that cannot weigh what it counts: the
            first of its documents in the seeded order. Nothing is read twice.
    """
    for path in document_files(folders):
        source = path.parent.name
        mine = {(part.domain, part.language): part for part in parts if part.source == source}
        if not mine:
            continue
        for document in read_file(path, "train"):
            part = mine.get((document.domain, document.language))
            if part and part.has(source, document, seed):
                last = part.threshold or LAST_KEY
                share = shares[part] if shares else 1.0
                if int(key(document.id, seed), 16) <= share * int(last, 16):
                    yield from document.pieces()


def refuse_without_text(parts: Sequence[Part], config: TokenizerConfig, folders: Sequence[Path]) -> None:
    """Say so at once where there is nothing to learn from.

    Raises:
        VocabularyError: no part has a weight in any stage.
    """
    names = {name for stage in config.stages for name, weight in stage.weights.items() if weight}
    if not any({part.source, part.domain} & names for part in parts):
        found = sorted({part.domain for part in parts})
        raise VocabularyError(
            f"{' and '.join(map(str, folders))}: no training text to learn from: tokenizer.stages give "
            f"weight to {', '.join(sorted(names))}; the corpus has {', '.join(found) or 'no documents'}"
        )
