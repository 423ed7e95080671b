"""The figures of a run's training stages, read from what they leave: also from stages that still train."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stemma.core.artifact import Artifact
from stemma.core.files import read_json, read_jsonl

METRICS = "metrics.jsonl"
BITS = "bits_per_byte/"  # of a domain


@dataclass(frozen=True)
class StageFigures:
    """One training stage.

    Attributes:
        name: the node's.
        folder: name of its artifact.
        sealed: it has ended.
        metrics: the lines of ``metrics.jsonl``.
        monitors: those of ``monitors.jsonl``.
        incidents: those of ``incidents.jsonl``.
        checkpoints: those of ``checkpoints.jsonl``.
        bits: bits per byte by domain, before and after; empty while it trains.
        summary: of the sealed artifact.
    """

    name: str
    folder: str
    sealed: bool
    metrics: list[dict[str, Any]]
    monitors: list[dict[str, Any]]
    incidents: list[dict[str, Any]]
    checkpoints: list[dict[str, Any]]
    bits: dict[str, tuple[float, float]] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Steps that have a line of metrics."""
        return len(self.metrics)

    @property
    def domains(self) -> set[str]:
        """Those it is validated on, or has trained on so far."""
        names = {name for line in self.metrics for name in line if name.startswith(BITS)}
        return set(self.bits) | {name.removeprefix(BITS) for name in names}

    @property
    def tokens(self) -> int:
        """Tokens of those steps."""
        return sum(line["tokens"] for line in self.metrics)


def gather(artifacts: Mapping[str, Artifact], working: Mapping[str, Path]) -> list[StageFigures]:
    """Every training stage of a run that has a step, in the order they are made.

    Args:
        artifacts: the run's sealed ones, by node name.
        working: folders of its nodes that are being made.
    """
    found = []
    for name, artifact in artifacts.items():
        if (artifact.path / METRICS).exists():
            found.append(_stage(name, artifact.path, True, artifact.summary))
    for name, folder in working.items():
        if (folder / METRICS).exists():
            found.append(_stage(name, folder, False, {}))
    return [stage for stage in found if stage.metrics]


def _stage(name: str, folder: Path, sealed: bool, summary: Mapping[str, Any]) -> StageFigures:
    evaluation = read_json(folder / "evaluation.json") if sealed else {"before": {}, "after": {}}
    return StageFigures(
        name=name,
        folder=folder.name,
        sealed=sealed,
        metrics=list(read_jsonl(folder / METRICS)),
        monitors=list(read_jsonl(folder / "monitors.jsonl")),
        incidents=list(read_jsonl(folder / "incidents.jsonl")),
        checkpoints=list(read_jsonl(folder / "checkpoints.jsonl")),
        bits={
            domain: (before, evaluation["after"][domain])
            for domain, before in evaluation["before"].items()
            if domain in evaluation["after"]
        },
        summary=summary,
    )
