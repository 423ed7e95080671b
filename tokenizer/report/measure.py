"""What tokenizers make of texts, side by side: a pure function from encoders and documents to figures.

Every total is a sum over documents, so bytes per token of a group is its bytes by its tokens, not a mean of
means. The first encoder is the one the report is about; the others are what it is compared with.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.errors import TextError
from tokenizer.report.encoders import NamedEncoder
from tokenizer.report.entries import describe, stages
from tokenizer.report.examples import Chooser, Excerpt, probes
from tokenizer.report.spans import KINDS, PER_CHARACTER, pieces, spans
from tokenizer.vocabulary import Vocabulary

SCHEMA = 1
BATCH_BYTES = 4_000_000
RESAMPLES = 1000
BLOCKS = 2000  # documents are dealt into so many blocks before resampling, so that its cost is bounded
GROUPS = ("domain", "language", "source")


@dataclass(frozen=True)
class MeasuredText:
    """A document to measure.

    Attributes:
        source, domain, language: its groups.
        pieces: its text, cut where special tokens stood.
        id: its document's.
        held_out: whether the first tokenizer learned nothing from its source; False where it learned from
            other documents of it, None where nobody knows.
    """

    source: str
    domain: str
    language: str
    pieces: tuple[str, ...]
    id: str = ""
    held_out: bool | None = False


@dataclass
class _Totals:
    """Per document, what one encoder made of it; ``used``: how often it gave each id."""

    used: NDArray[np.int64]
    tokens: list[int] = field(default_factory=list)
    ceiling: list[int] = field(default_factory=list)  # pre-tokens
    altered: list[bool] = field(default_factory=list)  # its tokens do not stand for the text's bytes
    spans: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})


def measure(
    encoders: Sequence[NamedEncoder],
    documents: Iterable[MeasuredText],
    *,
    vocabulary: Vocabulary | None = None,
    missing: Sequence[Mapping[str, str]] = (),
    pruned: Sequence[Mapping[str, Any]] = (),
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Encode documents with every tokenizer and count.

    Args:
        encoders: the first is the one reported on, the second the one it has to beat; names are distinct.
        documents: read once, a batch at a time.
        vocabulary: of the first encoder, if its pedigree is known.
        missing: tokenizers that could not be had: ``name``, ``title``, ``reason``.
        pruned: entries taken out of the vocabulary, as ``tokenizer.learning.prune`` reports them.
        seed: of the resampling behind the intervals.
        progress: called with the UTF-8 bytes measured so far.

    Returns:
        The report, JSON-able; ``docs/architecture.md`` lists its fields. ``groups`` has a row for all
        documents, one for those of sources held out where others are not, and one for each domain, language
        and source. A row's ``by`` has per encoder ``tokens``,
        ``bytes_per_token``, ``ceiling`` (bytes per pre-token: what no vocabulary behind the same cuts can
        exceed), ``fertility`` (tokens that have a part in a word, LaTeX command or indentation, or tokens per
        Han character or digit, on average) and ``whole`` (part of those spans in one token). Its ``ratios``
        have per other encoder the tokens it takes for one of the first's, with the 95% interval ``low`` to
        ``high`` over resampled documents (absent below 10 documents), and ``ceiling_ratio``, that ratio if
        the first's vocabulary were unlimited.

    Raises:
        TextError: there is nothing to measure, or a text is not Unicode.
        ValueError: two encoders have one name, or there is none.
    """
    names = [encoder.name for encoder in encoders]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected one or more encoders of distinct names, found {names}")
    labels: list[MeasuredText] = []  # without their texts
    sizes: list[tuple[int, int]] = []
    counted: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    totals = {encoder.name: _Totals(np.zeros(len(encoder.token_bytes), np.int64)) for encoder in encoders}
    chooser = Chooser()
    for batch in _batches(documents):
        first = len(labels)
        _measure_batch(encoders, batch, totals, sizes, counted)
        for at, document in enumerate(batch, first):
            ours, *others = (totals[name].tokens[at] for name in names[:2])
            ratio = others[0] / ours if others and ours else None
            text = max(document.pieces, key=len, default="")
            excerpt = Excerpt(document.id, document.source, document.domain, document.language, text)
            chooser.see(excerpt, sizes[at][0], ratio)
        labels += [replace(document, pieces=()) for document in batch]
        if progress:
            progress(sum(size for size, _ in sizes))
    if not sum(size for size, _ in sizes):
        raise TextError("there is no text to measure tokenizers on; give documents that are not empty")
    table = _Table(labels, sizes, counted, totals, seed)
    rows = [table.row("all", "all", np.arange(len(labels)))]
    held_out = np.array([label.held_out is True for label in labels])
    if held_out.any() and not held_out.all():
        rows.append(table.row("held_out", "held-out sources", np.flatnonzero(held_out)))
    for group in GROUPS:
        keys = np.array([getattr(label, group) for label in labels])
        rows += [table.row(group, str(key), np.flatnonzero(keys == key)) for key in np.unique(keys)]
    return {
        "schema": SCHEMA,
        "reference": names[0],
        "tokenizers": [_about(encoder, totals[encoder.name]) for encoder in encoders],
        "missing": [dict(row) for row in missing],
        "groups": rows,
        "stages": stages(vocabulary, totals[names[0]].used) if vocabulary else [],
        "examples": chooser.examples(encoders),
        "worst": chooser.worst_rows(encoders),
        "pruned": [dict(row) for row in pruned],
    }


