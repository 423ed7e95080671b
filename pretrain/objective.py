"""The language-model objective: the next tokens of a plan's samples.

The plan fixes the batches. ``training.global_batch_size`` counts sequences at the length of the curriculum's
*first* phase; phases of other lengths keep the tokens per step, and the micro batch shrinks or grows with
them, so that memory stays the same: ``micro_batch_size * first length // length`` sequences, at least one. A
stage that was branched need not have a phase of that length: it may have been read before.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import Tensor

from data_pipeline.curriculum.plan import Location, Plan
from data_pipeline.tokens.shards import TokenShard, open_shards
from pretrain.batch import MicroBatch, Sample, StepBatch, batch_digest, micro_batches, share
from pretrain.config import TrainingConfig
from pretrain.engine import Engine
from pretrain.launch import Job
from pretrain.losses import by_source, next_token_loss
from pretrain.pedigree import documents_of
from stemma.core.errors import StemmaError
from stemma.core.ledger import Ledger


class LanguageModel:
    """Trains on every position of every sample; windows run over the ends of documents.

    In phases with ``document_mask``, attention stays inside the pieces of documents that the shard's index
    knows. Positions need not begin anew there: rotary position is relative.

    Args:
        engine: computes the losses.
        plan: which tokens each step reads.
        shards: ``train`` shards by source.
        training: micro and global batch size, the rotary base.
        rope_theta: rotary base by sequence length, where it is not that of the stage.

    Raises:
        StemmaError: the plan names a source that has no shard.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        shards: dict[str, TokenShard],
        training: TrainingConfig,
        rope_theta: dict[int, float],
    ) -> None:
        self.engine, self.plan, self.shards = engine, plan, shards
        self.base_length = plan.batch_tokens // training.global_batch_size
        self.micro_batch_size = training.micro_batch_size
        self.loss_config = training.loss
        self.rope_theta, self.default_theta = rope_theta, engine.rope_theta
        self.current_theta = engine.rope_theta
        self.observe: Callable[[Tensor, MicroBatch], None] | None = None  # sees losses [batch, seq] in nats
        self.total_steps = plan.total_steps
        self.sources = sorted({name for phase in plan.phases for name in phase.counts})
        if missing := [name for name in self.sources if name not in shards]:
            raise StemmaError(
                f"the plan reads sources that the tokens given do not have: {', '.join(missing)}"
            )

    def batch(self, step: int, engine: Engine) -> StepBatch:
        """Read this rank's share of a step, and set the rotary base of its phase."""
        where = self.plan.batch(step)
        length = self.plan.phases[where.phase].sequence_length
        self._use(self.rope_theta.get(length, self.default_theta))
        locations = self.plan.locate_range(where.first_sample, where.samples)
        mine = [
            self._read(where.first_sample + row, locations[row])
            for row in share(where.samples, engine.data_rank, engine.data_size)
        ]
        counts: dict[str, tuple[int, int, int]] = {}
        for location in locations:
            samples, tokens, supervised = counts.get(location.source, (0, 0, 0))
            counts[location.source] = (samples + 1, tokens + length, supervised + length)
        return StepBatch(
            micro=micro_batches(mine, self._rows(length, len(mine))),
            counts=counts,
            sha256=batch_digest(_of_all_ranks([sample.digest() for sample in mine], engine)),
            denominator=float(where.samples * length),
            pedigree=[sample.pedigree for sample in mine],
            documents=partial(documents_of, mine, self.shards),
            phase=where.phase,
        )

    def loss(self, output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of a micro batch, and its plain cross entropy by source as ``loss/SOURCE``."""
        total, cross_entropy, sums = next_token_loss(self.engine, output, micro, self.loss_config)
        if self.observe is not None:
            self.observe(cross_entropy, micro)
        return total, sums | by_source(cross_entropy, micro, self.sources)

    def planned(self, step: int) -> Ledger:
        """What the first ``step`` steps consist of, by the plan's arithmetic."""
        return self.plan.planned(step)

    def state_dict(self) -> dict[str, Any]:
        """The rotary base in force; batches are a function of the step."""
        return {"rope_theta": self.current_theta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the rotary base in force again: a finished stage is still validated and exported."""
        self._use(state["rope_theta"])

    def _read(self, sample: int, at: Location) -> Sample:
        shard = self.shards[at.source]
        try:
            ids = shard.read(at.start_token, at.sequence_length + 1)
        except IndexError as error:
            raise StemmaError(
                f"sample {sample} asks for {error}; the plan is not these tokens' own"
            ) from error
        pedigree = {"sample": sample, "source": at.source, "start_token": at.start_token, "epoch": at.epoch}
        mask = np.ones(at.sequence_length, dtype=np.float32)
        masked = self.plan.phases[at.phase].document_mask
        documents = shard.documents(at.start_token, at.sequence_length) if masked else None
        return Sample(at.source, ids[:-1], ids[1:], mask, pedigree, documents=documents)

    def _rows(self, length: int, share_of_batch: int) -> int:
        """Sequences per micro batch; it divides the rank's share, so that all micro batches are alike."""
        wanted = max(1, self.micro_batch_size * self.base_length // length)
        return math.gcd(wanted, share_of_batch)

    def _use(self, theta: float) -> None:
        if theta != self.current_theta:
            self.engine.set_rope_theta(theta)
            self.current_theta = theta


def language_model(job: Job, engine: Engine) -> LanguageModel:
    """The entry of pretraining and mid-training jobs.

    ``job.arguments``: ``plan`` (folder of the plan), ``tokens`` (folders of tokens artifacts), optionally
    ``rope_theta`` (rotary base by sequence length).
    """
    return LanguageModel(
        engine,
        Plan.load(Path(job.arguments["plan"])),
        open_shards(map(Path, job.arguments["tokens"]), "train"),
        job.training,
        {int(length): float(theta) for length, theta in job.arguments.get("rope_theta", {}).items()},
    )


def _of_all_ranks(digests: list[bytes], engine: Engine) -> list[bytes]:
    """The digests of a batch's rows in order, collected from the data-parallel ranks."""
    if engine.data_size == 1:
        return digests
    gathered: list[Any] = [None] * engine.world_size
    dist.all_gather_object(gathered, (engine.data_rank, digests))
    by_rank = dict(gathered)  # ranks of one model replica hold the same rows
    return [digest for rank in sorted(by_rank) for digest in by_rank[rank]]
