"""Sheets: documents to label, written for people (CSV or JSON lines), and what a filled-in one is worth."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.quality.labels import Label, LabelError, agreement, match, read_labels
from data_pipeline.quality.sampling import Drawn, documents, excerpt
from data_pipeline.quality.taxonomy import Taxonomy
from stemma.core.files import write_atomic

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes a cell for a formula by, to run it


def write_sheet(
    path: Path, sample: Sequence[Drawn], taxonomy: Taxonomy, annotator: str, excerpt_chars: int
) -> None:
    """Write a sheet to be filled in; ``read_labels`` reads it back and ignores rows without an answer.

    Args:
        path: ``.csv`` or ``.jsonl``.
        sample: the documents.
        taxonomy: gives the questions.
        annotator: written into every row.
        excerpt_chars: longest excerpt of a text, in characters.

    Raises:
        LabelError: the file is there already, or its name ends otherwise.
    """
    if path.exists():
        raise LabelError(f"{path} is there already; it may hold labels. Give another name")
    facts = [
        {
            "id": drawn.document.id,
            "source": drawn.document.source,
            "origin": drawn.document.origin,
            "annotator": annotator,
            "kind": "human",
            "taxonomy": taxonomy.version,
            "text": excerpt(drawn.text, excerpt_chars),
        }
        for drawn in sample
    ]
    if path.suffix == ".csv":
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow([*_head(facts), "subdomain", *taxonomy.criteria])
        for row in facts:
            cells = [f"'{cell}" if cell.startswith(FORMULA) else cell for cell in row.values()]
            writer.writerow([*cells, *[""] * (1 + len(taxonomy.criteria))])
        text = buffer.getvalue()
    elif path.suffix == ".jsonl":
        blank: dict[str, Any] = {"subdomain": None, "scores": dict.fromkeys(taxonomy.criteria)}
        text = "".join(json.dumps({**row, **blank}, ensure_ascii=False) + "\n" for row in facts)
    else:
        raise LabelError(f"{path}: a sheet is a .csv or a .jsonl file")
    write_atomic(path, text)


def _head(rows: Sequence[dict[str, str]]) -> list[str]:
    return list(rows[0]) if rows else []


def write_labels(path: Path, labels: Sequence[Label]) -> None:
    """Write labels as a JSON-lines file that ``quality.labels`` can name.

    Raises:
        LabelError: the file is there already.
    """
    if path.exists():
        raise LabelError(f"{path} is there already; give another name")
    rows = [json.dumps(label.model_dump(exclude_defaults=True), ensure_ascii=False) for label in labels]
    write_atomic(path, "".join(f"{row}\n" for row in rows))


def examine(files: Sequence[Path], corpus: Path, taxonomy: Taxonomy) -> dict[str, Any]:
    """Check label files against a corpus.

    Returns:
        ``labels`` read, ``documents`` they are about, ``replaced`` by a later line of the same annotator,
        ``unknown`` (id or origin of those not in the corpus) and ``agreement`` per pair of annotators.

    Raises:
        LabelError: a file is not right.
    """
    labels = [label for path in files for label in read_labels(path, taxonomy)]
    matched = match(labels, documents(corpus))
    return {
        "labels": len(labels),
        "documents": len(matched.by_document),
        "replaced": matched.replaced,
        "unknown": [label.origin or label.id for label in matched.unknown],
        "agreement": agreement(matched, taxonomy),
    }
