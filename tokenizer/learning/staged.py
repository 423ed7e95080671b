"""Learning in stages, as the reference does: every stage reads its own text and keeps all earlier entries."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemma.core.errors import DamagedError
from stemma.core.progress import Progress
from tokenizer.config import BYTES, TokenizerConfig
from tokenizer.errors import VocabularyError
from tokenizer.learning.combine import combine
from tokenizer.learning.merging import extend
from tokenizer.learning.prune import Pruned, prune
from tokenizer.learning.sample import Part
from tokenizer.learning.wordfiles import summed
from tokenizer.learning.words import Words
from tokenizer.vocabulary import Vocabulary

MOST_ROUNDS = 20  # of pruning and learning on; each finds far less than the one before


@dataclass(frozen=True)
class Learned:
    """A vocabulary and what happened on the way.

    Attributes:
        vocabulary: ``config.learned_size`` entries with ids.
        pruned: what was taken out, ``tokenizer.learning.prune.Pruned.row`` each.
        stages: per stage its name, entries added, distinct words and bytes of text read, and the count of
            the last pair it merged.
    """

    vocabulary: Vocabulary
    pruned: list[dict[str, Any]]
    stages: list[dict[str, Any]]


def learn(
    config: TokenizerConfig,
    counted: Mapping[Part, Path],
    base: Vocabulary,
    drafts: Path,
    progress: Progress,
) -> Learned:
    """Extend ``base`` by every stage, take polluted entries out, and let the last stage fill their places.

    Args:
        config: stages, pruning, scaffolds and the size.
        counted: words of the training documents, of ``tokenizer.learning.counting.count_parts``.
        base: what to begin with.
        drafts: a folder that survives a crash; finished stages are kept in it and not repeated.
        progress: where to report to.

    Raises:
        DamagedError: a draft is not what this run kept.
        VocabularyError: ``base`` leaves no room, or a stage's text has too few pairs for its entries, or for
            the places of those taken out.
    """
    budgets = config.budgets()
    if (left := config.room - (len(base) - BYTES) - sum(budgets[:-1])) <= 0:
        raise VocabularyError(
            f"base brings {len(base) - BYTES:,} entries and the stages before {config.stages[-1].name!r} "
            f"take {sum(budgets[:-1]):,}: nothing of the {config.room:,} is left to it. Lower "
            "tokenizer.base.entries or the stages' entries, or raise tokenizer.vocab_size."
        )
    vocabulary = base
    rows: list[dict[str, Any]] = []
    for stage, budget in zip(config.stages, [*budgets[:-1], left], strict=True):
        words = combine(counted, stage)
        rows.append({"name": stage.name, "words": len(words), "bytes": words.text_bytes // words.scale})
        draft = drafts / f"{stage.name}.parquet"
        if draft.exists():
            vocabulary = _resumed(draft, vocabulary, budget)
            continue

        def step(added: int, budget: int, name: str = stage.name) -> None:
            progress.step(added, budget, "entries", name)

        vocabulary = extend(
            vocabulary,
            words,
            budget,
            stage=stage.name,
            min_frequency=stage.min_frequency,
            scaffold=config.scaffold,
            progress=step,
        )
        vocabulary.save(draft)
    vocabulary, pruned = _clean(vocabulary, words, summed(sorted(counted.values())), config, progress)
    for row in rows:
        own = [entry for entry in vocabulary.entries if entry.stage == row["name"]]
        row["entries"] = sum(not entry.scaffold for entry in own)
        row["scaffolds"] = sum(entry.scaffold for entry in own)
        row["last_count"] = own[-1].count if own else 0
    return Learned(vocabulary, [entry.row() for entry in pruned], rows)


def _resumed(draft: Path, before: Vocabulary, budget: int) -> Vocabulary:
    """What a stage learned in a run that was cut short."""
    remedy = "Remove it, and the stage is learned again."
    try:
        found = Vocabulary.load(draft)
    except DamagedError as error:
        raise DamagedError(f"{error} {remedy}") from error
    if found.texts[: len(before.entries)] != before.texts or len(found) != len(before) + budget:
        raise DamagedError(
            f"{draft} has {len(found):,} entries; expected the {len(before):,} of the stage before and "
            f"{budget:,} behind them. {remedy}"
        )
    return found


def _clean(
    vocabulary: Vocabulary, words: Words, everything: Words, config: TokenizerConfig, progress: Progress
) -> tuple[Vocabulary, list[Pruned]]:
    """Take polluted entries out and let the last stage, which read ``words``, learn as many others.

    Those may be polluted too, so this goes round until nothing is found; what was found is not learned again.
    """
    pruned: dict[bytes, Pruned] = {}
    last = config.stages[-1]
    for _ in range(MOST_ROUNDS):
        vocabulary, found = prune(vocabulary, everything, config.prune)
        pruned |= {entry.text: entry for entry in found}
        missing = config.learned_size - len(vocabulary)
        if not missing:
            return vocabulary, list(pruned.values())
        progress.say(f"pruning: stage {last.name!r} learns {missing:,} entries in place of those taken out")
        try:
            vocabulary = extend(
                vocabulary,
                words,
                missing,
                stage=last.name,
                min_frequency=last.min_frequency,
                scaffold=config.scaffold,
                barred=pruned,
            )
        except VocabularyError as error:
            raise VocabularyError(
                f"pruning took out {len(pruned):,} entries, and the last stage cannot fill their places: "
                f"{error} Or switch off a rule of tokenizer.prune."
            ) from error
    raise VocabularyError(
        f"after {MOST_ROUNDS} rounds of pruning the last stage still learns entries that are taken out "
        f"again, {len(found):,} in the last. Switch off a rule of tokenizer.prune."
    )
