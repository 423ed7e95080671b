"""The table at the end of a run, and the report it leaves in the run's folder."""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from stemma.core.artifact import Artifact
from stemma.core.files import read_json, write_atomic, write_json
from stemma.core.lineage import mermaid
from stemma.terminal import duration

if TYPE_CHECKING:
    from stemma.pipeline import Run

DOMAINS = ("web", "stem", "code", "agent")
EVAL_PREFIX = "eval."
PLAN_PREFIX = "plan."
WIDE = 120  # terminal columns from which before and after stand side by side
NARROW = 95  # and below which the artifact is left to the report files


def rows(artifacts: dict[str, Artifact]) -> list[dict[str, Any]]:
    """One row per artifact, evaluations folded into the stage they evaluate, in the order they were made.

    Keys: ``stage``, ``tokens`` (int or None), ``bits_per_byte`` (domain -> (before, after)), ``scores`` (task
    -> mean reward), ``artifact``, ``seconds`` (of its making, its evaluation included).
    """
    found = []
    for name, artifact in artifacts.items():
        if name.startswith(EVAL_PREFIX):
            continue
        summary = artifact.summary
        evaluation = artifacts.get(EVAL_PREFIX + name)
        bits = summary.get("bits_per_byte", {})
        seconds = artifact.manifest["seconds"] + (evaluation.manifest["seconds"] if evaluation else 0.0)
        found.append(
            {
                "stage": name,
                "tokens": summary.get("tokens"),
                "bits_per_byte": {
                    domain: (bits["before"][domain], bits["after"][domain])
                    for domain in DOMAINS
                    if domain in bits.get("after", {})
                },
                "scores": evaluation.summary["scores"] if evaluation else {},
                "artifact": str(artifact),
                "seconds": round(seconds, 1),
            }
        )
    return found


def table(found: list[dict[str, Any]], title: str, width: int) -> Table:
    """The closing table for a terminal; plans, which only prepare a stage, are in the report files alone."""
    shown = [row for row in found if not row["stage"].startswith(PLAN_PREFIX)]
    domains = [name for name in DOMAINS if any(name in row["bits_per_byte"] for row in shown)]
    tasks = list(dict.fromkeys(task for row in shown for task in row["scores"]))
    arrow = "→" if width >= WIDE else "\n"
    made = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    made.padding = (0, 1, 0, 0)
    made.caption_justify = "left"
    captions = []
    if domains:
        before = f"before {arrow.strip() or 'over'} after"
        captions.append(f"{', '.join(domains)}: bits per byte of held-out text, {before}")
    if tasks:
        captions.append(f"{', '.join(tasks)}: mean score on held-out tasks after the stage")
    made.caption = "; ".join(captions) or None
    made.add_column("stage", style="cyan", no_wrap=True)
    made.add_column("tokens", justify="right", no_wrap=True)
    for domain in domains:
        made.add_column(domain, justify="right", no_wrap=True)
    for task in tasks:
        made.add_column(task.replace("_", "\n"), justify="right", no_wrap=True)
    if width >= NARROW:
        made.add_column("artifact", no_wrap=True, style="dim")
    made.add_column("time", justify="right", no_wrap=True)
    for row in shown:
        bits = [
            f"{pair[0]:.2f}{arrow}{pair[1]:.2f}" if (pair := row["bits_per_byte"].get(name)) else ""
            for name in domains
        ]
        scores = [f"{row['scores'][task]:.2f}" if task in row["scores"] else "" for task in tasks]
        tokens = f"{row['tokens']:,}" if row["tokens"] is not None else ""
        artifact = [row["artifact"].rpartition("-")[2]] if width >= NARROW else []
        made.add_row(row["stage"], tokens, *bits, *scores, *artifact, duration(row["seconds"]))
    return made


