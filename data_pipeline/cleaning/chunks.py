"""spaCy's words of one whitespace-free chunk, found without spaCy's search through every pattern.

datatrove's filters spend their time in spaCy's tokenizer, which tries some 200 alternatives at every
position of every chunk. An alternative that ends in ``)`` cannot be the suffix of a chunk that ends in
``s``: here each chunk meets only the alternatives that its first and last character, and the characters in
it, leave possible. The algorithm is spaCy's (``spacy/tokenizer.pyx``: ``_split_affixes``,
``_attach_tokens``), and so are the words; where a language brings code of its own, spaCy itself is asked.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as sre_parser  # type: ignore[attr-defined]
from typing import Any

from data_pipeline.cleaning import spacy_alone  # noqa: F401 (before spaCy)

# isort: split
import spacy.util
from spacy.attrs import ORTH
from spacy.lang.tokenizer_exceptions import URL_MATCH
from spacy.language import Language
from spacy.tokenizer import Tokenizer

UNBOUNDED = 1_000  # characters; longer suffixes are searched from the chunk's beginning


def edge(items: Iterable[tuple[Any, Any]], last: bool) -> set[str] | None:
    """The characters with which a match of a parsed pattern can begin (or end); None: any, or no match."""
    for operation, argument in reversed(list(items)) if last else items:
        if operation in (sre.ASSERT, sre.ASSERT_NOT, sre.AT):
            continue  # these have no width
        if operation is sre.LITERAL:
            return {chr(argument)}
        if operation is sre.IN:
            members: set[str] = set()
            for kind, value in argument:
                if kind is sre.LITERAL:
                    members.add(chr(value))
                elif kind is sre.RANGE:
                    members.update(map(chr, range(value[0], value[1] + 1)))
                else:
                    return None
            return members
        if operation is sre.SUBPATTERN:
            return edge(argument[-1], last)
        if operation is sre.BRANCH:
            branches = [edge(branch, last) for branch in argument[1]]
            return None if None in branches else set().union(*branches)  # type: ignore[arg-type]
        if operation is sre.MAX_REPEAT and argument[0] > 0:
            return edge(argument[2], last)
        return None
    return None


class Alternatives:
    """The alternatives of a pattern, and which of them a character leaves possible."""

    def __init__(self, pieces: Sequence[str], form: str, last: bool) -> None:
        self.pieces = [form.format(piece) for piece in pieces if piece.strip()]
        self.edges = [edge(sre_parser.parse(piece), last) for piece in self.pieces]
        widths = [sre_parser.parse(piece).getwidth()[1] for piece in self.pieces]
        self.widths = [min(int(width), UNBOUNDED) for width in widths]
        self.anything = any(characters is None for characters in self.edges)
        self.characters = frozenset().union(*(characters or () for characters in self.edges))
        self._masks: dict[str, int] = {}  # character -> the alternatives it leaves possible, as bits
        self._compiled: dict[int, tuple[re.Pattern[str], int] | None] = {0: None}
        self.possible = lru_cache(10_000)(self._possible)

    def mask(self, character: str) -> int:
        if character not in self._masks:
            self._masks[character] = sum(
                1 << number for number, edges in enumerate(self.edges) if edges is None or character in edges
            )
        return self._masks[character]

    def _possible(self, characters: str | frozenset[str]) -> tuple[re.Pattern[str], int] | None:
        """A pattern of the alternatives that one of the characters can begin or end, and its width."""
        mask = 0
        for character in characters:
            mask |= self.mask(character)
        if mask not in self._compiled:
            chosen = [number for number in range(len(self.pieces)) if mask >> number & 1]
            pattern = re.compile("|".join(self.pieces[number] for number in chosen))
            self._compiled[mask] = pattern, max(self.widths[number] for number in chosen)
        return self._compiled[mask]


class Chunks:
    """Words of chunks as ``nlp`` splits them, and where they depend on a neighbouring chunk.

    spaCy splits at whitespace and looks at each chunk alone, with one exception: its last pass looks for
    special cases (emoticons, ``a.m.``) in the sequence of words, so that a longer one that crosses a single
    space keeps it from finding a shorter one on one side of it. Only a chunk with a special case in it
    (``special``), beside a chunk that could go on with it (``touching``), is ever in doubt.
    """

    def __init__(self, nlp: Language) -> None:
        self.spacy = nlp.tokenizer
        self.nlp = nlp
        self.rules: dict[str, tuple[str, ...]] = {
            text: tuple(spec[ORTH] for spec in specs) for text, specs in self.spacy.rules.items()
        }
        defaults = nlp.Defaults
        prefixes, suffixes, infixes = (
            list(getattr(defaults, name) or ()) for name in ("prefixes", "suffixes", "infixes")
        )
        self.known = (
            type(self.spacy) is Tokenizer
            and self.spacy.token_match is None
            and self.spacy.url_match == URL_MATCH
            and bool(self.spacy.faster_heuristics)
            and same(self.spacy.prefix_search, prefixes, spacy.util.compile_prefix_regex)
            and same(self.spacy.suffix_search, suffixes, spacy.util.compile_suffix_regex)
            and same(self.spacy.infix_finditer, infixes, spacy.util.compile_infix_regex)
        )
        self.patterns: dict[str, list[tuple[str, ...]]] = {}
        if not self.known:
            return
        self.prefixes = Alternatives(prefixes, "^{}", last=False)
        self.suffixes = Alternatives(suffixes, "{}$", last=True)
        self.infixes = Alternatives(infixes, "{}", last=False)
        self.pairs: dict[tuple[str, str], set[tuple[str, str]]] = {}
        for text in self.rules:
            if self.prefix(text) or self.suffix(text) or self.infix(text) or " " in text:
                pattern = tuple(self.affixes(text, {}))
                self.patterns.setdefault(pattern[0], []).append(pattern)
                for left, right in pairwise(pattern):
                    self.pairs.setdefault((left[-1], right[0]), set()).add((left, right))

    def split(self, run: str) -> tuple[list[str], bool]:
        """The words of a chunk, or of chunks with single spaces between that have to be seen together.

        Returns:
            The words, and whether spaCy's last pass finds a special case among them.
        """
        words: list[str] = []
        borders: list[int] = []  # first word of each chunk but the first
        for chunk in run.split(" "):
            if words:
                borders.append(len(words))
            words += self.affixes(chunk, self.rules)
        matches = [
            (start, start + len(pattern))
            for start, word in enumerate(words)
            if word in self.patterns
            for pattern in self.patterns[word]
            if tuple(words[start : start + len(pattern)]) == pattern
        ]
        return (self.merge(words, matches, borders), True) if matches else (words, False)

    def merge(self, words: Sequence[str], matches: list[tuple[int, int]], borders: list[int]) -> list[str]:
        """Replace words that make up special cases: the longest first, then the first.

        What crosses a border is no special case, but still stands in the way of those it overlaps.
        """
        seen: set[int] = set()
        chosen: dict[int, int] = {}
        for start, end in sorted(matches, key=lambda match: (match[0] - match[1], match[0])):
            whole = bisect_right(borders, start) == bisect_left(borders, end)
            if whole and start not in seen and end - 1 not in seen:
                chosen[start] = end
            seen.update(range(start, end))
        merged: list[str] = []
        at = 0
        while at < len(words):
            end = chosen.get(at, at + 1)
            merged += self.rules["".join(words[at:end])] if at in chosen else words[at:end]
            at = end
        return merged

    def touching(self, left: str, right: str) -> bool:
        """Whether a special case could begin in a chunk and go on in the next."""
        return any(
            left.endswith(end) and right.startswith(start)
            for end, start in self.pairs.get((left[-1], right[0]), ())
        )

    def affixes(self, text: str, rules: dict[str, tuple[str, ...]]) -> list[str]:
        """Words after prefixes, suffixes and infixes are split off, before the last pass."""
        before: list[str] = []
        after: list[str] = []
        size = 0
        while text and len(text) != size:
            if text in rules:
                break
            size = len(text)
            prefix = self.prefix(text)
            if prefix and text[prefix:] in rules:
                before.append(text[:prefix])
                text = text[prefix:]
                break
            suffix = self.suffix(text[prefix:] if prefix else text)
            if suffix and text[:-suffix] in rules:
                after.append(text[-suffix:])
                text = text[:-suffix]
                break
            if prefix:
                before.append(text[:prefix])
            if suffix:
                after.append(text[-suffix:])
            text = text[prefix : len(text) - suffix]
        if text in rules:
            before += rules[text]
        elif text:
            self.attach(text, before)
        after.reverse()
        return before + after

    def attach(self, text: str, words: list[str]) -> None:
        """Append a chunk without affixes: whole if it is a URL, else split at infixes."""
        if "." in text and URL_MATCH(text):  # a URL has a host, and a host has a dot
            words.append(text)
            return
        start = 0
        for left, right in self.infix(text):
            if left == 0:
                continue  # spaCy leaves an infix at the beginning with what follows
            if left != start:
                words.append(text[start:left])
            if left != right:
                words.append(text[left:right])
            start = right
        if start < len(text):
            words.append(text[start:])

    def prefix(self, text: str) -> int:
        """Length of the prefix to split off, or 0."""
        found = self.prefixes.possible(text[0])
        match = found and found[0].search(text)
        return match.end() - match.start() if match else 0

    def suffix(self, text: str) -> int:
        """Length of the suffix to split off, or 0."""
        if not text:
            return 0
        found = self.suffixes.possible(text[-1])
        if not found:
            return 0
        pattern, width = found
        match = pattern.search(text, 0 if width >= UNBOUNDED else max(0, len(text) - width))
        return match.end() - match.start() if match else 0

    def infix(self, text: str) -> list[tuple[int, int]]:
        """Spans of the infixes."""
        if self.infixes.anything:
            return [match.span() for match in self.spacy.infix_finditer(text)]
        found = self.infixes.possible(self.infixes.characters.intersection(text))
        return [match.span() for match in found[0].finditer(text)] if found else []


def same(search: Any, pieces: list[str], compiled: Callable[[list[str]], re.Pattern[str]]) -> bool:
    """Whether a tokenizer's pattern is the one that the language's pieces make."""
    pattern = getattr(search, "__self__", None)
    return bool(pieces) and pattern is not None and pattern == compiled(pieces)