def _batches(documents: Iterable[MeasuredText]) -> Iterator[list[MeasuredText]]:
    batch: list[MeasuredText] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += sum(map(len, document.pieces))
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _measure_batch(
    encoders: Sequence[NamedEncoder],
    batch: Sequence[MeasuredText],
    totals: Mapping[str, _Totals],
    sizes: list[tuple[int, int]],
    counted: Mapping[str, list[tuple[int, int]]],
) -> None:
    texts = [piece for document in batch for piece in document.pieces]
    owners = np.repeat(np.arange(len(batch)), [len(document.pieces) for document in batch])
    lengths = np.array([len(text.encode()) for text in texts], np.int64)

    def per_document(values: NDArray[np.int64]) -> list[int]:
        return list(np.bincount(owners, values, len(batch)).astype(np.int64).tolist())

    characters = np.array([len(text) for text in texts], np.int64)
    sizes += zip(per_document(lengths), per_document(characters))
    places = [spans(text) for text in texts]
    for kind in KINDS:
        number = np.array([len(found[kind]) for found in places], np.int64)
        inside = np.array([found[kind][:, 2].sum() for found in places], np.int64)
        counted[kind] += zip(per_document(number), per_document(inside))
    ceilings: dict[str, list[int]] = {}
    for encoder in encoders:
        total = totals[encoder.name]
        encoded = encoder.encode(texts)
        total.tokens += per_document(np.array([len(ids) for ids in encoded], np.int64))
        joined = np.concatenate(encoded) if encoded else np.zeros(0, np.int32)
        total.used += np.bincount(joined, minlength=len(total.used))
        if encoder.pre_tokens and encoder.rule not in ceilings:
            ceilings[encoder.rule] = per_document(encoder.pre_tokens(texts))
        total.ceiling += ceilings.get(encoder.rule, [])
        touched = {kind: np.zeros((2, len(texts)), np.int64) for kind in KINDS}
        altered = np.zeros(len(texts), np.int64)
        for at, ids in enumerate(encoded):
            cuts = np.cumsum(encoder.sizes[ids])
            # A normalizer, or an unknown character, makes other bytes of a text: places mean nothing in them.
            altered[at] = (cuts[-1] if len(cuts) else 0) != lengths[at]
            for kind, found in places[at].items():
                if len(found):
                    parts = pieces(cuts, found)
                    touched[kind][:, at] = parts.sum(), (parts == 1).sum()
        total.altered += [count > 0 for count in per_document(altered)]
        for kind, sums in touched.items():
            total.spans[kind] += zip(per_document(sums[0]), per_document(sums[1]))


