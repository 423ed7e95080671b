"""Gopher's quality rules and FineWeb's: the decisions of datatrove's filters, on words split once."""

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.gopher_repetition_filter import find_duplicates
from datatrove.pipeline.writers.disk_base import DiskWriter
from datatrove.utils.text import TERMINAL_PUNCTUATION

from data_pipeline.cleaning.batches import BatchFilter, Stream, Verdict
from data_pipeline.cleaning.words import Lexicon
from data_pipeline.config import cleaning

BULLETS = ("•", "-")
ELLIPSES = ("...", "…")


class GopherQuality(BatchFilter):
    """Drops texts whose words and lines are not those of prose."""

    name = "🥇 Gopher quality"

    def __init__(
        self,
        language: str = "en",
        options: cleaning.GopherQuality | None = None,
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        super().__init__(language, exclusion_writer)
        self.options = options or cleaning.GopherQuality()

    def judge(self, documents: list[Document], words: Lexicon) -> list[Verdict | None]:
        stream = Stream.of(words.analyse([document.text for document in documents]))
        real = ~words.symbol[stream.words]
        numbers = zip(
            np.diff(stream.starts).tolist(),
            stream.total(real).tolist(),
            stream.total(words.length[stream.words] * real).tolist(),
            stream.total(words.alpha[stream.words]).tolist(),
            self.stop_words(stream, words).tolist(),
        )
        return [self.rule(document.text, *counts) for document, counts in zip(documents, numbers)]

    def stop_words(self, stream: Stream, words: Lexicon) -> np.ndarray:
        """How many different stop words each text has; int64 [texts]."""
        stops = [number for word in self.options.stop_words if (number := words.find(word)) is not None]
        which = np.full(len(words.names), -1, np.int16)
        which[stops] = np.arange(len(stops))
        found = which[stream.words]
        at = np.flatnonzero(found >= 0)
        seen = np.zeros((len(stream.starts) - 1, len(stops)), bool)
        seen[stream.text[at], found[at]] = True
        return seen.sum(axis=1)

    def rule(self, text: str, count: int, real: int, length: int, alpha: int, stops: int) -> Verdict | None:
        """The first rule a text breaks.

        Args:
            text: the text.
            count: its words.
            real: its words that are not all punctuation.
            length: characters of these.
            alpha: words with a letter.
            stops: different stop words.
        """
        options = self.options
        if options.min_doc_words and real < options.min_doc_words:
            return Verdict("gopher_short_doc", real)
        if options.max_doc_words and real > options.max_doc_words:
            return Verdict("gopher_long_doc", real)
        if not count:
            return Verdict("empty", 0)
        mean = length / real if real else 0.0
        if real and options.min_avg_word_length and mean < options.min_avg_word_length:
            return Verdict("gopher_below_avg_threshold", mean)
        if real and options.max_avg_word_length and mean > options.max_avg_word_length:
            return Verdict("gopher_above_avg_threshold", mean)
        if options.max_symbol_word_ratio:
            hashes, ellipses = text.count("#"), text.count("...") + text.count("…")
            if hashes / count > options.max_symbol_word_ratio:
                return Verdict("gopher_too_many_hashes", hashes / count)
            if ellipses / count > options.max_symbol_word_ratio:
                return Verdict("gopher_too_many_ellipsis", ellipses / count)
        return self.line_rule(text) or self.word_rule(alpha / count, stops)

    def line_rule(self, text: str) -> Verdict | None:
        bullets, ellipses = self.options.max_bullet_lines_ratio, self.options.max_ellipsis_lines_ratio
        lines = text.splitlines()
        if bullets and any(map(text.__contains__, BULLETS)):
            share = sum(line.lstrip().startswith(BULLETS) for line in lines) / len(lines)
            if share > bullets:
                return Verdict("gopher_too_many_bullets", share)
        if ellipses and any(map(text.__contains__, ELLIPSES)):
            share = sum(line.rstrip().endswith(ELLIPSES) for line in lines) / len(lines)
            if share > ellipses:
                return Verdict("gopher_too_many_end_ellipsis", share)
        return None

    def word_rule(self, alpha: float, stops: int) -> Verdict | None:
        if self.options.min_alpha_words_ratio and alpha < self.options.min_alpha_words_ratio:
            return Verdict("gopher_below_alpha_threshold", alpha)
        if self.options.min_stop_words and stops < self.options.min_stop_words:
            return Verdict("gopher_enough_stop_words", stops)
        return None


class FineWeb(BatchFilter):
    """Drops texts whose lines are those of lists, menus and repeated boilerplate."""

    name = "🍷 FineWeb quality"

    def __init__(
        self,
        language: str = "en",
        options: cleaning.FineWeb | None = None,
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        super().__init__(language, exclusion_writer)
        self.options = options or cleaning.FineWeb()

    def judge(self, documents: list[Document], words: Lexicon) -> list[Verdict | None]:
        verdicts = [self.line_rule(document.text) for document in documents]
        left = [number for number, verdict in enumerate(verdicts) if verdict is None]
        for number, analysis in zip(left, words.analyse([documents[number].text for number in left])):
            breaks = analysis.text.count("\n") / max(1, len(analysis.words))
            if breaks > self.options.new_line_ratio:
                verdicts[number] = Verdict("list_ratio", breaks)
        return verdicts

    def line_rule(self, text: str) -> Verdict | None:
        options = self.options
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return Verdict("empty", 0)
        ended = sum(line[-1] in TERMINAL_PUNCTUATION for line in lines) / len(lines)
        if ended < options.line_punct_thr and not (ended == 0 and options.line_punct_exclude_zero):
            return Verdict("line_punct_ratio", ended)
        short = sum(len(line) <= options.short_line_length for line in lines) / len(lines)
        if short > options.short_line_thr:
            return Verdict("short_line_ratio", short)
        if len(set(lines)) < len(lines):
            repeated = find_duplicates(lines)[1] / (len(text) - text.count("\n"))
            if repeated > options.char_duplicates_ratio:
                return Verdict("char_dup_ratio", repeated)
        return None
