"""What the UI shows of an artifact: its summary, its planned and realized mix, and the lineage of a run."""

from typing import Any

from stemma.core.artifact import Artifact, Store
from stemma.core.files import read_json
from stemma.core.ledger import Count, Ledger
from stemma.core.lineage import ancestry
from stemma.terminal import duration

LEDGER = "ledger.json"
MERMAID_HEADING = "## What was made from what"


def summary_markdown(artifact: Artifact, title: str) -> str:
    """An artifact's summary, origin and place."""
    inputs = ", ".join(
        f"{role}: `{reference['name']}-{reference['fingerprint'][:12]}`"
        for role, reference in artifact.manifest["inputs"].items()
    )
    lines = [
        f"# {artifact.name}",
        "",
        title,
        "",
        "| | |",
        "|---|---|",
        f"| artifact | `{artifact}` |",
        f"| made from | {inputs or 'nothing of ours'} |",
        f"| made in | {duration(artifact.manifest['seconds'])} |",
        f"| folder | `{artifact.path}` |",
    ]
    figures = list(flatten(artifact.summary))
    if figures:
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {name} | {show(value)} |" for name, value in figures]
    return "\n".join(lines) + "\n"


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """A JSON value's leaves with their dotted paths."""
    if isinstance(value, dict):
        return [
            leaf
            for key, item in value.items()
            for leaf in flatten(item, f"{path}.{key}" if path else str(key))
        ]
    return [(path, value)]


def show(value: Any) -> str:
    """A figure as a table cell."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    text = ", ".join(map(show, value)) if isinstance(value, list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def mix_table(artifact: Artifact) -> list[dict[str, Any]] | None:
    """Planned and realized tokens by source, then by domain; None for what keeps no ledger."""
    if LEDGER not in artifact.manifest["files"]:
        return None
    record = read_json(artifact.path / LEDGER)
    planned, realized = Ledger.from_json(record["planned"]), Ledger.from_json(record["realized"])
    sources = sorted(
        planned.counts.keys() | realized.counts.keys(), key=lambda name: (planned.domains[name], name)
    )
    rows = [
        _row(planned.domains[name], name, planned.counts.get(name), realized.counts.get(name))
        for name in sources
    ]
    of_plan, of_run = planned.by_domain(), realized.by_domain()
    rows += [_row(domain, "(all)", of_plan.get(domain), of_run.get(domain)) for domain in sorted(of_plan)]
    whole = sum(count.tokens for count in realized.counts.values())
    for row in rows:
        row["share"] = f"{100 * row['realized tokens'] / max(whole, 1):.1f}%"
    return rows


def _row(domain: str, source: str, planned: Count | None, realized: Count | None) -> dict[str, Any]:
    planned, realized = planned or Count(), realized or Count()
    return {
        "domain": domain,
        "source": source,
        "planned samples": planned.samples,
        "realized samples": realized.samples,
        "planned tokens": planned.tokens,
        "realized tokens": realized.tokens,
        "supervised tokens": realized.supervised,
        "equal": "yes" if planned == realized else "NO",
    }


def report_markdown(text: str, last: Artifact | None, store: Store) -> str:
    """A run's report for the UI, which draws no Mermaid: the lineage becomes a list."""
    body = text.split(MERMAID_HEADING)[0].rstrip()
    if last is None:
        return body + "\n"
    lines = [body, "", MERMAID_HEADING, ""]
    for artifact in ancestry(last, store):
        inputs = [
            f"`{item['name']}-{item['fingerprint'][:12]}`" for item in artifact.manifest["inputs"].values()
        ]
        lines.append(f"- `{artifact}`" + (f" from {', '.join(inputs)}" if inputs else ""))
    return "\n".join(lines) + "\n"
