"""C4's rules: decisions and texts of datatrove's ``C4QualityFilter``, without splitting every line again.

A text needs five sentences, and every line that stays has at least one: only texts of fewer lines have their
sentences counted, from the words that the filters before this one have split already.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.filters.c4_filters import (
    CITATION_REGEX,
    ELLIPSIS,
    END_PUNCTUATION,
    POLICY_SUBSTRINGS,
)
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.cleaning.batches import BatchFilter, Verdict
from data_pipeline.cleaning.words import PERIOD, PLAIN, PUNCTUATION, Analysis, Ints, Lexicon
from data_pipeline.config import cleaning

LOREM, JAVASCRIPT = "lorem ipsum", "javascript"


@dataclass(frozen=True, slots=True)
class Line:
    """A line that stays.

    Attributes:
        text: the line as it is now.
        first: its first chunk in the text.
        last: the chunk behind its last.
        changed: a citation was removed from it.
    """

    text: str
    first: int
    last: int
    changed: bool


@dataclass(slots=True)
class Left:
    """What is left of a text: lines that stay, and how many were dropped for what."""

    lines: list[Line] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


class C4(BatchFilter):
    """Drops lines that are no sentences, and texts of which too little is left; rewrites the texts."""

    name = "⛰ C4 quality"

    def __init__(
        self,
        language: str = "en",
        options: cleaning.C4 | None = None,
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        super().__init__(language, exclusion_writer)
        self.options = options or cleaning.C4()
        self.anywhere = [LOREM] * self.options.filter_lorem_ipsum
        self.anywhere += [JAVASCRIPT] * self.options.filter_javascript
        self.anywhere += ["{"] * self.options.filter_curly_bracket
        self.anywhere += POLICY_SUBSTRINGS if self.options.filter_policy else []

    def judge(self, documents: list[Document], words: Lexicon) -> list[Verdict | None]:
        verdicts: list[Verdict | None] = []
        for document, analysis in zip(documents, words.analyse([document.text for document in documents])):
            left = self.lines(document.text, words)
            if isinstance(left, Verdict):
                verdicts.append(left)
                continue
            for reason, count in left.dropped.items():
                self.stat_update(f"line-filter-{reason}", value=count)
            self.stat_update("line-kept", value=len(left.lines))
            sentences = self.sentences(left.lines, analysis, words)
            if sentences < self.options.min_num_sentences:
                verdicts.append(Verdict("too_few_sentences", sentences))
                continue
            verdicts.append(None)
            self.rewrite(document, left.lines, analysis, words)
        return verdicts

    def lines(self, text: str, words: Lexicon) -> Left | Verdict:
        """The lines that stay, or the rule for which the text goes as a whole."""
        options = self.options
        low = text.lower()
        suspicious = any(map(low.__contains__, self.anywhere))
        cited = options.remove_citations and "[" in text
        left = Left()
        last = 0
        pieces_of_text = text.splitlines() if options.split_paragraph else words.split_sentences(text)
        for line in pieces_of_text:
            line = line.strip()
            pieces = line.split()
            first, last = last, last + len(pieces)
            if options.max_word_length != -1 and len(line) > options.max_word_length < max(map(len, pieces)):
                left.dropped["too_long_word"] += 1
                continue
            changed = False
            if cited and "[" in line:
                whole, line = line, CITATION_REGEX.sub("", line)
                changed = len(line) < len(whole)
            if options.filter_no_terminal_punct and (
                not line.endswith(END_PUNCTUATION) or line.endswith(ELLIPSIS)
            ):
                left.dropped["no_terminal_punc"] += 1
                continue
            if len(pieces) < options.min_words_per_line:
                left.dropped["too_few_words"] += 1
                continue
            if suspicious or changed:  # what is left of a line can spell what the text did not
                verdict = self.mentions(line, text, left)
                if isinstance(verdict, Verdict):
                    return verdict
                if verdict:
                    continue
            left.lines.append(Line(line, first, last, changed))
        return left

    def mentions(self, line: str, text: str, left: Left) -> Verdict | bool:
        """Whether a line goes for what it mentions, or the text with it."""
        options = self.options
        low = line.lower()
        if options.filter_lorem_ipsum and LOREM in low:
            return Verdict("lorem_ipsum", max(1, text.lower().count(LOREM)))
        if options.filter_javascript and JAVASCRIPT in low:
            left.dropped["javascript"] += 1
            return True
        if options.filter_curly_bracket and "{" in line:
            return Verdict("curly_bracket", text.count("{"))
        if options.filter_policy and any(phrase in low for phrase in POLICY_SUBSTRINGS):
            left.dropped["policy"] += 1
            return True
        return False

    def sentences(self, lines: list[Line], analysis: Analysis, words: Lexicon) -> int:
        """Sentences of the lines that stay; from ``min_num_sentences`` on, at least so many."""
        if len(lines) >= self.options.min_num_sentences or not self.options.split_paragraph:
            return len(lines)
        if not (analysis.local and words.counts_sentences):
            return sum(words.sentences(line.text) for line in lines)
        firsts = np.concatenate([[0], np.cumsum(words.counts[analysis.chunks])])  # word of each chunk
        return sum(
            words.sentences(line.text)
            if line.changed or line.first == line.last
            else self.sentences_of(line, analysis.words, firsts[line.first : line.last + 1], words)
            for line in lines
        )

    def sentences_of(self, line: Line, numbers: Ints, firsts: np.ndarray, words: Lexicon) -> int:
        """Sentences of an unchanged line, as spaCy's sentencizer counts them.

        A sentence begins with the first word after a period that is no punctuation. Whitespace of more than
        a space is a word to spaCy: where that could matter, it is asked.

        Args:
            line: the line.
            numbers: words of its text.
            firsts: the first word of each of its chunks, and the end of the last.
            words: what they are.
        """
        kinds = words.ending[numbers[firsts[0] : firsts[-1]]]
        telling = np.flatnonzero(kinds != PUNCTUATION)
        before = np.searchsorted(telling, firsts[1:-1] - firsts[0]) - 1  # last telling word before each chunk
        at = (firsts[1:-1] - firsts[0])[before >= 0]
        after_period = kinds[telling[before[before >= 0]]] == PERIOD
        if np.any(after_period & (kinds[at] != PLAIN)) and line.text != " ".join(line.text.split()):
            return words.sentences(line.text)
        told = kinds[telling]
        return 1 + int(np.count_nonzero((told[1:] == PLAIN) & (told[:-1] == PERIOD)))

    def rewrite(self, document: Document, lines: list[Line], analysis: Analysis, words: Lexicon) -> None:
        """Give a document the lines that stay; hand on what is known of their words."""
        if not self.options.split_paragraph:
            document.text = " ".join(line.text for line in lines).strip()
            return
        document.text = "\n".join(line.text for line in lines).strip()
        if not analysis.local or not lines or any(line.changed for line in lines):
            return
        chunks = analysis.chunks
        together = all(left.last == right.first for left, right in pairwise(lines))
        if together:
            chunks = chunks[lines[0].first : lines[-1].last]
        else:
            chunks = np.concatenate([chunks[line.first : line.last] for line in lines])
        words.derive(document.text, chunks, analysis)
