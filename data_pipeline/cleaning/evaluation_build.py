"""Building the index of evaluation sets: which n-grams are looked for, and which are a sign of an item."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data_pipeline.cleaning import ngrams
from data_pipeline.cleaning.evaluation_index import EvaluationIndex, Item, Source
from data_pipeline.config.decontamination import DecontaminationConfig

SPECIFIC_WORDS = 3  # different words with a letter in an n-gram that is a sign by itself
BITS_PER_GRAM = 16  # of the filter before the search: about one n-gram in 16 passes it by chance


def build(items: Iterable[tuple[str, str, str]], config: DecontaminationConfig) -> EvaluationIndex:
    """Index the n-grams of evaluation items.

    Args:
        items: (source, item, text); the text is everything that must not be seen: question, answer, choices.
        config: of the n-grams.
    """
    everything = sorted({Item(*item) for item in items})
    pieces = [_NOTHING]
    for number, item in enumerate(everything):
        words = ngrams.split(item.text)
        n = min(config.n, len(words))
        if n < config.min_n:
            continue
        hashes = ngrams.word_hashes(words)
        # once per item is enough, and keeps `0, 0, 0, 0` here and there from meeting in all combinations
        grams, places = np.unique(ngrams.gram_hashes(hashes, n), return_index=True)
        # a short item is found by its first words, so that texts are hashed at two lengths and not at all
        sought = grams if n == config.n else ngrams.gram_hashes(hashes[: config.min_n], config.min_n)
        pieces.append(
            _Grams(
                sought,
                grams,
                np.full(len(grams), number, np.uint32),
                places.astype(np.uint32),
                np.full(len(grams), n, np.uint8),
                _specific(words, hashes, n)[places],
            )
        )
    table = _Grams(*(np.concatenate(columns) for columns in zip(*pieces)))
    own, templates = _templates(table, everything, config.template_items)
    own &= table.specific
    checked = np.zeros(len(everything), np.bool_)
    checked[table.items[own]] = True  # an item without any would be found in every text that has its template
    keep = np.flatnonzero(checked[table.items])
    keep = keep[np.lexsort((table.words[keep], table.items[keep], table.sought[keep]))]
    own, table = own[keep], table.take(keep)
    grams_of = np.bincount(table.items, minlength=len(everything)).astype(np.uint32)
    sources: dict[str, Source] = {}
    for number, item in enumerate(everything):
        source = sources.setdefault(item.source, Source(0, [], templates.get(item.source, [])))
        if checked[number]:
            sources[item.source] = source._replace(checked=source.checked + 1)
        else:
            source.unchecked.append(item.name)
    texts = [item.text.encode("utf-8", "replace") for item in everything]
    return EvaluationIndex(
        n=config.n,
        min_n=config.min_n,
        template_items=config.template_items,
        sources=sources,
        names=[(item.source, item.name) for item in everything],
        hashes=table.sought,
        gram_items=table.items,
        gram_words=table.words,
        gram_lengths=table.lengths,
        gram_is_own=own,
        grams_of=grams_of,
        bits=_filter(table.sought),
        text=np.frombuffer(b"".join(texts), np.uint8),
        text_ends=np.cumsum([len(text) for text in texts], dtype=np.int64),
    )


class _Grams(NamedTuple):
    sought: ngrams.U64  # hash by which the n-gram is found
    grams: ngrams.U64  # hash of the whole n-gram
    items: npt.NDArray[np.uint32]
    words: npt.NDArray[np.uint32]
    lengths: npt.NDArray[np.uint8]
    specific: npt.NDArray[np.bool_]

    def take(self, which: npt.NDArray[Any]) -> "_Grams":
        return _Grams(*(column[which] for column in self))


_NOTHING = _Grams(
    *(np.zeros(0, kind) for kind in (np.uint64, np.uint64, np.uint32, np.uint32, np.uint8, np.bool_))
)


def _specific(words: ngrams.Words, hashes: ngrams.U64, n: int) -> npt.NDArray[np.bool_]:
    """Which n-grams have at least ``SPECIFIC_WORDS`` different words with a letter; bool [words - n + 1]."""
    digits = np.concatenate([[0], np.cumsum((words.codes >= ord("0")) & (words.codes <= ord("9")))])
    all_digits = digits[words.last] - digits[words.first] == words.last - words.first
    named = np.where(all_digits, np.uint64(0), hashes)
    rows = np.sort(np.lib.stride_tricks.sliding_window_view(named, n), axis=1)
    different = 1 + np.count_nonzero(rows[:, 1:] != rows[:, :-1], axis=1) - (rows[:, 0] == 0)
    return different >= SPECIFIC_WORDS


def _templates(
    table: _Grams, items: list[Item], limit: int
) -> tuple[npt.NDArray[np.bool_], dict[str, list[tuple[str, int]]]]:
    """Which n-grams are in at most ``limit`` items of their source; and those that are not, by source."""
    names = sorted({item.source for item in items})
    source_of = np.array([names.index(item.source) for item in items], np.int64)
    order = np.lexsort((table.words, table.items, source_of[table.items], table.grams))
    grams, numbers = table.grams[order], table.items[order]
    sources = source_of[numbers]
    first = np.ones(len(order), np.bool_)  # of its n-gram in its source
    first[1:] = (grams[1:] != grams[:-1]) | (sources[1:] != sources[:-1])
    first_of_item = first.copy()
    first_of_item[1:] |= numbers[1:] != numbers[:-1]
    group = np.cumsum(first) - 1
    counts = np.bincount(group, first_of_item).astype(np.int64)
    own = np.empty(len(order), np.bool_)
    own[order] = counts[group] <= limit
    templates: dict[str, list[tuple[str, int]]] = {}
    for place in np.flatnonzero(first & (counts[group] > limit)).tolist():
        gram = order[place]
        words = ngrams.split(items[table.items[gram]].text)
        start = int(table.words[gram])
        listed = (words.text(start, start + int(table.lengths[gram])), int(counts[group[place]]))
        templates.setdefault(names[sources[place]], []).append(listed)
    for entries in templates.values():
        entries.sort(key=lambda entry: (-entry[1], entry[0]))
    return own, templates


def _filter(hashes: ngrams.U64) -> npt.NDArray[np.uint8]:
    """A bit per hash prefix: most n-grams of a text are told apart from all of the index by one look."""
    exponent = max(10, (len(hashes) * BITS_PER_GRAM - 1).bit_length())
    flags = np.zeros(1 << exponent, np.bool_)
    flags[hashes >> np.uint64(64 - exponent)] = True
    return np.packbits(flags, bitorder="little")
