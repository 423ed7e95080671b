"""Labels: what people and models say of documents, read from files, checked, matched and adjudicated.

A label names its document by ``id``, which changes when cleaning changes the text, or by ``origin`` (and
``source``), which does not. It may leave out criteria, or the sub-domain, or the domain: what is missing is
not trained on. A JSON-lines file holds one object per line::

    {"origin": "...", "source": "...", "subdomain": "physics", "scores": {"depth": 2, ...},
     "annotator": "name", "kind": "human", "taxonomy": "1"}

A CSV file has the same names as columns, and one column per criterion; an empty cell is no answer. The column
``text`` of an exported sheet is there to be read, and is ignored on the way back.

Where annotators disagree: an adjudicator's label stands; else people outrank models; among equals a
criterion gets the median score, and domain and sub-domain the most votes (a tie: the annotator first in the
alphabet).
"""

import csv
import importlib.resources
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from data_pipeline.quality.taxonomy import Taxonomy
from stemma.core.config import Config
from stemma.core.errors import StemmaError

SHOWN = 20  # problems listed before the rest is counted


class LabelError(StemmaError):
    """Label files cannot be used. Lists the problems, each with its file and line."""

    exit_code = 2


class Label(Config):
    """What one annotator says of one document."""

    id: str = Field("", description="the document's id")
    origin: str = Field("", description="where the document was read; stable when cleaning changes")
    source: str = Field("", description="its source; needed with `origin` where several sources share one")
    annotator: str = Field(min_length=1, description="who says it: a person, a team, a model")
    kind: Literal["human", "model"] = Field("human", description="people outrank models")
    taxonomy: str = Field(description="version of the taxonomy it was made with")
    domain: str | None = Field(None, description="follows from `subdomain` where that is given")
    subdomain: str | None = Field(None)
    scores: dict[str, int] = Field({}, description="criterion -> score")

    @model_validator(mode="after")
    def _names_a_document(self) -> Self:
        if not self.id and not self.origin:
            raise ValueError("neither `id` nor `origin`: it does not say which document it is about")
        return self

    def problems(self, taxonomy: Taxonomy) -> Iterator[str]:
        """What does not fit a taxonomy."""
        if self.taxonomy != taxonomy.version:
            yield f"made with version {self.taxonomy!r} of the taxonomy, this is {taxonomy.version!r}"
        highest = taxonomy.highest
        for name, score in self.scores.items():
            if name not in highest:
                yield f"unknown criterion {name!r}; criteria are {', '.join(highest)}"
            elif not 0 <= score <= highest[name]:
                yield f"{name}: score {score} is not in 0..{highest[name]}"
        if self.subdomain is not None and self.subdomain not in taxonomy.domain_of:
            yield f"unknown sub-domain {self.subdomain!r}"
        elif self.domain is not None and self.domain not in taxonomy.domains:
            yield f"unknown domain {self.domain!r}; domains are {', '.join(taxonomy.domains)}"
        elif self.domain and self.subdomain and taxonomy.domain_of[self.subdomain] != self.domain:
            owner = taxonomy.domain_of[self.subdomain]
            yield f"sub-domain {self.subdomain!r} is in {owner!r}, not {self.domain!r}"


@dataclass(frozen=True)
class Document:
    """What labels are matched by. ``cluster`` and ``origin`` also keep kin together in the evaluation."""

    id: str
    source: str
    origin: str
    cluster: str = ""


@dataclass(frozen=True)
class Consensus:
    """The label that training uses for a document.

    ``scores`` may be halves, where an even number of annotators was divided.
    """

    document: Document
    domain: str | None
    subdomain: str | None
    scores: Mapping[str, float]
    annotators: tuple[str, ...]
    kind: str

    def row(self) -> dict[str, Any]:
        """As JSON, for ``labels.jsonl``."""
        return {
            "id": self.document.id,
            "source": self.document.source,
            "origin": self.document.origin,
            "domain": self.domain,
            "subdomain": self.subdomain,
            "scores": dict(self.scores),
            "annotators": list(self.annotators),
            "kind": self.kind,
        }


