"""Learns vocabularies from the corpus and measures them on the sources held out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.vocabulary import corpus, wordlists
from benchmarks.vocabulary.recipes import config
from benchmarks.vocabulary.sources import Source, sources
from stemma.core.progress import Progress
from tokenizer.config import Anchor
from tokenizer.learning.base import read_ranks
from tokenizer.learning.counting import count_parts
from tokenizer.learning.sample import Part, survey
from tokenizer.learning.staged import learn
from tokenizer.learning.wordfiles import text_bytes
from tokenizer.report.anchors import load_anchors
from tokenizer.report.encoders import NamedEncoder, from_vocabulary
from tokenizer.report.measure import MeasuredText, measure
from tokenizer.vocabulary import Entry, Vocabulary

ANCHORS: tuple[Anchor, ...] = ("llama3_1", "o200k", "deepseek_v3", "qwen3")
RECUT = ("llama3_1", "o200k")
CASED = "spacy_lexemes"


def count(work: Path, cache: Path, workers: int) -> tuple[dict[Part, Path], dict[str, str]]:
    """Words of every source to learn from, and the sources that cannot be had, with the reason."""
    table = sources()
    missing = corpus.write([source for source in table if not source.is_words], work, cache, workers)
    held_out = [source.name for source in table if source.use != "learn"]
    held_out = [name for name in held_out if (work / "documents" / name).exists()]
    parts = survey([work], config("staged", held_out))
    counts = work / "counts"
    counts.mkdir(exist_ok=True)
    counted = count_parts([work], parts, counts, workers=workers)
    return {**counted, **_lists([source for source in table if source.is_words], work, cache)}, missing


def _lists(table: Sequence[Source], work: Path, cache: Path) -> dict[Part, Path]:
    """The word lists as files of counted words."""
    paths = {source: work / "words" / f"{source.name}.arrow" for source in table}
    if not all(path.exists() for path in paths.values()):
        cased = next(source for source in table if source.name == CASED)
        english = wordlists.read(cased.format, corpus.archive(cased, cache), cased.members[0])
        forms = wordlists.capitals(english)
        for source, path in paths.items():
            words = wordlists.read_all(source.format, corpus.archive(source, cache), source.members)
            leads = wordlists.BARE if source.language == "zh" else wordlists.LEADS
            cases = forms if source.language == "en" and source != cased else None
            wordlists.write(path, words, leads, cases)
    found = {}
    for source, path in paths.items():
        size = text_bytes(path)
        found[Part(source.name, source.domain, source.language, 1, size, size)] = path
    return found


def learned(name: str, counted: Mapping[Part, Path], work: Path, cache: Path) -> Vocabulary:
    """The vocabulary of a recipe; kept once it is learned."""
    path = work / "vocabularies" / f"{name}.parquet"
    if path.exists():
        return Vocabulary.load(path)
    recipe = config(name, [])
    base = read_ranks(recipe.base, cache) if recipe.base else Vocabulary()
    drafts = work / "drafts" / name
    drafts.mkdir(parents=True, exist_ok=True)
    found = learn(recipe, counted, base, drafts, Progress(name))
    path.parent.mkdir(exist_ok=True)
    found.vocabulary.save(path)
    (path.with_suffix(".json")).write_text(json.dumps({"stages": found.stages, "pruned": found.pruned}))
    return found.vocabulary


def texts(work: Path, use: str) -> Iterator[MeasuredText]:
    """Documents of the sources held out for a use."""
    for source in sources():
        path = corpus.documents(work, source)
        if source.use == use and path.exists():
            for row in pq.read_table(path).to_pylist():
                yield MeasuredText(
                    source.name, source.domain, source.language, (row["text"],), row["id"], True
                )


def report(vocabularies: Mapping[str, Vocabulary], use: str, work: Path, cache: Path) -> dict[str, Any]:
    """Figures of ``tokenizer.report.measure``; Llama-3.1 is the second, what the first has to beat.

    Llama-3.1 and o200k are there twice, the second time (``_cut``) behind our cuts.

    Args:
        vocabularies: by the names of their recipes.
        use: ``measure`` or ``test``: the sources measured on.
        work: folder of the texts.
        cache: of fetched archives.
    """
    anchors, missing = load_anchors(ANCHORS, cache)
    ours = [from_vocabulary(name, name, vocabulary, 256) for name, vocabulary in vocabularies.items()]
    recut = [behind_our_cuts(anchor) for anchor in anchors if anchor.name in RECUT]
    encoders: list[NamedEncoder] = [ours[0], *anchors[:1], *ours[1:], *anchors[1:], *recut]
    return measure(encoders, texts(work, use), missing=missing)


def behind_our_cuts(anchor: NamedEncoder) -> NamedEncoder:
    """A published vocabulary's entries behind our pre-tokenizer: what still differs is the entries'."""
    entries = [Entry(text, anchor.name) for text in anchor.token_bytes if len(text) > 1]
    return from_vocabulary(f"{anchor.name}_cut", anchor.title, Vocabulary().extended(entries), 256)
