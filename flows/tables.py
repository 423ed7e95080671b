"""What the UI shows of an artifact as tables: what it is, its figures, its planned and realized mix."""

from typing import Any

from stemma.core.artifact import Artifact
from stemma.core.files import read_json
from stemma.core.ledger import Count, Ledger
from stemma.terminal import duration

LEDGER = "ledger.json"


def origin_table(artifact: Artifact) -> str:
    """Which artifact it is, and where."""
    rows = {
        "fingerprint": f"`{artifact.fingerprint}`",
        "folder": f"`{artifact.path}`",
        "made in": duration(artifact.manifest["seconds"]),
    }
    lines = [
        f"| artifact | `{artifact}` |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows.items()),
    ]
    return "\n".join(lines)


def inputs_table(artifact: Artifact) -> str:
    """What it was made from."""
    inputs = [f"| {role} | `{reference(item)}` |" for role, item in artifact.manifest["inputs"].items()]
    if not inputs:
        return "Made from nothing of ours."
    return "\n".join(["| made from | artifact |", "|---|---|", *inputs])


def figures_table(artifact: Artifact) -> str:
    """All figures its stage returned; "" without any."""
    figures = [f"| {name} | {show(value)} |" for name, value in flatten(artifact.summary)]
    return "\n".join(["| figure | value |", "|---|---|", *figures]) if figures else ""


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
