"""What a corpus rejected, by rule, and what it merged: rejects and duplicate clusters with examples.

A corpus' files are read in batches, never whole: memory does not grow with them.
"""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq

from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError
from stemma.core.files import read_json

# The rules of each filter step, by how their names begin: people ask by either.
LINE_RULES = ("long_", "too_short", "few_alphanumeric", "duplicate_lines", "encoded")
STEP_RULES = {
    "gopher_repetition": ("dup_", "duplicated_", "top_"),
    "gopher_quality": ("gopher_",),
    "c4": ("lorem_ipsum", "curly_bracket", "too_few"),
    "fineweb": ("line_punct", "short_line", "char_dup", "list_ratio"),
    "technical": LINE_RULES,
    "maths": LINE_RULES,
    "source_code": LINE_RULES,
}


@dataclass(frozen=True)
class Rejects:
    """Rejected documents of one or several rules.

    Attributes:
        rules: documents by rule of what was asked for, most first; of the whole corpus where the rule asked
            for is none of them.
        matched: whether the rule asked for is one of them.
        rows: examples: id, source, origin, rule, value, text; none where no rule was asked for.
    """

    rules: dict[str, int]
    matched: bool
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Cluster:
    """Near-duplicates of which one was kept.

    Attributes:
        survivor: the kept document: id, source, origin, text (its beginning).
        members: rejected documents of the cluster.
        examples: some of those.
    """

    survivor: dict[str, Any]
    members: int
    examples: list[dict[str, Any]]


def find_rejects(
    corpus: Artifact, rule: str = "", count: int = 5, source: str = "", seed: int = 0
) -> Rejects:
    """Rejected documents of the rules that a name fits.

    Args:
        corpus: the artifact.
        rule: a rule, the beginning or a part of one, or of a filter step's name; empty to count all.
        count: examples to draw.
        source: only of this source.
        seed: another one draws others.

    Raises:
        StemmaError: the corpus has no such source; lists those it has.
    """
    if source:
        check_source(corpus, source)
    rules = rule_counts(corpus, source)
    names = matching(rule, rules)
    if not names or not rule:
        return Rejects(rules, False, [])
    rows = reservoir(scan(corpus, "rejects", source, ds.field("rule").isin(names)), count, seed)
    return Rejects({name: rules[name] for name in names}, True, rows)


def rule_counts(corpus: Artifact, source: str = "") -> dict[str, int]:
    """Rejected documents by rule, most first: as the corpus counted them, else by reading all."""
    found: Counter[str] = Counter()
    if (corpus.path / "funnel.json").is_file():
        for name, entry in read_json(corpus.path / "funnel.json")["sources"].items():
            found.update(entry.get("rejected", {}) if source in ("", name) else {})
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
    for batch in batches(corpus, "rejects", source, ["rule"]):
        found.update(batch.column("rule").to_pylist())
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def matching(wanted: str, rules: dict[str, int]) -> list[str]:
    """The rules a name stands for: by its beginning, else as a part, else by the filter step."""
    for fits in (
        lambda rule: rule == wanted,
        lambda rule: rule.startswith(wanted),
        lambda rule: wanted in rule,
    ):
        if found := [rule for rule in rules if fits(rule)]:
            return found
    starts = tuple(start for step, known in STEP_RULES.items() if step.startswith(wanted) for start in known)
    return [rule for rule in rules if starts and rule.startswith(starts)]


def find_clusters(corpus: Artifact, count: int = 5, examples: int = 3, excerpt: int = 300) -> list[Cluster]:
    """The largest clusters of near-duplicates, with the document of each that was kept.

    Two passes over the files: one counts by cluster, one fetches the texts of the largest.
    """
    sizes: Counter[str] = Counter()
    for batch in batches(corpus, "rejects", "", ["cluster"]):
        sizes.update(name for name in batch.column("cluster").to_pylist() if name)
    largest = dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:count])
    if not largest:
        return []
    kept = {row["id"]: row for row in scan(corpus, "documents", "", ds.field("id").isin(list(largest)))}
    members: dict[str, list[dict[str, Any]]] = {name: [] for name in largest}
    for row in scan(corpus, "rejects", "", ds.field("cluster").isin(list(largest))):
        if len(members[row["cluster"]]) < examples:
            members[row["cluster"]].append({**row, "text": row["text"][:excerpt]})
    return [
        Cluster({**kept[name], "text": kept[name]["text"][:excerpt]}, size, members[name])
        for name, size in largest.items()
        if name in kept
    ]


def document_text(corpus: Artifact, source: str, identifier: str) -> str:
    """The text of a kept document; empty if there is none.

    A source's files are in the order of ids, so bisection opens only a few of them.
    """
    paths = files(corpus, "documents", source)
    first = bisect_right(range(len(paths)), identifier, key=lambda at: _first_id(paths[at])) - 1
    if first < 0:
        return ""
    found = pq.read_table(paths[first], columns=["id", "text"], filters=[("id", "==", identifier)])
    return str(found["text"][0]) if found.num_rows else ""


def _first_id(path: Path) -> str:
    batch = next(pq.ParquetFile(path).iter_batches(1, columns=["id"]), None)
    return str(batch.column("id")[0]) if batch is not None and batch.num_rows else ""


def check_source(corpus: Artifact, source: str) -> None:
    """Require that a corpus has a source.

    Raises:
        StemmaError: it has not; lists those it has.
    """
    known = sorted({path.name for kind in ("documents", "rejects") for path in corpus.path.glob(f"{kind}/*")})
    if source not in known:
        raise StemmaError(f"{corpus} has no source {source!r}; sources are: {', '.join(known)}")


def files(corpus: Artifact, kind: str, source: str = "") -> list[Path]:
    """The Parquet files of ``documents`` or ``rejects``, by source."""
    return sorted(corpus.path.glob(f"{kind}/{source or '*'}/*.parquet"))


def batches(
    corpus: Artifact, kind: str, source: str, columns: list[str] | None, where: Any = None
) -> Iterator[Any]:
    """Record batches of a corpus' files."""
    for path in files(corpus, kind, source):
        yield from ds.dataset(str(path), format="parquet").to_batches(
            columns=columns, filter=where, batch_size=4096
        )


def scan(corpus: Artifact, kind: str, source: str, where: Any) -> Iterator[dict[str, Any]]:
    """Rows of a corpus' files that fit a condition."""
    for batch in batches(corpus, kind, source, None, where):
        yield from batch.to_pylist()


def reservoir(rows: Iterator[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` rows drawn evenly from a stream of unknown length, in the stream's order (Vitter's R)."""
    rng = random.Random(seed)
    kept: list[tuple[int, dict[str, Any]]] = []
    for number, row in enumerate(rows):
        if len(kept) < count:
            kept.append((number, row))
        elif (place := rng.randrange(number + 1)) < count:
            kept[place] = (number, row)
    return [row for _, row in sorted(kept, key=lambda item: item[0])]