@dataclass
class Matched:
    """Labels by the document they are about, and those whose document is not there."""

    by_document: dict[str, list[Label]] = field(default_factory=dict)
    documents: dict[str, Document] = field(default_factory=dict)
    unknown: list[Label] = field(default_factory=list)
    replaced: int = 0


def label_file(name: str) -> Path:
    """The file of a configured name: a path, or the name of one that comes with stemma.

    Raises:
        LabelError: there is no such file.
    """
    plain = "/" not in name and not name.endswith((".jsonl", ".csv"))
    path = (
        Path(str(importlib.resources.files("configs") / "labels" / f"{name}.jsonl")) if plain else Path(name)
    )
    if not path.is_file():
        raise LabelError(f"labels {name!r}: there is no file {path}")
    return path


def read_labels(path: Path, taxonomy: Taxonomy) -> list[Label]:
    """Read and check a label file (``.csv``, else JSON lines). Rows without any answer are left out.

    Raises:
        LabelError: every problem with its line (the first ones, and how many more).
    """
    found: list[Label] = []
    problems: list[str] = []
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path} cannot be read: {error}") from error
    rows = _csv_rows(text, taxonomy) if path.suffix == ".csv" else _jsonl_rows(text)
    for line, row in rows:
        if isinstance(row, str):
            problems.append(f"line {line}: {row}")
            continue
        row = _without_blanks(row)
        if not row.get("scores") and not row.get("domain") and not row.get("subdomain"):
            continue  # a row of a sheet that nobody has filled in
        try:
            label = Label.model_validate(row)
        except ValidationError as error:
            problems += [
                f"line {line}: {'.'.join(map(str, problem['loc'])) or 'label'}: {problem['msg']}"
                for problem in error.errors()
            ]
            continue
        wrong = list(label.problems(taxonomy))
        problems += [f"line {line}: {problem}" for problem in wrong]
        if not wrong:
            found.append(label)
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise LabelError(f"{path}: {len(problems)} problems; correct them and run again\n{shown}{more}")
    return found


def _jsonl_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else "expected an object"


def _csv_rows(text: str, taxonomy: Taxonomy) -> Iterator[tuple[int, dict[str, Any] | str]]:
    reader = csv.DictReader(io.StringIO(text))
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield reader.line_num + 1, f"not CSV: {error}"
            return
        if row is None:
            return
        if None in row or None in row.values():
            yield reader.line_num, "it has not as many cells as there are columns"
            continue
        scores: dict[str, Any] = {}
        for name in taxonomy.criteria:
            cell = (row.pop(name, "") or "").strip()
            if cell:
                scores[name] = int(cell) if cell.isdecimal() else cell
        yield reader.line_num, {**{key: cell.strip() for key, cell in row.items()}, "scores": scores}


def _without_blanks(row: dict[str, Any]) -> dict[str, Any]:
    scores = row.get("scores")
    if isinstance(scores, dict):
        row = {**row, "scores": {name: score for name, score in scores.items() if score is not None}}
    return {key: value for key, value in row.items() if key != "text" and value not in (None, "")}


def match(labels: Iterable[Label], documents: Iterable[Document]) -> Matched:
    """Find each label's document: by id, else by origin (with its source, where the label says it).

    A later label of the same annotator replaces an earlier one. Labels whose document is not there, or whose
    origin is that of several documents, end in ``unknown``.
    """
    given = list(labels)
    ids = {label.id for label in given}
    origins = {label.origin for label in given}
    by_id: dict[str, Document] = {}
    by_origin: dict[str, list[Document]] = defaultdict(list)
    for document in documents:  # only what some label may mean is kept in memory
        if document.id in ids:
            by_id[document.id] = document
        if document.origin in origins:
            by_origin[document.origin].append(document)
    found = Matched()
    latest: dict[tuple[str, str], Label] = {}
    for label in given:
        document = by_id.get(label.id)
        if document is None:
            candidates = [
                candidate
                for candidate in by_origin.get(label.origin, [])
                if label.source in ("", candidate.source)
            ]
            document = candidates[0] if label.origin and len(candidates) == 1 else None
        if document is None:
            found.unknown.append(label)
            continue
        found.replaced += (document.id, label.annotator) in latest
        latest[document.id, label.annotator] = label
        found.documents[document.id] = document
    for (document_id, _), label in sorted(latest.items()):
        found.by_document.setdefault(document_id, []).append(label)
    return found


