"""Models and steps of the GPU tests."""

from typing import Any

import torch
from torch import Tensor

from pretrain.batch import MicroBatch
from pretrain.config import ModelConfig, ScheduleConfig, TrainingConfig
from pretrain.engine import Engine
from tests.golden import nano

WIDE = ModelConfig(  # every width is a multiple of 128, so that each recipe of fp8 takes it
    vocab_size=1024,
    hidden_size=256,
    num_layers=4,
    num_attention_heads=4,
    ffn_hidden_size=512,
    q_lora_rank=128,
    kv_lora_rank=192,
    qk_nope_head_dim=64,
    qk_rope_head_dim=64,
    v_head_dim=64,
    max_position_embeddings=1024,
)
LARGE = ModelConfig(  # some 350 M parameters: large enough that a GPU is busy and its memory is the model's
    vocab_size=64_000,
    hidden_size=1024,
    num_layers=20,
    num_attention_heads=16,
    ffn_hidden_size=3072,
    q_lora_rank=768,
    kv_lora_rank=448,
    qk_nope_head_dim=64,
    qk_rope_head_dim=64,
    v_head_dim=64,
    max_position_embeddings=4096,
)
LENGTH = 128


def training(**fields: Any) -> TrainingConfig:
    same = {
        "seed": 5,
        "global_batch_size": nano.ROWS,
        "micro_batch_size": 2,
        "schedule": ScheduleConfig(peak_lr=1e-3),
    }
    return TrainingConfig(**same | fields)


def train(engine: Engine, start: int, end: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of some steps; every second one has documents that do not see one another."""

    def loss(output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return (engine.token_loss(output, micro.labels) * micro.loss_mask).sum(), {}

    steps = (nano.batch(step, LENGTH, documents=step % 2 == 1) for step in range(start, end))
    results = [engine.train_step(step, loss, 1e-3) for step in steps]
    return [(result.loss, result.grad_norm) for result in results]


def logprobs(engine: Engine) -> list[list[float]]:
    """What a model makes of rows that it was not trained on."""
    tokens = torch.cat([micro.tokens for micro in nano.batch(10_000, LENGTH, documents=False).micro])
    found: list[list[float]] = engine.token_logprobs_no_grad(tokens).tolist()
    return found