class _Table:
    """The figures of all documents, and the rows of any group of them."""

    def __init__(
        self,
        labels: Sequence[MeasuredText],
        sizes: Sequence[tuple[int, int]],
        counted: Mapping[str, Sequence[tuple[int, int]]],
        totals: Mapping[str, _Totals],
        seed: int,
    ) -> None:
        self.held_out = [label.held_out for label in labels]
        self.sizes = np.array(sizes, np.int64)
        self.counted = {kind: np.array(pairs, np.int64) for kind, pairs in counted.items()}
        self.tokens = {name: np.array(total.tokens, np.int64) for name, total in totals.items()}
        self.altered = {name: np.array(total.altered, np.bool_) for name, total in totals.items()}
        self.ceiling = {n: np.array(total.ceiling, np.int64) for n, total in totals.items() if total.ceiling}
        self.spans = {
            name: {kind: np.array(pairs, np.int64) for kind, pairs in total.spans.items()}
            for name, total in totals.items()
        }
        self.seed = seed

    def row(self, group: str, name: str, rows: NDArray[np.int64]) -> dict[str, Any]:
        size, characters = self.sizes[rows].sum(axis=0).tolist()
        number = {kind: pairs[rows].sum(axis=0).tolist() for kind, pairs in self.counted.items()}
        reference, *others = self.tokens
        return {
            "group": group,
            "name": name,
            "documents": len(rows),
            "bytes": size,
            "characters": characters,
            "held_out": self._all_held_out(rows),
            "spans": {kind: dict(zip(("count", "characters"), pair)) for kind, pair in number.items()},
            "by": {encoder: self._figures(encoder, rows, size) for encoder in self.tokens},
            "ratios": {other: self._ratio(reference, other, rows) for other in others},
        }

    def _all_held_out(self, rows: NDArray[np.int64]) -> bool | None:
        found = {self.held_out[at] for at in rows.tolist()}
        return None if None in found else found == {True}

    def _figures(self, encoder: str, rows: NDArray[np.int64], size: int) -> dict[str, Any]:
        tokens = int(self.tokens[encoder][rows].sum())
        found: dict[str, Any] = {"tokens": tokens, "bytes_per_token": _by(size, tokens)}
        if encoder in self.ceiling:
            found["ceiling"] = _by(size, int(self.ceiling[encoder][rows].sum()))
        placed = rows[~self.altered[encoder][rows]]
        fertility, whole = {}, {}
        for kind, pairs in self.spans[encoder].items():
            count, characters = self.counted[kind][placed].sum(axis=0).tolist()
            if count:
                parts, uncut = pairs[placed].sum(axis=0).tolist()
                fertility[kind] = _by(parts, characters if kind in PER_CHARACTER else count)
                whole[kind] = _by(uncut, count)
        return {**found, "fertility": fertility, "whole": whole}

    def _ratio(self, reference: str, other: str, rows: NDArray[np.int64]) -> dict[str, float]:
        ours, theirs = self.tokens[reference][rows], self.tokens[other][rows]
        found = {"ratio": _by(int(theirs.sum()), int(ours.sum()))}
        if reference in self.ceiling:
            found["ceiling_ratio"] = _by(int(theirs.sum()), int(self.ceiling[reference][rows].sum()))
        if interval := bootstrap(ours, theirs, self.seed):
            found["low"], found["high"] = interval
        return found


def bootstrap(ours: NDArray[np.int64], theirs: NDArray[np.int64], seed: int) -> tuple[float, float] | None:
    """The 95% percentile interval of ``theirs.sum() / ours.sum()`` over resampled documents.

    It says how much another draw of documents from the same sources would move the ratio, and nothing about
    other sources.

    Args:
        ours, theirs: tokens of each document, ``[documents]``.
        seed: of the resampling.

    Returns:
        Low and high; ``None`` below 10 documents, which say too little about others.
    """
    if len(ours) < 10:
        return None
    blocks = np.arange(len(ours)) % BLOCKS
    count = min(len(ours), BLOCKS)
    both = np.stack([np.bincount(blocks, values, count) for values in (theirs, ours)])
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    above, below = both @ drawn.T
    low, high = np.quantile(above / np.maximum(below, 1), (0.025, 0.975))
    return round(float(low), 4), round(float(high), 4)


def _by(above: int, below: int) -> float:
    return round(above / below, 4) if below else 0.0


def _about(encoder: NamedEncoder, total: _Totals) -> dict[str, Any]:
    return {
        "name": encoder.name,
        "title": encoder.title,
        "entries": encoder.entries,
        **describe(encoder.token_bytes, total.used),
        "altered_documents": sum(total.altered),
        "probes": probes(encoder),
    }
