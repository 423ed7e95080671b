"""What one training step consumes, and what an objective has to offer.

A *sample* is one row of a batch, made on the CPU with numpy. Rows are hashed one by one, so that
data-parallel ranks can each read only their own share and still agree on the SHA-256 of the whole batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from kernels.attention.reference import document_starts
from stemma.core.errors import StemmaError
from stemma.core.ledger import Ledger

if TYPE_CHECKING:
    from pretrain.engine import Engine


@dataclass(frozen=True)
class Sample:
    """One row of a batch.

    Attributes:
        source: what it counts for in the ledger.
        tokens: int64 ``[seq]``, what the model reads.
        labels: int64 ``[seq]``, the token to predict at each position.
        loss_mask: float32 ``[seq]``, 1 where a position carries loss, else 0.
        pedigree: where it comes from, as plain JSON; written to ``incidents.jsonl`` when a step goes wrong.
        extra: further rows ``[seq]`` by name, such as ``advantages``.
        documents: int64 ``[seq]``, the number of each position's document, where attention has to stay inside
            documents.
    """

    source: str
    tokens: np.ndarray
    labels: np.ndarray
    loss_mask: np.ndarray
    pedigree: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    documents: np.ndarray | None = None

    def digest(self) -> bytes:
        """SHA-256 over everything the model and the loss see of this row."""
        sha = hashlib.sha256()
        for row in (self.tokens.astype("<i4"), self.labels.astype("<i4"), self.loss_mask.astype("<f4")):
            sha.update(np.ascontiguousarray(row).data)
        if self.documents is not None:
            sha.update(b"documents")
            sha.update(np.ascontiguousarray(self.documents.astype("<i4")).data)
        for name in sorted(self.extra):
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(self.extra[name]).data)
        return sha.digest()


@dataclass
class MicroBatch:
    """Rows that pass through the model together.

    Attributes:
        tokens: int64 ``[batch, seq]``.
        labels: int64 ``[batch, seq]``.
        loss_mask: float32 ``[batch, seq]``.
        position_ids: int64 ``[batch, seq]``.
        sources: the source of each row.
        extra: further tensors ``[batch, seq]`` by name.
        cu_seqlens: int32 ``[documents + 1]``: where documents begin, and the end, with the rows laid end to
            end; None if attention sees the whole row.
    """

    tokens: Tensor
    labels: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    sources: list[str] = field(default_factory=list)
    extra: dict[str, Tensor] = field(default_factory=dict)
    cu_seqlens: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> MicroBatch:
        """The micro batch with every ``[batch, seq]`` tensor changed alike."""
        return replace(
            self,
            tokens=change(self.tokens),
            labels=change(self.labels),
            loss_mask=change(self.loss_mask),
            position_ids=change(self.position_ids),
            extra={name: change(value) for name, value in self.extra.items()},
        )

    def check_ids(self, vocab_size: int) -> None:
        """Require ids of a vocabulary, where that need not wait for a device.

        Ranks that share a vocabulary take an id outside of it for another rank's, and compute on.

        Raises:
            StemmaError: an id is outside.
        """
        for ids in (self.tokens, self.labels):
            if ids.is_cpu:
                lowest, highest = (int(id) for id in ids.aminmax())
                if lowest < 0 or highest >= vocab_size:
                    raise StemmaError(
                        f"a batch has token ids from {lowest} to {highest}, and the model's vocabulary those "
                        f"below {vocab_size}; the tokens were made with another tokenizer than the model's"
                    )


@dataclass
class StepBatch:
    """What one optimizer step consumes.

    Attributes:
        micro: this data-parallel rank's share, the same number of micro batches on every rank.
        counts: source -> (samples, tokens, supervised tokens) of the *global* batch.
        sha256: of the global batch, the same on any topology.
        denominator: supervised tokens of the global batch; the step's loss is the summed loss over this.
        pedigree: where this rank's rows come from.
        documents: what each of them read, document by document; None where the pedigree says it already.
            Called when a step went wrong.
        phase: of the plan, where losses may be of another level than in the phase before.
        metrics: figures the objective knows of the global batch, such as the mean reward.
    """

    micro: list[MicroBatch]
    counts: dict[str, tuple[int, int, int]]
    sha256: str
    denominator: float
    pedigree: list[dict[str, Any]] = field(default_factory=list)
    documents: Callable[[], list[list[dict[str, Any]]]] | None = None
    phase: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """What a training stage optimizes: where its batches come from and how output becomes loss."""

    total_steps: int

    def batch(self, step: int, engine: Engine) -> StepBatch:
        """The batch of a step, counted from 0: a function of step, weights and this object's state."""
        ...

    def loss(self, output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a micro batch *summed* over its supervised positions, and sums worth reporting.

        Every call returns the same names, so that ranks can add them up.
        """
        ...

    def planned(self, step: int) -> Ledger:
        """What should have been consumed once ``step`` steps are done."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state that goes into the checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        ...


def share(rows: int, rank: int, ranks: int) -> range:
    """The rows of a global batch that belong to one data-parallel rank: equal runs, in order.

    Raises:
        ValueError: the rows cannot be split evenly.
    """
    if rows % ranks:
        raise ValueError(f"a batch of {rows} sequences cannot be split over {ranks} data-parallel ranks")
    each = rows // ranks
    return range(rank * each, (rank + 1) * each)


def batch_digest(digests: Sequence[bytes]) -> str:
    """SHA-256 (hex) of a batch from its rows' digests, in the batch's order."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _cu_seqlens(rows: Sequence[Sample]) -> Tensor | None:
    documents = [row.documents for row in rows if row.documents is not None]
    if not documents:
        return None
    if len(documents) != len(rows):
        raise ValueError("a micro batch has rows with documents and rows without; attention can do only one")
    return document_starts(torch.from_numpy(np.stack(documents)))


def micro_batches(samples: Sequence[Sample], micro_batch_size: int) -> list[MicroBatch]:
    """Stack rows of equal length into micro batches; the last one may be smaller.

    Raises:
        ValueError: some rows of a micro batch say where their documents are and some do not.
    """
    batches = []
    for start in range(0, len(samples), micro_batch_size):
        rows = samples[start : start + micro_batch_size]
        tokens = torch.from_numpy(np.stack([row.tokens for row in rows]).astype(np.int64))
        batches.append(
            MicroBatch(
                tokens=tokens,
                labels=torch.from_numpy(np.stack([row.labels for row in rows]).astype(np.int64)),
                loss_mask=torch.from_numpy(np.stack([row.loss_mask for row in rows]).astype(np.float32)),
                position_ids=torch.arange(tokens.shape[1]).expand_as(tokens).contiguous(),
                sources=[row.source for row in rows],
                cu_seqlens=_cu_seqlens(rows),
                extra={
                    name: torch.from_numpy(np.stack([row.extra[name] for row in rows]))
                    for name in rows[0].extra
                },
            )
        )
    return batches
