"""Append-only records of a training run that survive being killed: receipts, metrics, incidents.

Lines are written as they happen. At a checkpoint the file is flushed to disk, and its length and SHA-256
go into the checkpoint; a resumed run cuts the file back to exactly that, so a line never describes a step
that was lost.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from stemma.core.errors import DamagedError


def receipt(step: int, batch_sha256: str, loss: float, grad_norm: float, lr: float) -> dict[str, Any]:
    """What a step leaves behind: enough to tell that two runs did the same. No clock, no host name.

    Args:
        step: counted from 0 within the stage.
        batch_sha256: of the global batch.
        loss: mean over the step's supervised tokens, nats.
        grad_norm: 2-norm of the gradient over all parameters, before clipping.
        lr: learning rate the step used.
    """
    return {
        "step": step,
        "batch_sha256": batch_sha256,
        "loss": loss.hex(),
        "grad_norm": grad_norm.hex(),
        "lr": lr.hex(),
    }


class JsonlLog:
    """A JSON-lines file that can be cut back to a known position.

    Args:
        path: the file.
        position: what ``sync`` returned before the checkpoint to continue from; None starts the file anew.

    Raises:
        DamagedError: the file does not begin with what the position says.
    """

    def __init__(self, path: Path, position: dict[str, Any] | None = None) -> None:
        self.path = path
        self.sha = hashlib.sha256()
        self.bytes = 0
        keep = position["bytes"] if position else 0
        if keep:
            self.sha, self.bytes = _prefix(path, keep)
            if self.bytes != keep or self.sha.hexdigest() != position["sha256"]:  # type: ignore[index]
                raise DamagedError(
                    f"{path}: its first {keep} bytes are not those recorded in the checkpoint "
                    f"({self.bytes} bytes found). It was left as it is. Restore it, or delete the artifact's "
                    "folder to train the stage anew."
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        self.handle = open(path, "ab")  # noqa: SIM115 (stays open as long as the log)
        self.handle.truncate(keep)

    def append(self, value: dict[str, Any]) -> None:
        """Write one line; a killed process loses none that were appended (a power cut may)."""
        line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        self.handle.write(line)
        self.handle.flush()
        self.sha.update(line)
        self.bytes += len(line)

    def sync(self) -> dict[str, Any]:
        """Make everything durable and return the position to come back to."""
        os.fsync(self.handle.fileno())
        return {"bytes": self.bytes, "sha256": self.sha.hexdigest()}

    def close(self) -> None:
        self.handle.close()


def _prefix(path: Path, length: int) -> tuple[Any, int]:
    """SHA-256 object over the first ``length`` bytes of a file, and how many there were."""
    sha, seen = hashlib.sha256(), 0
    if path.exists():
        with open(path, "rb") as handle:
            while seen < length and (block := handle.read(min(1 << 20, length - seen))):
                sha.update(block)
                seen += len(block)
    return sha, seen
