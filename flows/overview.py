"""The page of a whole run, kept up to date by its flow run: what was asked for, where it is, what came."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import runtime
from prefect.context import FlowRunContext

from flows.files import REPORTS, address
from flows.reports import StageReport
from flows.tables import flatten, reference, show
from stemma.core.artifact import Artifact
from stemma.core.files import write_atomic
from stemma.core.lineage import family, picture
from stemma.pipeline import Run
from stemma.report import rows
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
        _results(walk),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def lineage(walk: Run, report: StageReport) -> str:
    """What was made from what, as a picture that is kept in the run's folder; as a list if that cannot be."""
    members = family(list(walk.artifacts.values()), walk.store)
    path = walk.folder / REPORTS / LINEAGE

    def drawn() -> str:
        write_atomic(path, picture(members, f"What run {walk.name} made from what"))
        return f"![What was made from what]({address(path, walk.store.root)})"

    def line(artifact: Artifact) -> str:
        inputs = ", ".join(f"`{reference(item)}`" for item in artifact.manifest["inputs"].values())
        return f"- `{artifact}`" + (f" from {inputs}" if inputs else "")

    shown = report.part("lineage", drawn) or "\n".join(map(line, members))
    return f"## What was made from what\n\n{shown}\n"


def _asked(walk: Run) -> str:
    """Where the request came from, and what it said that a form does not say by itself."""
    given = flatten(_plain(dict(runtime.flow_run.parameters or {})))
    usual = _defaults()
    said = {
        "profile": walk.profile.name,
        "flow": runtime.flow_run.flow_name,
        "deployment": runtime.deployment.name,
        "folder of runs": walk.store.root,
        **{
            name: value
            for name, value in given
            if name not in ("profile", "root", "run") and value not in (None, "", [], {}, usual.get(name))
        },
    }
    lines = [f"| {name} | `{show(value)}` |" for name, value in said.items() if value]
    return "\n".join(["| asked for | |", "|---|---|", *lines])


def _defaults() -> dict[str, Any]:
    """What the flow's form says where nobody changes it."""
    context = FlowRunContext.get()
    fields = context.flow.parameters.properties if context and context.flow else {}
    return {name: field.get("default") for name, field in fields.items()}


def _plain(value: Any) -> Any:
    """Models of a form as mappings without what was not set."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json", exclude_unset=True)
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _stages(walk: Run, order: Sequence[str], current: str, how: str) -> str:
    lines = ["| stage | | tokens | artifact | time |", "|---|---|---|---|---|"]
    for name in order:
        title = walk.nodes[name].title
        if artifact := walk.artifacts.get(name):
            tokens, seconds = artifact.summary.get("tokens"), duration(artifact.manifest["seconds"])
            tail = f"{show(tokens)} | `{artifact.fingerprint[:12]}` | {seconds}"
        else:
            tail = f"| {how.partition(';')[0].partition(':')[0] if name == current else 'to come'} |"
        lines.append(f"| {name} | {title} | {tail} |")
    return "\n".join(lines)


def _results(walk: Run) -> str:
    """What training changed: bits per byte of held-out text, and scores of tasks, after every stage."""
    found = rows(walk.artifacts)
    tables = []
    for title, of, text in (
        (
            "Held-out text, bits per byte before → after",
            "bits_per_byte",
            lambda pair: f"{pair[0]:.2f} → {pair[1]:.2f}",
        ),
        ("Mean scores on held-out tasks after the stage", "scores", "{:.3f}".format),
    ):
        shown = [row for row in found if row[of]]
        columns = list(dict.fromkeys(name for row in shown for name in row[of]))
        if not shown:
            continue
        lines = [f"## {title}", "", f"| stage | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for row in shown:
            cells = [text(row[of][name]) if name in row[of] else "" for name in columns]
            lines.append(f"| {row['stage']} | {' | '.join(cells)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _reports(walk: Run) -> str:
    pages: list[Path] = sorted((walk.folder / REPORTS).glob("*.html"))
    links = ", ".join(f"[{page.stem}]({address(page, walk.store.root)})" for page in pages)
    return f"Reports: {links}" if links else ""
