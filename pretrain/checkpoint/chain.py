"""The rolling hash of a training run: one line per checkpoint, each chained to the one before.

A line of ``checkpoints.jsonl`` holds a SHA-256 over parameters and optimizer state (``state.digest``) and one
over the line before and this. Two runs that did the same have the same last line, and a line that was altered
or taken out breaks all later ones. Only checkpoints that fall due by the profile are chained: one that a
preempted run made in between is not part of what is computed.

The state's hash is taken over the parts that each rank writes. So it is the same for every run with the same
number of ranks; another topology keeps the state in other parts.
"""

import hashlib
from pathlib import Path
from typing import Any

from pretrain.receipts import JsonlLog
from stemma.core.errors import DamagedError
from stemma.core.files import read_jsonl

CHECKPOINTS = "checkpoints.jsonl"
START = ""  # what the first line of a stage is chained to


def link(previous: str, step: int, state_sha256: str) -> str:
    """SHA-256 that stands for a checkpoint and all before it."""
    return hashlib.sha256(f"{previous}\n{step}\n{state_sha256}".encode()).hexdigest()


def check(path: Path) -> int:
    """Follow the chain of a ``checkpoints.jsonl`` and return the number of its lines.

    Raises:
        DamagedError: a line does not follow from the one before.
    """
    previous, count = START, 0
    for count, line in enumerate(read_jsonl(path), 1):
        step, state, chain = (line.get(name, "") for name in ("step", "state_sha256", "chain_sha256"))
        if chain != link(previous, step, state):
            raise DamagedError(
                f"{path}:{count}: the hash of step {step} does not follow from the line before; "
                "lines were altered or are missing. It was left as it is."
            )
        previous = chain
    return count


class Chain:
    """The chain of a stage in training. Only rank 0 has the file; every rank carries the last hash.

    Args:
        path: of ``checkpoints.jsonl``; None where somebody else writes it.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.log: JsonlLog | None = None
        self.last = START

    def position(self) -> dict[str, Any]:
        """Where the file ends before the checkpoint that is to be saved."""
        return self._open().sync() if self.path else {}

    def record(self, step: int, state_sha256: str) -> dict[str, Any]:
        """What a checkpoint says of itself, and which line comes before it."""
        return {"step": step, "state_sha256": state_sha256, "previous": self.last}

    def append(self, record: dict[str, Any], due: bool) -> None:
        """Take note of a checkpoint that lies on the disk.

        Args:
            record: its own.
            due: it fell due by the profile, and gets a line.
        """
        self.last = record["previous"]
        if due:
            self.last = link(record["previous"], record["step"], record["state_sha256"])
            if self.path:
                line = {"step": record["step"], "state_sha256": record["state_sha256"]}
                self._open().append(line | {"chain_sha256": self.last})

    def go_back(self, position: dict[str, Any], record: dict[str, Any], due: bool) -> None:
        """Continue from a checkpoint: cut off what came after it, and add its own line.

        Raises:
            DamagedError: the file is not what it was when the checkpoint was saved.
        """
        self.close()
        if self.path:
            self.log = JsonlLog(self.path, position)
        self.append(record, due)

    def close(self) -> None:
        """Leave the file to others."""
        if self.log:
            self.log.close()
        self.log = None

    def _open(self) -> JsonlLog:
        if self.log is None:
            assert self.path is not None
            self.log = JsonlLog(self.path)
        return self.log
