"""Decontamination: find what training documents share with evaluation sets, reject or cut it, and list it.

    write_index(triples, config, path)                    once: (source, item, text) of all evaluation sets
    Decontaminate(path, config, hits, exclusion_writer)   a datatrove step, in every rank
    read_hits(folder, *files)                             all ranks' rows, for contamination.parquet

The step goes between the filters and ``Decide``: a cut document has a new text, so it needs a new id.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.cleaning.batches import batches
from data_pipeline.cleaning.evaluation_build import build
from data_pipeline.cleaning.evaluation_index import EvaluationIndex, Overlap, load
from data_pipeline.config.decontamination import DecontaminationConfig
from stemma.core.files import write_atomic

CONTAMINATED = "contaminated"  # the rule of a rejected document, and of its rows
CUT = "contaminated_span"  # rows of text that was cut out of a document that was kept
BELOW = "below_min_overlap"  # rows of text that was found and left alone

EXCERPT = 200  # characters listed on both sides of shared text
WORD = 40  # characters of the longest word that is cut whole
LONGEST = 2_000  # characters listed of the shared text itself

HITS = pa.schema(
    [
        ("id", pa.string()),  # of the document as it was read, also if it was cut afterwards
        ("source", pa.string()),
        ("origin", pa.string()),
        ("rule", pa.string()),  # contaminated, contaminated_span, below_min_overlap
        ("n", pa.int32()),  # words per n-gram
        ("words", pa.int32()),  # in the shared text, n or more
        ("share", pa.float32()),  # of the item's n-grams, how many the document holds
        ("text", pa.string()),  # the shared text, as the document has it
        ("evaluation_source", pa.string()),
        ("evaluation_item", pa.string()),
        ("document_excerpt", pa.string()),
        ("evaluation_excerpt", pa.string()),
    ]
)


def write_index(
    items: Iterable[tuple[str, str, str]], config: DecontaminationConfig, path: Path
) -> dict[str, Any]:
    """Build the index of all evaluation sets, write it to a file, and tell what is in it.

    Args:
        items: (source, item, text); the text is all of question, answer and choices.
        config: of the n-grams.
        path: of the file.

    Returns:
        Per source ``{"items", "checked", "unchecked": [item, ...], "templates": [[n-gram, items], ...]}``.
        Items with fewer than ``min_n`` words, and those that are all template, are not looked for.
    """
    index = build(items, config)
    index.save(path)
    return {
        name: {
            "items": source.checked + len(source.unchecked),
            "checked": source.checked,
            "unchecked": source.unchecked,
            "templates": [list(entry) for entry in source.templates],
        }
        for name, source in index.sources.items()
    }


class Decontaminate(PipelineStep):
    """Rejects documents that share n-grams with evaluation items, or cuts the shared text out of them.

    A document that is cut falls into pieces: what stood apart must not be read as if it were one text. Each
    piece is a document, with ``.cut0``, ``.cut1``, ... after its origin.

    Args:
        index: file of ``write_index``.
        config: the one the index was built with; the policy.
        hits: folder; every rank writes what it found to ``<rank>.parquet``, with the columns of ``HITS``.
        exclusion_writer: receives the rejected documents, with rule and value.
    """

    type = "🧪 - DECONTAMINATION"
    name = "evaluation n-grams"

    def __init__(
        self, index: Path, config: DecontaminationConfig, hits: Path, exclusion_writer: DiskWriter
    ) -> None:
        super().__init__()
        self.index = index
        self.config = config
        self.hits = hits
        self.exclusion_writer = exclusion_writer

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        index = load(self.index, self.config)
        rows: list[dict[str, Any]] = []
        with self.exclusion_writer as rejects:
            for batch in batches(data):  # looked up together: numpy's calls cost more than short texts
                texts = [document.text for document in batch]
                for document, overlaps in zip(batch, index.overlaps_of(texts)):
                    if not overlaps:
                        yield document
                        continue
                    kept, reject, found = judge(document, overlaps, index, self.config)
                    rows += found
                    if reject is not None:
                        rejects.write(reject, rank)
                    yield from kept
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, HITS), buffer, compression="zstd")
        write_atomic(self.hits / f"{rank:05d}.parquet", buffer.getvalue().to_pybytes())


def judge(
    document: Document, overlaps: list[Overlap], index: EvaluationIndex, config: DecontaminationConfig
) -> tuple[list[Document], Document | None, list[dict[str, Any]]]:
    """What becomes of a document with overlaps: (documents to keep, document to reject, rows of ``HITS``)."""
    guilty = [overlap for overlap in overlaps if overlap.share >= config.min_overlap]
    kept, reject = [document], None
    rule = CONTAMINATED
    if guilty:
        spans = cuts(document.text, guilty, config.window)
        pieces = left_over(document.text, spans, config.min_piece)
        if config.policy == "remove" and pieces and len(spans) <= config.max_spans:
            rule = CUT
            removed = sum(end - start for start, end in spans)
            kept = [piece_of(document, k, text, len(spans), removed) for k, text in enumerate(pieces)]
        else:
            most = max(guilty, key=lambda overlap: (overlap.share, overlap.words, -overlap.start))
            source, name, _ = index.item(most.item)
            kept, reject = [], document
            document.metadata |= {
                "filter_reason": CONTAMINATED,
                "value": f"{source} {name}: {most.words} words, {most.share:.0%} of the item",
            }
    rows = [
        row(document, overlap, index, rule if overlap.share >= config.min_overlap else BELOW)
        for overlap in overlaps
    ]
    return kept, reject, rows


def cuts(text: str, overlaps: list[Overlap], window: int) -> list[tuple[int, int]]:
    """What to cut: the overlaps with a window around each, grown to whole words, and merged."""
    spans: list[tuple[int, int]] = []
    for overlap in overlaps:
        start, end = max(0, overlap.start - window), min(len(text), overlap.end + window)
        # to the ends of words; in a script without spaces, where it falls
        start -= next((k for k in range(WORD) if start == k or text[start - k - 1].isspace()), 0)
        end += next((k for k in range(WORD) if end + k == len(text) or text[end + k].isspace()), 0)
        spans.append((start, end))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def left_over(text: str, spans: list[tuple[int, int]], min_piece: int) -> list[str]:
    """The pieces between the spans, without those that are too short."""
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    pieces = [text[start:end].strip() for start, end in zip(edges[::2], edges[1::2])]
    return [piece for piece in pieces if piece and len(piece) >= min_piece]


def piece_of(document: Document, number: int, text: str, spans: int, removed: int) -> Document:
    """A piece of a document as a document of its own."""
    about = dict(document.metadata)
    about["origin"] = f"{about['origin']}.cut{number}"
    about["found"] = {**about.get("found", {}), "decontaminate": {"spans": spans, "characters": removed}}
    return Document(text=text, id=f"{document.id}.cut{number}", metadata=about)


def row(document: Document, overlap: Overlap, index: EvaluationIndex, rule: str) -> dict[str, Any]:
    """One line of the list, with both texts around what they share."""
    item = index.item(overlap.item)
    return {
        "id": document.id,
        "source": document.metadata["source"],
        "origin": document.metadata["origin"],
        "rule": rule,
        "n": overlap.n,
        "words": overlap.words,
        "share": overlap.share,
        "text": document.text[overlap.start : overlap.end][:LONGEST],
        "evaluation_source": item.source,
        "evaluation_item": item.name,
        "document_excerpt": excerpt(document.text, overlap.start, overlap.end),
        "evaluation_excerpt": excerpt(item.text, overlap.item_start, overlap.item_end),
    }


def excerpt(text: str, start: int, end: int) -> str:
    """A stretch of a text with ``EXCERPT`` characters around it; a long stretch without its middle."""
    before, shared, after = text[max(0, start - EXCERPT) : start], text[start:end], text[end : end + EXCERPT]
    if len(shared) > LONGEST:
        shared = f"{shared[: LONGEST // 2]} […] {shared[-LONGEST // 2 :]}"
    return f"{before}{shared}{after}"


def read_hits(folder: Path, *more: Path) -> pa.Table:
    """What all ranks found, by source and document: the rows of ``contamination.parquet``.

    Args:
        folder: of the ranks' files, at any depth.
        more: files to add, such as an earlier corpus's ``contamination.parquet``.
    """
    files = sorted(map(str, [*folder.rglob("*.parquet"), *more]))
    if not files:
        return HITS.empty_table()
    table = ds.dataset(files, schema=HITS, format="parquet").to_table()
    keys = ("source", "id", "evaluation_item", "text", "evaluation_source", "document_excerpt")
    return table.sort_by([(key, "ascending") for key in keys])
