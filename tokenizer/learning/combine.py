"""One stage's words: the counts of all parts together, each as much as the stage's weights say.

A weight is a part of the *text*: with ``{web: 0.75, code: 0.25}`` three bytes of four are of domain ``web``,
however much of it there is. What a domain gets, its sources share in proportion to their bytes to the power
``source_alpha``. So an occurrence in source s counts ``share(s) * bytes of all / bytes of s``: 1 where the
weights are as the text is, and the sum over all text is its bytes, whatever the weights, so that
``min_frequency`` keeps its meaning.

These factors are exact fractions, rounded once to multiples of ``1 / scale``; counts are integers times
``scale``. If all factors are whole numbers the scale is 1: weights that change nothing leave the very counts.
"""

from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tokenizer.config import VocabularyStage
from tokenizer.errors import VocabularyError
from tokenizer.learning.sample import Part
from tokenizer.learning.wordfiles import from_arrow, joined, text_bytes, walk
from tokenizer.learning.words import Words

_SCALE_BITS = 20  # a factor is off by half a millionth at most
_SUM_BITS = 62  # of text bytes times scale, above every count of a pair


def combine(files: Mapping[Part, Path], stage: VocabularyStage) -> Words:
    """Add up the words of the parts a stage reads.

    ``max_source_share`` cuts what one source gives of a word to that part of the word's count over all
    sources. A word of one source alone thus keeps ``max_source_share`` of its count, and a word that many
    sources use keeps all: more occurrences never make a count smaller, and no word is lost. A stage of one
    source is not cut.

    Args:
        files: of ``count_parts``.
        stage: its weights, languages, ``source_alpha`` and ``max_source_share``.

    Raises:
        DamagedError: a file is damaged.
        VocabularyError: no text has a weight, or a name is both a source and a domain of other sources.
    """
    sizes = {part: text_bytes(path) for part, path in sorted(files.items(), key=lambda item: item[0].name)}
    counted = factors(sizes, stage)
    sources = sorted({part.source for part in counted})
    share = stage.max_source_share if len(sources) > 1 else 1.0
    whole = share == 1 and all(factor.denominator == 1 for factor in counted.values())
    total = sum(sizes[part] for part in counted)
    scale = 1 if whole else 1 << max(0, min(_SCALE_BITS, _SUM_BITS - total.bit_length()))
    parts = sorted(counted, key=lambda part: (part.source, part.name))
    multipliers = np.array([max(1, round(counted[part] * scale)) for part in parts], np.int64)
    source_of = np.array([sources.index(part.source) for part in parts], np.int64)
    stretches = []
    for stretch in walk([files[part] for part in parts]):
        counts = stretch.counts * multipliers[stretch.files]
        firsts = stretch.firsts()
        if share < 1:
            counts, borders = _by_source(counts, firsts, source_of[stretch.files])
            added = _cut(counts, borders, share)
        else:
            added = np.add.reduceat(counts, firsts)
        stretches.append(from_arrow(stretch.words.take(pa.array(firsts)), added, scale))
    pa.default_memory_pool().release_unused()  # what reading and sorting took, before merging takes its own
    return joined(stretches)


def factors(sizes: Mapping[Part, int], stage: VocabularyStage) -> dict[Part, Fraction]:
    """What an occurrence counts in each part that a stage reads.

    Args:
        sizes: bytes of text of each part.
        stage: its weights, languages and ``source_alpha``. A source that has a weight of its own takes no
            share of its domain's. What names the text lacks would get goes to the others in proportion.

    Returns:
        Exact factors, above 0; the parts left out have none. Times the bytes they add up to the bytes of the
        parts in it.

    Raises:
        VocabularyError: no text has a weight, or a name is both a source and a domain of other sources.
    """
    wanted = {
        part: size
        for part, size in sizes.items()
        if size and (not stage.languages or part.language in stage.languages)
    }
    _refuse_ambiguous(wanted, stage)
    named = {part.source for part in wanted} & stage.weights.keys()
    groups: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # name -> source -> bytes
    group_of: dict[Part, str] = {}
    for part, size in wanted.items():
        name = part.source if part.source in named else part.domain
        if stage.weights.get(name, 0) > 0:
            group_of[part] = name
            groups[name][part.source] += size
    if not groups:
        there = sorted({name for part in sizes for name in (part.source, part.domain)})
        languages = f" in {', '.join(stage.languages)}" if stage.languages else ""
        raise VocabularyError(
            f"stage {stage.name!r} has no text to learn from{languages}: its weights name "
            f"{', '.join(sorted(stage.weights))}; the corpus has {', '.join(there) or 'no words'}. Give a "
            "source or domain of the corpus a weight above 0."
        )
    # Fraction(str(0.1)) is 1/10, which 0.1 itself is not: weights mean what the profile says.
    weights = {name: Fraction(str(stage.weights[name])) for name in groups}
    total = sum(wanted[part] for part in group_of)
    found: dict[Part, Fraction] = {}
    for part, name in group_of.items():
        powers = {source: _power(size, stage.source_alpha) for source, size in groups[name].items()}
        share = weights[name] / sum(weights.values()) * powers[part.source] / sum(powers.values())
        found[part] = share * total / groups[name][part.source]
    return found


def _power(size: int, alpha: float) -> Fraction:
    return Fraction(size) if alpha == 1 else Fraction(size**alpha)


def _refuse_ambiguous(sizes: Mapping[Part, int], stage: VocabularyStage) -> None:
    for name in stage.weights.keys() & {part.source for part in sizes}:
        if others := sorted({part.source for part in sizes if part.domain == name} - {name}):
            raise VocabularyError(
                f"stage {stage.name!r}: the weight of {name!r} may mean the source, or the domain of "
                f"{', '.join(others)}. Name the sources you mean."
            )


def _by_source(
    counts: NDArray[np.int64], firsts: NDArray[np.int64], sources: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Add up what the parts of a source give of a word: counts by word and source, and where words begin."""
    begins = np.concatenate([[True], sources[1:] != sources[:-1]])
    begins[firsts] = True
    rows = np.flatnonzero(begins)
    return np.add.reduceat(counts, rows), np.searchsorted(rows, firsts)


def _cut(counts: NDArray[np.int64], firsts: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Add up the counts by word, none of them above ``share`` of their sum; at least 1 remains of each."""
    sums = np.add.reduceat(counts, firsts)
    bits = 31
    part = round(Fraction(str(share)) * (1 << bits))
    limits = (sums >> bits) * part + (((sums & ((1 << bits) - 1)) * part) >> bits)  # no product overflows
    rows = np.diff(np.append(firsts, len(counts)))
    return np.add.reduceat(np.minimum(counts, np.maximum(np.repeat(limits, rows), 1)), firsts)
