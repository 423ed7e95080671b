"""Steps of a run that went wrong: what they were, what was done about them, and what they read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from stemma.core.artifact import SCRATCH, Artifact
from stemma.core.files import read_json, read_jsonl
from stemma.core.printable import plain

OUTCOMES = {
    "record": "applied all the same",
    "skip": "not applied",
    "rewind": "gone back from, left out with the steps before it",
    "stop": "the stage stopped",
}
SHOWN = 3  # documents of a row that are printed


@dataclass(frozen=True)
class Incident:
    """A line of a stage's ``incidents.jsonl``."""

    stage: str
    line: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Counted from 0, as in receipts."""
        return int(self.line["step"])

    @property
    def what(self) -> str:
        """The figure that was unusual, and what was usual."""
        kind = self.line["kind"]
        if kind == "not_finite":
            return f"loss {self.line['loss']}, gradient norm {self.line['grad_norm']}"
        value = float(self.line["loss" if kind == "loss_spike" else "grad_norm"])
        name = "loss" if kind == "loss_spike" else "gradient norm"
        usual, deviations = self.line["usual"], self.line["deviations"]
        return f"{name} {value:.4g}, {usual:.4g} was usual ({deviations:.0f} deviations)"


def incidents(artifacts: Mapping[str, Artifact], working: Mapping[str, Path]) -> list[Incident]:
    """All incidents of a run, by stage and step.

    Args:
        artifacts: the run's sealed ones, by node name.
        working: folders of its nodes that are being made.
    """
    folders = {name: artifact.path for name, artifact in artifacts.items()} | dict(working)
    return [Incident(stage, line) for stage, folder in folders.items() for line in _lines(folder)]


def _lines(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Those written down, and those a stage went back from and has not come to again."""
    written = list(read_jsonl(folder / "incidents.jsonl"))
    yield from written
    rewinds = folder / SCRATCH / "rewinds.json"
    if rewinds.exists():
        for record in read_json(rewinds)["records"]:
            if record["incident"] not in written:
                yield record["incident"]


def render_incidents(found: list[Incident], out: Console) -> None:
    """Print one line per incident."""
    table = Table(box=None, title_justify="left", header_style="bold", padding=(0, 2, 0, 0))
    for column in ("stage", "step", "what", "then", "rows"):
        table.add_column(column, justify="right" if column in ("step", "rows") else "left")
    for each in found:
        rows = str(len(each.line["batch"]))
        table.add_row(each.stage, str(each.step), each.what, OUTCOMES[each.line["policy"]], rows)
    out.print(table)


def render_incident(found: Incident, out: Console) -> None:
    """Print an incident with the documents of each of its rows."""
    out.print(f"{found.stage} step {found.step}: {found.what}: {OUTCOMES[found.line['policy']]}")
    for number, row in enumerate(found.line["batch"]):
        documents = row.get("documents", [])
        about = ", ".join(f"{name} {value}" for name, value in row.items() if name != "documents")
        out.print(f"  row {number}: {plain(about)}")
        for document in documents[:SHOWN]:
            tokens = f"tokens {document['first']} to {document['last']}"
            out.print(f"    {document['id']}  {tokens}  {plain(document['origin'])}", style="dim")
        if len(documents) > SHOWN:
            out.print(f"    and {len(documents) - SHOWN} more documents", style="dim")
