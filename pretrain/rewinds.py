"""Going back: which steps are read without being applied, written down before anything is undone.

A rewind goes back to a checkpoint before the step that went wrong, and trains on from there, but the steps
around it are left unapplied: their batches are read and counted, and weights stay as they are (as PaLM did by
hand, arXiv 2204.02311, section 5.1). Which steps those are depends on the step alone and not on where
checkpoints happen to lie, so that a stage comes to the same end however often it was saved or killed.

The record is written before checkpoints are dropped; a process killed in between finishes that at its next
start.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from stemma.core.files import read_json, write_json

FILE = "rewinds.json"


class Rewind(Exception):
    """The stage has to go on from before a step that went wrong. That is on disk already."""

    def __init__(self, stage: str, step: int) -> None:
        super().__init__(f"{stage} goes back to before step {step}")


@dataclass(frozen=True)
class Record:
    """One rewind.

    Attributes:
        first: the first step that is left unapplied.
        step: the last one, which went wrong.
        incident: its line in ``incidents.jsonl``. That is cut back to the checkpoint, and the line written
            again when the step is passed.
    """

    first: int
    step: int
    incident: dict[str, Any]


@dataclass
class Rewinds:
    """All rewinds of one stage so far. Every rank holds the same.

    Attributes:
        path: where they are written down, in the stage's scratch folder.
        records: in the order they were decided.
        pending: checkpoints after this step are still to be dropped.
    """

    path: Path
    records: list[Record] = field(default_factory=list)
    pending: int | None = None

    @classmethod
    def open(cls, scratch: Path) -> "Rewinds":
        """What was decided so far, as rank 0 reads it. Every rank calls it."""
        path = scratch / FILE
        box = [read_json(path) if dist.get_rank() == 0 and path.exists() else None]
        if dist.get_world_size() > 1:
            dist.broadcast_object_list(box, 0)
        known = box[0] or {"records": [], "pending": None}
        return cls(path, [Record(**record) for record in known["records"]], known["pending"])

    def withheld(self, step: int) -> bool:
        """Whether a step is read without being applied."""
        return any(record.first <= step <= record.step for record in self.records)

    def incidents(self, step: int) -> list[dict[str, Any]]:
        """Lines of ``incidents.jsonl`` that belong to a step because of earlier rewinds."""
        return [record.incident for record in self.records if record.step == step]

    def decided_by(self, step: int) -> int:
        """Steps that decided which of the first ``step`` are applied: more of them than ``step`` inside a
        stretch that is left out because of its end."""
        return max([step, *(record.step + 1 for record in self.records if record.first < step)])

    def add(self, step: int, count: int, incident: dict[str, Any]) -> None:
        """Decide to go back, and leave ``count`` steps up to ``step`` unapplied."""
        first = max(0, step - count + 1)
        self.records.append(Record(first, step, incident))
        self.pending = first
        self._write()

    def settle(self) -> None:
        """Checkpoints after ``pending`` are gone."""
        self.pending = None
        self._write()

    def _write(self) -> None:
        if dist.get_rank() == 0:
            records = [asdict(record) for record in self.records]
            write_json(self.path, {"records": records, "pending": self.pending})