def adjudicate(
    document: Document, labels: Sequence[Label], taxonomy: Taxonomy, adjudicators: Sequence[str] = ()
) -> Consensus:
    """One label from several of the same document; the rule stands at the top of this module."""
    labels = sorted(labels, key=lambda label: label.annotator)
    chosen = [label for name in adjudicators for label in labels if label.annotator == name][:1]
    if not chosen:
        people = [label for label in labels if label.kind == "human"]
        chosen = people or list(labels)
    scores = {
        name: float(median(label.scores[name] for label in chosen if name in label.scores))
        for name in taxonomy.criteria
        if any(name in label.scores for label in chosen)
    }
    domains = Counter(found for label in chosen if (found := domain_of(label, taxonomy)))
    domain = domains.most_common(1)[0][0] if domains else None
    subdomains = Counter(
        label.subdomain
        for label in chosen
        if label.subdomain and taxonomy.domain_of[label.subdomain] == domain
    )
    subdomain = subdomains.most_common(1)[0][0] if subdomains else None
    return Consensus(
        document, domain, subdomain, scores, tuple(label.annotator for label in chosen), chosen[0].kind
    )


def domain_of(label: Label, taxonomy: Taxonomy) -> str | None:
    """The domain a label says or implies."""
    return taxonomy.domain_of[label.subdomain] if label.subdomain else label.domain


def agreement(matched: Matched, taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """How far each pair of annotators agrees on the documents both labelled.

    Returns:
        per pair: ``annotators``, ``documents``, and per question ``n`` and Cohen's ``kappa`` (quadratically
        weighted for criteria, plain for domain and sub-domain; None where chance alone would always agree).
    """
    answers: dict[str, dict[str, Label]] = defaultdict(dict)
    for document, labels in matched.by_document.items():
        for label in labels:
            answers[label.annotator][document] = label
    names = sorted(answers)
    found = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            shared = sorted(answers[first].keys() & answers[second].keys())
            if not shared:
                continue
            pairs = [(answers[first][key], answers[second][key]) for key in shared]
            questions: dict[str, list[tuple[Any, Any]]] = {
                "domain": [(domain_of(a, taxonomy), domain_of(b, taxonomy)) for a, b in pairs],
                "subdomain": [(a.subdomain, b.subdomain) for a, b in pairs],
            }
            for name in taxonomy.criteria:
                questions[name] = [(a.scores.get(name), b.scores.get(name)) for a, b in pairs]
            entry: dict[str, Any] = {"annotators": [first, second], "documents": len(shared)}
            entry["questions"] = {
                name: {"n": len(both), "kappa": cohen_kappa(both, weighted=name in taxonomy.criteria)}
                for name, given in questions.items()
                if (both := [pair for pair in given if None not in pair])
            }
            found.append(entry)
    return found


def cohen_kappa(pairs: Sequence[tuple[Any, Any]], weighted: bool = False) -> float | None:
    """Cohen's kappa of two annotators (Cohen 1960); quadratically weighted (Cohen 1968) for ordered answers.

    Returns:
        1 - observed / expected disagreement, or None where none is expected.
    """

    def disagreement(a: Any, b: Any) -> float:
        return float((a - b) ** 2) if weighted else float(a != b)

    observed = sum(disagreement(a, b) for a, b in pairs) / len(pairs)
    firsts, seconds = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    expected = sum(disagreement(a, b) * firsts[a] * seconds[b] for a in firsts for b in seconds) / (
        len(pairs) ** 2
    )
    return 1 - observed / expected if expected else None
