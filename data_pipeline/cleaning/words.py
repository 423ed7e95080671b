"""The words of texts as integers: spaCy's words, as datatrove's filters see them, at the speed of a dict.

spaCy splits at whitespace and looks at each chunk between alone (``Chunks`` tells of the one exception), so
a chunk needs to be split only once per process. Filters get a batch of texts as arrays of word numbers, and
what they ask of a word (its length, whether it has a letter) is computed once per word and kept beside it.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from datatrove.utils.text import PUNCTUATION_SET, split_into_sentences
from datatrove.utils.word_tokenizers import SpaCyTokenizer, WhitespaceTokenizer, load_word_tokenizer

from data_pipeline.cleaning import spacy_alone  # noqa: F401 (before spaCy)

# isort: split
from spacy.attrs import IS_PUNCT
from spacy.tokenizer import Tokenizer

from data_pipeline.cleaning.chunks import Chunks

Ints = npt.NDArray[np.int32]

MAX_CHUNKS = 500_000  # different chunks kept; about 200 MB
MAX_CHARACTERS = 32_000_000  # of these chunks
REMEMBERED = 8_000_000  # characters of texts whose words are kept for the filters after this one

CHUNK = re.compile(r"\S+")  # as ``str.split`` sees them
PLAIN, PERIOD, PUNCTUATION = range(3)  # what a word is to the sentence splitter


@dataclass(frozen=True, slots=True)
class Analysis:
    """What filters share about one text.

    Attributes:
        text: the text.
        words: numbers of its words; int32 [words].
        chunks: numbers of its whitespace-free chunks; int32 [chunks]. Empty where words were not found
            chunk by chunk.
        local: every chunk was split without looking at its neighbours, and ``chunks`` are all of them.
    """

    text: str
    words: Ints
    chunks: Ints
    local: bool


class Column:
    """A growing array."""

    def __init__(self, kind: type) -> None:
        self.data = np.zeros(1024, kind)
        self.size = 0

    def extend(self, values: Sequence[int]) -> None:
        size = self.size + len(values)
        if size > len(self.data):
            self.data = np.concatenate([self.data, np.zeros(size, self.data.dtype)])
        self.data[self.size : size] = values
        self.size = size


class Lexicon:
    """Words and chunks of one language met so far.

    Attributes:
        names: the words by number.
        length: characters of each word; int32.
        size: UTF-8 bytes of each word; int32.
        symbol: whether a word is all punctuation (Gopher's "symbol"); bool.
        alpha: whether a word has a letter; bool.
        ending: PLAIN, PERIOD (ends a sentence) or PUNCTUATION (goes with the sentence before it); int8.
        counts: words of each chunk; int32.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.tokenizer = load_word_tokenizer(language)
        spacy = self.tokenizer
        if (
            isinstance(spacy, WhitespaceTokenizer)
            and type(spacy).word_tokenize is WhitespaceTokenizer.word_tokenize
        ):
            spacy = spacy._spacy_xx
        self.splitter = None
        if isinstance(spacy, SpaCyTokenizer) and isinstance(spacy.tokenizer.tokenizer, Tokenizer):
            splitter = Chunks(spacy.tokenizer)
            self.splitter = splitter if splitter.known else None
        self.counts_sentences = self.splitter is not None and spacy is self.tokenizer
        self.is_punctuation = str.isspace
        self.periods: frozenset[str] = frozenset()
        if self.counts_sentences:
            self.is_punctuation = spacy.tokenizer.vocab.lex_attr_getters[IS_PUNCT]
            self.periods = frozenset(spacy.tokenizer.get_pipe("sentencizer").punct_chars)
        self.forget()

    def forget(self) -> None:
        """Start anew; numbers given out before mean nothing any more."""
        self.names: list[str] = []
        self._words: dict[str, int] = {}
        self._length, self._size, self._ending = Column(np.int32), Column(np.int32), Column(np.int8)
        self._symbol, self._alpha = Column(np.bool_), Column(np.bool_)
        self._chunks = ChunkNumbers(self)
        self._start, self._count, self._special = Column(np.int32), Column(np.int32), Column(np.bool_)
        self._flat = Column(np.int32)
        self._analyses: OrderedDict[str, Analysis] = OrderedDict()
        self._remembered = 0

    def analyse(self, texts: Sequence[str]) -> list[Analysis]:
        """Words of texts. The numbers in one answer, and the columns until the next call, belong together."""
        if len(self._chunks) > MAX_CHUNKS or self._chunks.characters > MAX_CHARACTERS:
            self.forget()
        found = []
        for text in texts:
            analysis = self._analyses.get(text)
            if analysis is None:
                analysis = self._analyse(text)
                self._remember(analysis)
            found.append(analysis)
        return found

    def derive(self, text: str, chunks: Ints, analysis: Analysis) -> None:
        """Remember a text whose chunks are known from another: lines of it, in order, one below the other."""
        words = analysis.words if len(chunks) == len(analysis.chunks) else self._expand(chunks)
        self._remember(Analysis(text, words, chunks, local=True))

    def find(self, word: str) -> int | None:
        """The number of a word, if it was met."""
        return self._words.get(word)

    def split_sentences(self, text: str) -> list[str]:
        """The sentences of a text, from datatrove."""
        return split_into_sentences(text, self.language)

    def sentences(self, text: str) -> int:
        """How many these are."""
        return len(self.split_sentences(text))

    def _remember(self, analysis: Analysis) -> None:
        if analysis.text in self._analyses:
            return
        self._analyses[analysis.text] = analysis
        self._remembered += len(analysis.text)
        while self._remembered > REMEMBERED and len(self._analyses) > 1:
            self._remembered -= len(self._analyses.popitem(last=False)[0])

    def _analyse(self, text: str) -> Analysis:
        if self.splitter is None or "IS_ALPHA" in text:  # a word that datatrove knows to break spaCy
            words = [self._number(word) for word in self.tokenizer.word_tokenize(text)]
            self._settle()
            return Analysis(text, np.array(words, np.int32), np.zeros(0, np.int32), local=False)
        pieces = text.split()
        chunks = np.fromiter(map(self._chunks.__getitem__, pieces), np.int32, len(pieces))
        self._settle()
        doubts = self._doubts(pieces, chunks)
        if doubts:
            pieces = self._join(text, pieces, doubts)
            chunks = np.fromiter(map(self._chunks.__getitem__, pieces), np.int32, len(pieces))
            self._settle()
        return Analysis(text, self._expand(chunks), chunks, local=not doubts)

    def _expand(self, chunks: Ints) -> Ints:
        """The words of chunks, in order."""
        counts = self.counts[chunks]
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        places = np.repeat(self._start.data[chunks] - ends + counts, counts) + np.arange(
            total, dtype=np.int32
        )
        return self._flat.data[places]

    def _doubts(self, pieces: list[str], chunks: Ints) -> list[int]:
        """Chunks with a special case in them that could be part of another with the chunk before or after."""
        assert self.splitter is not None
        touching = self.splitter.touching
        return [
            at
            for at in np.flatnonzero(self._special.data[chunks]).tolist()
            if (at and touching(pieces[at - 1], pieces[at]))
            or (at + 1 < len(pieces) and touching(pieces[at], pieces[at + 1]))
        ]

    def _join(self, text: str, pieces: list[str], doubts: list[int]) -> list[str]:
        """The chunks, those in doubt joined with what they touch, if a single space is all between them."""
        assert self.splitter is not None
        touching = self.splitter.touching
        spans = [match.span() for match in CHUNK.finditer(text)]
        joined: list[str] = []
        done = 0  # chunks that are in `joined`
        for doubt in doubts:
            if doubt < done:
                continue  # part of the last run
            first = last = doubt
            while first > done and touching(pieces[first - 1], pieces[first]):
                first -= 1
            while last + 1 < len(pieces) and touching(pieces[last], pieces[last + 1]):
                last += 1
            joined += pieces[done:first]
            begin = spans[first][0]
            for (_, end), (start, _) in pairwise(spans[first : last + 1]):
                if text[end:start] != " ":
                    joined.append(text[begin:end])
                    begin = start
            joined.append(text[begin : spans[last][1]])
            done = last + 1
        return joined + pieces[done:]

    def _number(self, word: str) -> int:
        number = self._words.get(word)
        if number is None:
            number = self._words[word] = len(self.names)
            self.names.append(word)
        return number

    def _settle(self) -> None:
        """Compute the columns of words and chunks that are new."""
        if self._chunks.pending:
            words = self._chunks.pending
            counts = [len(numbers) for numbers, _ in words]
            starts = np.cumsum([self._flat.size, *counts[:-1]])
            self._start.extend(starts)
            self._count.extend(counts)
            self._special.extend([special for _, special in words])
            self._flat.extend([number for numbers, _ in words for number in numbers])
            self._chunks.pending = []
        new = self.names[self._length.size :]
        if new:
            self._length.extend([len(word) for word in new])
            self._size.extend([len(word.encode("utf-8", "surrogatepass")) for word in new])
            self._symbol.extend([PUNCTUATION_SET.issuperset(word) for word in new])
            self._alpha.extend([any(map(str.isalpha, word)) for word in new])
            self._ending.extend([self._kind(word) for word in new])

    def _kind(self, word: str) -> int:
        if word in self.periods:
            return PERIOD
        return PUNCTUATION if self.is_punctuation(word) else PLAIN

    @property
    def length(self) -> Ints:
        return self._length.data

    @property
    def size(self) -> Ints:
        return self._size.data

    @property
    def symbol(self) -> npt.NDArray[np.bool_]:
        return self._symbol.data

    @property
    def alpha(self) -> npt.NDArray[np.bool_]:
        return self._alpha.data

    @property
    def ending(self) -> npt.NDArray[np.int8]:
        return self._ending.data

    @property
    def counts(self) -> Ints:
        return self._count.data


class ChunkNumbers(dict[str, int]):
    """Numbers of chunks; a new chunk is split when it is asked for."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self.characters = 0
        self.pending: list[tuple[list[int], bool]] = []  # words, and whether there is a special case in it

    def __missing__(self, chunk: str) -> int:
        splitter = self.lexicon.splitter
        assert splitter is not None
        words, special = splitter.split(chunk)
        self.pending.append(([self.lexicon._number(word) for word in words], special))
        self.characters += len(chunk)
        number = self[chunk] = len(self)
        return number


@lru_cache(4)
def lexicon(language: str) -> Lexicon:
    """The one lexicon of a language in this process.

    Raises:
        ValueError: datatrove has no word splitter for the language.
    """
    return Lexicon(language)
