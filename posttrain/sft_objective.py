"""The SFT objective: the tokens the assistant wrote, one conversation per row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from posttrain.config import SFTConfig
from posttrain.conversations import Conversation, Reading, read_conversations
from posttrain.padded import padded_batch
from pretrain.batch import MicroBatch, Sample, StepBatch
from pretrain.engine import Engine
from pretrain.launch import Job
from pretrain.losses import by_source, next_token_loss
from stemma.core.files import write_json
from stemma.core.ledger import Ledger
from tokenizer.load import load

DOMAIN = "agent"


class FineTuning:
    """Trains on conversations in a seeded order.

    Args:
        engine: computes the losses.
        config: steps, shares, batch size.
        conversations: by family, at least one of each.
        before: of a stage that goes on from a checkpoint of another run: the first step that was not read in
            that way, and how those before it were read; oldest first.
    """

    def __init__(
        self,
        engine: Engine,
        config: SFTConfig,
        conversations: dict[str, list[Conversation]],
        before: Sequence[tuple[int, Reading]] = (),
    ) -> None:
        self.engine = engine
        self.micro_batch_size = config.training.micro_batch_size
        self.loss_config = config.training.loss
        self.total_steps = config.steps
        self.reading = Reading(config.model_dump(), conversations)
        self.before = before

    def batch(self, step: int, engine: Engine) -> StepBatch:
        """The step's conversations: a function of the step alone."""
        rows = self.reading.rows
        samples = [self._sample(position) for position in range(step * rows, (step + 1) * rows)]
        return padded_batch(samples, self.micro_batch_size, engine.data_rank, engine.data_size)

    def loss(self, output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of the assistant's tokens, and their cross entropy by family as ``loss/FAMILY``."""
        total, cross_entropy, sums = next_token_loss(self.engine, output, micro, self.loss_config)
        return total, sums | by_source(cross_entropy, micro, list(self.reading.order.families))

    def planned(self, step: int) -> Ledger:
        """What the first ``step`` steps consist of, by the arithmetic of the orders they were read in."""
        stretches = [*self.before, (self.total_steps, self.reading)]
        families = dict.fromkeys(family for _, reading in stretches for family in reading.order.families)
        ledger, first = Ledger(dict.fromkeys(families, DOMAIN)), 0
        for until, reading in stretches:
            last = min(step, until)
            if last > first:
                reading.count(ledger, first, last)
                first = last
        return ledger

    def state_dict(self) -> dict[str, Any]:
        """Nothing: batches are a function of the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""

    def _sample(self, position: int) -> Sample:
        family, index, epoch = self.reading.order.locate(position)
        conversation = self.reading.conversations[family][index]
        ids = conversation.ids.astype(np.int64)
        pedigree = {"trajectory": conversation.id, "epoch": epoch}
        return Sample(family, ids[:-1], ids[1:], conversation.mask[1:].astype(np.float32), pedigree)


def describe(
    conversations: dict[str, list[Conversation]], left_out: dict[str, int]
) -> dict[str, dict[str, int]]:
    """What there was to learn from, by family: ``conversations.json`` of the artifact."""
    return {
        family: {
            "conversations": len(found),
            "tokens": sum(conversation.tokens for conversation in found),
            "supervised": sum(conversation.supervised for conversation in found),
            "too_long": left_out[family],
        }
        for family, found in conversations.items()
    }


def fine_tuning(job: Job, engine: Engine) -> FineTuning:
    """The entry of SFT jobs.

    ``job.arguments``: ``trajectories`` (``trajectories.jsonl``), ``sft`` (an ``SFTConfig`` as JSON) and
    ``before`` (of a stage that was branched: first step that is not of it, and the section of that time).
    """
    config = SFTConfig.model_validate(job.arguments["sft"])
    tokenizer = load(Path(job.tokenizer) / "hf")
    path = Path(job.arguments["trajectories"])
    conversations, left_out = read_conversations(path, tokenizer, list(config.families), config.max_tokens)
    if engine.rank == 0:
        write_json(Path(job.path) / "conversations.json", describe(conversations, left_out))
    before = []
    for until, sft in job.arguments.get("before", []):
        read, _ = read_conversations(path, tokenizer, list(sft["families"]), sft["max_tokens"])
        before.append((until, Reading(sft, read)))
    return FineTuning(engine, config, conversations, before)