def reward_line(found: list[dict[str, Any]]) -> str:
    """What RL changed on held-out items, as measured; empty without RL."""
    by_stage = {row["stage"]: row["scores"] for row in found}
    before, after = by_stage.get("sft", {}), by_stage.get("rl", {})
    parts = [f"{task} {before[task]:.3f} → {after[task]:.3f}" for task in after if task in before]
    return "reward on held-out items, before → after RL:  " + ",  ".join(parts) if parts else ""


def print_report(run: "Run", out: Console) -> None:
    """Print the closing table, say where things are, and write the report files."""
    path = write_report(run)
    found = rows(run.artifacts)
    out.print()
    out.print(table(found, f"run {run.name}", out.width))
    if line := reward_line(found):
        out.print(line)
    if export := run.artifacts.get("export"):
        out.print(
            f"\nThe model: [bold]{_short(export.path / 'hf')}[/]"
            f"  (transformers loads it; `stemma chat {run.name}`)"
        )
    out.print(f"The report: {_short(path)}")
    for page in sorted((run.folder / "reports").glob("*.html")):
        out.print(f"  in a browser: {_short(page)}")


def write_report(run: "Run") -> Path:
    """Write ``report.md``, ``.json`` and ``.svg``, and the pages in ``reports/``, into the run's folder;
    returns the first.
    """
    from data_pipeline.inspection.report.write import write_reports
    from pretrain.report.write import write_training_report
    from tokenizer.report.write import REPORT
    from tokenizer.report.write import write_report as write_tokenizer_report

    found = rows(run.artifacts)
    path = run.folder / "report.md"
    write_json(run.folder / "report.json", {"run": run.name, "rows": found})
    pages = write_reports(run.artifacts, run.folder, run.name)
    if tokenizer := run.artifacts.get("tokenizer"):
        measured = read_json(tokenizer.file(REPORT))
        if measured["groups"]:  # none where a corpus has nothing to measure on
            pages.append(write_tokenizer_report(measured, run.folder / "reports", run.name))
    if training := write_training_report(run.artifacts, run.folder, run.name):
        pages.append(training)
    write_atomic(path, markdown(run, found, [page.relative_to(run.folder).as_posix() for page in pages]))
    write_atomic(run.folder / "report.svg", picture(run.name, found))
    return path


def picture(name: str, found: list[dict[str, Any]]) -> str:
    """The closing table as an SVG that asks no other host for a font."""
    recorder = Console(record=True, width=132, file=io.StringIO(), force_terminal=True)
    recorder.print(table(found, f"run {name}", recorder.width))
    if line := reward_line(found):
        recorder.print(line)
    drawn = recorder.export_svg(title=f"stemma: {name}")
    return re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def markdown(run: "Run", found: list[dict[str, Any]], pages: list[str]) -> str:
    """The report's text: the closing table, task scores, links to pages, and the tree of artifacts."""
    lines = [f"# Run {run.name}", "", run.profile.description, ""]
    header = [
        "stage",
        "tokens",
        *(f"{name} bits/byte" for name in DOMAINS),
        "task scores",
        "artifact",
        "seconds",
    ]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in found:
        bits = [
            f"{pair[0]:.3f} → {pair[1]:.3f}" if (pair := row["bits_per_byte"].get(name)) else ""
            for name in DOMAINS
        ]
        scores = ", ".join(f"{task} {value:.3f}" for task, value in row["scores"].items())
        tokens = f"{row['tokens']:,}" if row["tokens"] is not None else ""
        lines.append(
            f"| {row['stage']} | {tokens} | {' | '.join(bits)} | {scores} | {row['artifact']} "
            f"| {row['seconds']} |"
        )
    if line := reward_line(found):
        lines += ["", line]
    if pages:
        links = ", ".join(f"[{Path(page).stem}]({page})" for page in pages)
        lines += ["", f"To look at in a browser: {links}"]
    if run.artifacts:
        last = list(run.artifacts.values())[-1]
        lines += ["", "## What was made from what", "", "```mermaid", mermaid(last, run.store), "```"]
    return "\n".join(lines) + "\n"


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
