"""The SFT objective: the tokens the assistant wrote, one conversation per row."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from posttrain.config import SFTConfig
from posttrain.conversations import Conversation, Order, read_conversations
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
    """

    def __init__(
        self, engine: Engine, config: SFTConfig, conversations: dict[str, list[Conversation]]
    ) -> None:
        self.engine = engine
        self.conversations = conversations
        self.rows = config.training.global_batch_size
        self.micro_batch_size = config.training.micro_batch_size
        self.loss_config = config.training.loss
        self.total_steps = config.steps
        sizes = {family: len(found) for family, found in conversations.items()}
        self.order = Order(sizes, config.families, self.rows * config.steps, self.rows, config.seed)

    def batch(self, step: int, engine: Engine) -> StepBatch:
        """The step's conversations: a function of the step alone."""
        samples = [self._sample(position) for position in range(step * self.rows, (step + 1) * self.rows)]
        return padded_batch(samples, self.micro_batch_size, engine.data_rank, engine.data_size)

    def loss(self, output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss of the assistant's tokens, and their cross entropy by family as ``loss/FAMILY``."""
        total, cross_entropy, sums = next_token_loss(self.engine, output, micro, self.loss_config)
        return total, sums | by_source(cross_entropy, micro, list(self.order.families))

    def planned(self, step: int) -> Ledger:
        """What the first ``step`` steps consist of, by the order's arithmetic."""
        ledger = Ledger(dict.fromkeys(self.order.families, DOMAIN))
        for family, count in self.order.counts(step * self.rows).items():
            read = [self.conversations[family][index] for index in self.order.read(family, count)]
            if read:
                supervised = sum(conversation.supervised for conversation in read)
                ledger.record(family, count, sum(conversation.tokens for conversation in read), supervised)
        return ledger

    def state_dict(self) -> dict[str, Any]:
        """Nothing: batches are a function of the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take over."""

    def _sample(self, position: int) -> Sample:
        family, index, epoch = self.order.locate(position)
        conversation = self.conversations[family][index]
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

    ``job.arguments``: ``trajectories`` (``trajectories.jsonl``) and ``sft`` (an ``SFTConfig`` as JSON).
    """
    config = SFTConfig.model_validate(job.arguments["sft"])
    tokenizer = load(Path(job.tokenizer) / "hf")
    path = Path(job.arguments["trajectories"])
    conversations, left_out = read_conversations(path, tokenizer, list(config.families), config.max_tokens)
    if engine.rank == 0:
        write_json(Path(job.path) / "conversations.json", describe(conversations, left_out))
    return FineTuning(engine, config, conversations)
