"""What the UI shows of an artifact: its summary, its planned and realized mix, and the lineage of a run."""

from typing import Any

from stemma.core.artifact import Artifact, Store
from stemma.core.files import read_json
from stemma.core.ledger import Count, Ledger
from stemma.core.lineage import ancestry
from stemma.report import reward_line, rows
from stemma.terminal import duration

LEDGER = "ledger.json"


def summary_markdown(artifact: Artifact) -> str:
    """An artifact's origin, place and figures."""
    inputs = ", ".join(f"{role}: `{reference(item)}`" for role, item in artifact.manifest["inputs"].items())
    lines = [
        f"# {artifact.name}",
        "",
        f"| artifact | `{artifact}` |",
        "|---|---|",
        f"| made from | {inputs or 'nothing of ours'} |",
        f"| made in | {duration(artifact.manifest['seconds'])} |",
        f"| folder | `{artifact.path}` |",
    ]
    figures = flatten(artifact.summary)
    if figures:
        lines += ["", "| figure | value |", "|---|---|"]
        lines += [f"| {name} | {show(value)} |" for name, value in figures]
    return "\n".join(lines) + "\n"


def reference(item: dict[str, str]) -> str:
    """An input as a manifest names it, in an artifact's usual form."""
    return f"{item['name']}-{item['fingerprint'][:12]}"


def flatten(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """A JSON value's leaves with their dotted paths; what was measured before and after shares a line."""
    if not isinstance(value, dict):
        return [(path, value)]
    if value.keys() == {"before", "after"}:
        before, after = dict(flatten(value["before"], path)), dict(flatten(value["after"], path))
        return [(name, f"{show(before.get(name))} → {show(after.get(name))}") for name in before | after]
    prefix = f"{path}." if path else ""
    return [leaf for key, item in value.items() for leaf in flatten(item, f"{prefix}{key}")]


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
    made = [
        _row(planned.domains[name], name, planned.counts.get(name), realized.counts.get(name))
        for name in sources
    ]
    of_plan, of_run = planned.by_domain(), realized.by_domain()
    made += [_row(domain, "(all)", of_plan.get(domain), of_run.get(domain)) for domain in sorted(of_plan)]
    whole = sum(count.tokens for count in realized.counts.values())
    for row in made:
        row["share"] = f"{100 * row['realized tokens'] / max(whole, 1):.1f}%"
    return made


def _row(domain: str, source: str, planned: Count | None, realized: Count | None) -> dict[str, Any]:
    planned, realized = planned or Count(), realized or Count()
    return {
        "domain": domain,
        "source": source,
        "share": "",  # first in sight, filled in when the whole is known
        "planned tokens": planned.tokens,
        "realized tokens": realized.tokens,
        "equal": "yes" if planned == realized else "NO",
        "supervised": realized.supervised,
        "samples": realized.samples,
    }


def report_markdown(name: str, description: str, artifacts: dict[str, Artifact], store: Store) -> str:
    """A run's report for the UI, which is narrow and draws no Mermaid: the lineage is a list.

    Args:
        name: the run's name.
        description: its profile's, for people.
        artifacts: by node name, in the order they were made.
        store: where their inputs are found.
    """
    found = rows(artifacts)
    lines = [f"# Run {name}", "", description, ""]
    lines += [
        "| stage | tokens | bits per byte, before → after | task scores | time |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        bits = ", ".join(f"{domain} {a:.2f} → {b:.2f}" for domain, (a, b) in row["bits_per_byte"].items())
        scores = ", ".join(f"{task} {value:.3f}" for task, value in row["scores"].items())
        tokens = "" if row["tokens"] is None else f"{row['tokens']:,}"
        lines.append(f"| {row['stage']} | {tokens} | {bits} | {scores} | {duration(row['seconds'])} |")
    if line := reward_line(found):
        lines += ["", line]
    lines += ["", "## What was made from what", ""]
    for artifact in ancestry(list(artifacts.values())[-1], store):
        inputs = ", ".join(f"`{reference(item)}`" for item in artifact.manifest["inputs"].values())
        lines.append(f"- `{artifact}`" + (f" from {inputs}" if inputs else ""))
    return "\n".join(lines) + "\n"
