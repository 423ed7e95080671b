"""What a checkpoint says it was trained with and from, so that it is continued in no other way."""

from collections.abc import Mapping
from typing import Any

from pretrain.config import ModelConfig, TrainingConfig
from stemma.core.config import identity


def trained_with(
    stage: str, model: ModelConfig, training: TrainingConfig, tokenizer: str, inputs: Mapping[str, str]
) -> dict[str, Any]:
    """The identity of a stage's checkpoints.

    Args:
        stage: the node's name.
        model: the shape.
        training: how it trains.
        tokenizer: the tokenizer artifact's fingerprint.
        inputs: fingerprints of the stage's inputs, by role.
    """
    return {
        "stage": stage,
        "model": identity(model),
        "training": identity(training),
        "tokenizer": tokenizer,
        "inputs": dict(inputs),
    }
