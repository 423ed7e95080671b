"""The funnel: documents and bytes of every source after each step, from the tallies the ranks wrote."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_pipeline.corpus.statistics import Statistics

MB = 1e6
UNITS = ("documents", "bytes")


def funnel_entry(domain: str, steps: list[tuple[str, tuple[int, int]]], counts: Statistics) -> dict[str, Any]:
    """A source's entry in ``funnel.json``.

    Args:
        domain: the source's.
        steps: in running order, and how many documents and bytes passed each.
        counts: what it kept and lost.
    """
    return {
        "domain": domain,
        "steps": [{"step": step, "documents": number, "bytes": size} for step, (number, size) in steps],
        "rejected": {rule: count.documents for rule, count in sorted(counts.rejected.items())},
    }


def by_domain(sources: dict[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """Domain -> ``read`` and ``kept`` -> documents and bytes."""
    domains: dict[str, dict[str, dict[str, int]]] = {}
    for entry in sources.values():
        domain = domains.setdefault(entry["domain"], {at: dict.fromkeys(UNITS, 0) for at in ("read", "kept")})
        for at, step in (("read", entry["steps"][0]), ("kept", entry["steps"][-1])):
            for unit in UNITS:
                domain[at][unit] += step[unit]
    return domains


def totals(domains: dict[str, dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """``read`` and ``kept`` -> documents and bytes, over all domains."""
    return {
        at: {unit: sum(domain[at][unit] for domain in domains.values()) for unit in UNITS}
        for at in ("read", "kept")
    }


def amount(counts: dict[str, tuple[int, int]]) -> str:
    """Documents and megabytes of a tally, as text."""
    documents, size = (sum(count[index] for count in counts.values()) for index in (0, 1))
    return f"{documents:,} documents, {size / MB:.1f} MB"


def frequent(rules: dict[str, int]) -> str:
    """The three most frequent rules, as text."""
    top = sorted(rules.items(), key=lambda entry: (-entry[1], entry[0]))[:3]
    return ", ".join(f"{rule} {number}" for rule, number in top) or "nothing was read"


def rules_in(folder: Path) -> dict[str, int]:
    """Rejects by rule below a folder of rejects that the pipelines wrote."""
    rules: Counter[str] = Counter()
    for path in folder.rglob("*.parquet"):
        rules.update(pq.read_table(path, columns=["rule"])["rule"].to_pylist())
    return dict(rules)
