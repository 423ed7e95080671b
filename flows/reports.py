"""A stage's report for the UI: what it made, how that went, how it reads, and how to go on from it."""

import logging
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from flows import pictures
from flows.files import REPORTS, address
from flows.tables import LEDGER, figures_table, inputs_table, origin_table, show
from pretrain.report.figures import METRICS, StageFigures, gather
from stemma.core.artifact import SCRATCH
from stemma.core.files import read_json, write_atomic
from stemma.core.ledger import Ledger
from stemma.pipeline import Run
from stemma.terminal import duration

Logger: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"
PICTURES = "stages"  # folder of the pictures, and of the texts that show them
SAMPLES = 2
EXCERPT = 700  # characters of a sample
COLUMNS = 100  # the UI wraps nothing in a block of code
CHECKPOINTS = 8  # the newest


class StageReport:
    """Writes the report of one node, and the pictures in it into the run's folder.

    A picture or a part that cannot be made is left out and said in the log: it never fails the stage.

    Args:
        walk: the run that makes the node.
        node: its name.
        logger: is told what was left out.
    """

    def __init__(self, walk: Run, node: str, logger: Logger) -> None:
        self.walk, self.node, self.logger = walk, node, logger
        self.complaints: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where the node's artifact is, or is being made."""
        return self.walk.store.folder(self.node, self.walk.record["nodes"][self.node]["fingerprint"])

    def working(self, total: int = 0, ended: str = "") -> str:
        """What can be said before it is made.

        Args:
            total: optimizer steps it will have; 0: not known.
            ended: how the making of it ended; empty: it goes on.
        """
        parts = [
            f"# {self.node} · being made" if not ended else f"# {self.node}\n\n**{self.node}** {ended}.",
            self.part("loss", lambda: self._loss(self._figures(), total)),
            self.part("checkpoints", self._saved),
            "## To stop and go on",
            "**Cancel**, while it is made, writes a checkpoint and stops. **Retry**, or a new run with the "
            "same parameters, goes on from the last one, as it does after a crash.",
            f"Folder, until it is sealed: `{self.folder}`",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def sealed(self, anew: bool = True) -> str:
        """The whole report of a node that is made.

        Args:
            anew: write it even if the run's folder has it: as this artifact is the same for ever, what was
                written when it was made still holds.
        """
        kept = self.walk.folder / REPORTS / PICTURES / f"{self.walk.artifacts[self.node]}.md"
        if not anew and kept.exists():
            return kept.read_text()
        text = self._sealed()

        def keep() -> str:
            write_atomic(kept, text)
            return text

        self.part("copy in the run's folder", keep)
        return text

    def _sealed(self) -> str:
        artifact = self.walk.artifacts[self.node]
        figures = self._figures() if (artifact.path / METRICS).exists() else None
        parts = [
            f"# {self.node} · done in {duration(artifact.manifest['seconds'])}",
            self.part("figures", lambda: self._headline(figures) if figures else ""),
            self.part("loss", lambda: self._loss(figures) if figures else ""),
            self.part("reward", lambda: self._reward(figures) if figures else ""),
            self.part("mix", self._mix),
            self.part("bits per byte", lambda: self._bits(figures) if figures else ""),
            self.part("scores", self._scores),
            self.part("samples", self._samples),
            self.part("reports", self._pages),
            self.part("checkpoints", lambda: self._checkpoints(figures) if figures else ""),
            self.part("going on", lambda: self._going_on() if figures else ""),
            "## What it is, and what from",
            origin_table(artifact),
            inputs_table(artifact),
            "## All figures" if artifact.summary else "",
            figures_table(artifact),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def part(self, what: str, write: Callable[[], str]) -> str:
        """A part of the report; "" where it cannot be made."""
        try:
            return write()
        except Exception as error:  # whatever it is: the stage is made, and a report is only there to be read
            if what not in self.complaints:
                self.logger.warning("the report of %s goes without its %s: %r", self.node, what, error)
            self.complaints.add(what)
            return ""

    def picture(self, what: str, drawn: str, title: str) -> str:
        """Keep a picture under a name of its artifact, so that older versions of the report keep theirs."""
        if not drawn:
            return ""
        path = self.walk.folder / REPORTS / PICTURES / f"{self.folder.name}-{what}.svg"
        write_atomic(path, drawn)
        return f"![{title}]({address(path, self.walk.store.root)})"

    # --- parts --------------------------------------------------------------------------------------------

    def _figures(self) -> StageFigures | None:
        sealed = {name: made for name, made in self.walk.artifacts.items() if name == self.node}
        found = gather(sealed, {} if sealed else {self.node: self.folder})
        return found[0] if found else None

    def _headline(self, figures: StageFigures) -> str:
        summary = figures.summary
        cells = {
            "steps": f"{figures.steps:,}",
            "tokens": f"{figures.tokens:,}",
            "loss": f"{figures.metrics[0]['loss']:.3f} → {figures.metrics[-1]['loss']:.3f}",
            "tokens a second": show(summary.get("tokens_per_second")),
            "steps that went wrong": str(len(figures.incidents)),
            "restarts": show(summary.get("restarts", 0)),
        }
        return "\n".join(
            [
                "| " + " | ".join(cells) + " |",
                "|" + "---|" * len(cells),
                "| " + " | ".join(cells.values()) + " |",
            ]
        )

    def _loss(self, figures: StageFigures | None, total: int = 0) -> str:
        if figures is None:
            return ""
        return self.picture("loss", pictures.loss_picture(figures, total), f"Loss of {self.node}")

    def _reward(self, figures: StageFigures) -> str:
        return self.picture("reward", pictures.reward_picture(figures), f"Reward of {self.node}")

    def _mix(self) -> str:
        artifact = self.walk.artifacts[self.node]
        if LEDGER in artifact.manifest["files"]:
            record = read_json(artifact.path / LEDGER)
            planned, realized = Ledger.from_json(record["planned"]), Ledger.from_json(record["realized"])
            said = (
                "What was consumed is what was planned, to the sample"
                if planned == realized
                else ("**What was consumed is not what was planned**")
            )
            drawn = pictures.mix_picture(self.node, planned, realized)
            table = "; the artifact beside this one has the table."
        elif artifact.kind == "plan":
            from data_pipeline.inspection.lookup import load_plan

            stage = self.node.removeprefix("plan.")
            plan = load_plan(self.walk.artifacts, stage)
            drawn = pictures.mix_picture(stage, plan.counts(plan.total_samples), None)
            said, table = f"{plan.total_steps:,} steps, {plan.total_samples:,} samples", "."
        else:
            return ""
        return f"## Mix\n\n{self.picture('mix', drawn, f'Mix of {self.node}')}\n\n{said}{table}"

    def _bits(self, figures: StageFigures) -> str:
        if not figures.bits:
            return ""
        rows = [
            f"| {domain} | {before:.3f} | {after:.3f} | {after - before:+.3f} |"
            for domain, (before, after) in sorted(figures.bits.items())
        ]
        head = ["## Held-out text", "", "| bits per byte | before | after | change |", "|---|---|---|---|"]
        return "\n".join([*head, *rows])

    def _scores(self) -> str:
        summary = self.walk.artifacts[self.node].summary
        if "scores" not in summary:
            return ""
        errors = summary.get("standard_errors", {})
        rows = [
            f"| {task} | {score:.3f} | ± {errors.get(task, 0.0):.3f} |"
            for task, score in summary["scores"].items()
        ]
        return "\n".join(["## Scores", "", "| task | mean reward | standard error |", "|---|---|---|", *rows])

    def _samples(self) -> str:
        from flows.samples import samples

        texts = samples(self.walk.artifacts, self.node, SAMPLES)
        blocks = [f"**{about}**\n\n{fenced(text)}" for about, text in texts]
        return "\n\n".join(["## Samples", *blocks]) if blocks else ""

    def _pages(self) -> str:
        from flows.pages import refresh

        links = [
            f"[{path.stem}]({address(path, self.walk.store.root)})" for path in refresh(self.walk, self.node)
        ]
        return f"## Reports\n\nTo look at in a browser: {', '.join(links)}" if links else ""

    def _saved(self) -> str:
        """Checkpoints of a stage that is being made, by the names of their folders."""
        from pretrain.checkpoint import list_checkpoints, step_of

        steps = sorted(map(step_of, list_checkpoints(self.folder / SCRATCH / "checkpoint")))
        return f"Checkpoints kept so far: {', '.join(f'step {step:,}' for step in steps)}" if steps else ""

    def _checkpoints(self, figures: StageFigures) -> str:
        from pretrain.checkpoint import list_checkpoints, step_of
        from pretrain.checkpoint.retention import MILESTONES

        kept = {step_of(folder): folder.name for folder in list_checkpoints(self.folder / MILESTONES)}
        last = figures.checkpoints[-1:]
        rows = []
        for line in figures.checkpoints[-CHECKPOINTS:]:
            place = f"`{MILESTONES}/{kept[line['step']]}`" if line["step"] in kept else ""
            place = "`checkpoint/`" if line in last else place
            rows.append(f"| {line['step']:,} | `{line['state_sha256'][:16]}` | {place} |")
        if not rows:
            return ""
        more = len(figures.checkpoints) - CHECKPOINTS
        head = [
            "## Checkpoints",
            "",
            "| after step | SHA-256 of weights and optimizer | kept in |",
            "|---|---|---|",
        ]
        return "\n".join([*head, *rows, *([f"\nand {more} before"] if more > 0 else [])])

    def _going_on(self) -> str:
        run, node = self.walk.name, self.node
        return (
            "## To go on from here\n\n"
            "A new run with the same parameters keeps this stage and goes on after it. "
            f"`start_from = {node}` branches a run from it, `{node}@STEP` from a checkpoint that is kept. In "
            f"a terminal: `stemma checkpoints list {run}`, `stemma trace {run} --stage {node} --step 0`."
        )


def fenced(text: str, most: int = EXCERPT) -> str:
    """Other people's text as Markdown that shows it as it is: cut, and in a fence longer than any in it."""
    from stemma.core.printable import printable

    cut = text if len(text) <= most else f"{text[:most]}\n… {len(text) - most:,} more characters"
    wrap = textwrap.TextWrapper(COLUMNS, replace_whitespace=False, drop_whitespace=False)
    shown = "\n".join("\n".join(wrap.wrap(printable(line))) for line in cut.splitlines())
    fence = "```"
    while fence in shown:
        fence += "`"
    return f"{fence}text\n{shown}\n{fence}"
