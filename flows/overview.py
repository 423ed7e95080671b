"""The page of a whole run, kept up to date by its flow run: what was asked for, where it is, what came."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import runtime

from flows.files import REPORTS, address
from flows.reports import StageReport
from flows.tables import flatten, reference, show
from stemma.core.files import write_atomic
from stemma.core.lineage import family, picture
from stemma.pipeline import Run
from stemma.report import EVAL_PREFIX, reward_line, rows
from stemma.terminal import duration

LINEAGE = "lineage.svg"


def overview(walk: Run, order: Sequence[str], current: str = "", how: str = "is being made") -> str:
    """The page as Markdown; the UI is narrow and draws no Mermaid.

    Args:
        walk: the run.
        order: the nodes that were asked for.
        current: the one at work; "" at the end.
        how: how that one stands.
    """
    made = sum(name in walk.artifacts for name in order)
    state = f"{made} of {len(order)} stages made" + (f", **{current}** {how}" if current else "")
    parts = [
        f"# Run {walk.name}",
        walk.profile.description,
        f"{state}.",
        _reports(walk),
        _asked(walk),
        "## Stages",
        _stages(walk, order, current, how),
        reward_line(rows(walk.artifacts)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def lineage(walk: Run, report: StageReport) -> str:
    """What was made from what, as a picture that is kept in the run's folder, and as a list."""
    members = family(list(walk.artifacts.values()), walk.store)
    path = walk.folder / REPORTS / LINEAGE

    def drawn() -> str:
        write_atomic(path, picture(members, f"What run {walk.name} made from what"))
        return f"![What was made from what]({address(path, walk.store.root)})"

    lines = []
    for artifact in members:
        inputs = ", ".join(f"`{reference(item)}`" for item in artifact.manifest["inputs"].values())
        lines.append(f"- `{artifact}`" + (f" from {inputs}" if inputs else ""))
    parts = ["## What was made from what", report.part("lineage", drawn), "\n".join(lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _asked(walk: Run) -> str:
    """Where the request came from, and what it said, as far as it says something."""
    given = flatten(_plain(dict(runtime.flow_run.parameters or {})))
    said = {
        "profile": f"`{walk.profile.name}`",
        "flow": f"`{runtime.flow_run.flow_name}`" if runtime.flow_run.flow_name else "",
        "deployment": f"`{runtime.deployment.name}`" if runtime.deployment.name else "",
        "runs": f"`{walk.store.root}`",
        **{
            name: f"`{show(value)}`"
            for name, value in given
            if name not in ("profile", "root") and value not in (None, "", [], {})
        },
    }
    lines = ["## Asked for", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in said.items() if value)])


def _plain(value: Any) -> Any:
    """Models of a form as mappings without what was not set."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _stages(walk: Run, order: Sequence[str], current: str, how: str) -> str:
    found = {row["stage"]: row for row in rows(walk.artifacts)}
    lines = [
        "| stage | | tokens | bits per byte, before → after | task scores | time |",
        "|---|---|---|---|---|---|",
    ]
    for name in order:
        if name.startswith(EVAL_PREFIX) and name in walk.artifacts:
            continue  # its scores stand beside the stage they are of
        if (row := found.get(name)) is None:
            lines.append(f"| {name} | {how if name == current else 'to come'} | | | | |")
            continue
        bits = ", ".join(f"{domain} {a:.2f} → {b:.2f}" for domain, (a, b) in row["bits_per_byte"].items())
        scores = ", ".join(f"{task} {value:.3f}" for task, value in row["scores"].items())
        tokens = "" if row["tokens"] is None else f"{row['tokens']:,}"
        lines.append(
            f"| {name} | `{row['artifact'].rpartition('-')[2]}` | {tokens} | {bits} | {scores} | "
            f"{duration(row['seconds'])} |"
        )
    return "\n".join(lines)


def _reports(walk: Run) -> str:
    pages: list[Path] = sorted((walk.folder / REPORTS).glob("*.html"))
    links = ", ".join(f"[{page.stem}]({address(page, walk.store.root)})" for page in pages)
    return f"Reports: {links}" if links else ""
