"""A model of a few thousand parameters, batches for it, and processes that run on several ranks."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.batch import MicroBatch, StepBatch
from pretrain.config import ModelConfig, ScheduleConfig, TrainingConfig
from pretrain.engine import Engine
from pretrain.losses import next_token_loss
from pretrain.norms import GroupNorms
from pretrain.simulated import SimulatedLinear
from stemma.core.stage import Execution

VOCAB, SEQ = 96, 24
TINY = ModelConfig(
    vocab_size=VOCAB,
    hidden_size=32,
    num_layers=2,
    num_attention_heads=2,
    ffn_hidden_size=48,
    q_lora_rank=24,
    kv_lora_rank=16,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=12,
    max_position_embeddings=64,
)
UNTIED = TINY.model_copy(update={"tie_word_embeddings": False})
REFERENCE = ModelConfig(
    vocab_size=128_256,
    hidden_size=2048,
    num_layers=32,
    num_attention_heads=16,
    ffn_hidden_size=6144,
    q_lora_rank=1536,
    kv_lora_rank=512,
)


def build(
    model: ModelConfig = TINY,
    sharded_optimizer: bool = False,
    training: dict[str, Any] | None = None,
    **ranks: int,
) -> Engine:
    """An engine in this process, or on the ranks of ``run_ranks``; ``training``: fields of its config."""
    training = TrainingConfig(
        **{"seed": 7, "global_batch_size": 4, "micro_batch_size": 2, "schedule": ScheduleConfig(peak_lr=1e-2)}
        | (training or {})
    )
    return Engine.build(model, training, Execution(threads=1, **ranks), sharded_optimizer)


def amax_histories(engine: Engine) -> list[Tensor]:
    """What each linear layer of delayed scaling remembers, ``[steps + 1, 3]``; empty without."""
    layers = (layer for layer in engine.module.modules() if isinstance(layer, SimulatedLinear))
    return [state for layer in layers if (state := layer.get_extra_state()) is not None]


def rows(step: int, count: int = 4, seq: int = SEQ) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels and a loss mask with holes: a function of the step."""
    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(0, VOCAB, (count, seq + 1), generator=generator)
    mask = (torch.rand(count, seq, generator=generator) < 0.8).float()
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), mask


def batch(step: int, data_rank: int = 0, data_size: int = 1) -> StepBatch:
    """One rank's share of a global batch of four sequences.

    Every third step has documents that do not see each other, every third an odd number of positions.
    """
    seq = SEQ - 3 if step % 3 == 2 else SEQ
    tokens, labels, mask = rows(step, seq=seq)
    weights = torch.linspace(0.5, 1.5, 4 * seq).view(4, seq)
    documents = two_documents(1) if step % 3 == 1 else None
    micro = [
        MicroBatch(*rows_of, torch.arange(seq)[None], extra={"weights": weights}, cu_seqlens=documents)
        for *rows_of, weights in zip(*(x.split(1) for x in (tokens, labels, mask, weights)))
    ][data_rank * 4 // data_size : (data_rank + 1) * 4 // data_size]
    return StepBatch(micro, {}, "", float(mask.sum()))


def two_documents(count: int, first: int = 10) -> Tensor:
    """``cu_seqlens`` of rows that hold two documents each."""
    starts = [row * SEQ + at for row in range(count) for at in (0, first)]
    return torch.tensor([*starts, count * SEQ], dtype=torch.int32)


def train(
    engine: Engine, start: int, end: int, accept: Callable[[float, float], bool] = lambda *_: True
) -> list[float]:
    """Losses of some steps."""

    def loss(logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        each = engine.token_loss(logits, micro.labels) * micro.loss_mask * micro.extra["weights"]
        return each.sum(), {"squares": each.detach().square().sum()}

    return [engine.train_step(batch_of(engine, step), loss, 1e-2, accept).loss for step in range(start, end)]


def learn(engine: Engine, start: int = 0, end: int = 3) -> dict[str, Any]:
    """Steps with the loss and the optimizer of the engine's config: plain JSON."""

    def loss(output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        total, _, sums = next_token_loss(engine, output, micro, engine.training.loss)
        return total, sums

    results = [engine.train_step(batch_of(engine, step), loss, lr=1e-2) for step in range(start, end)]
    return {
        "losses": [result.loss for result in results],
        "norms": [result.grad_norm for result in results],
        "metrics": [result.metrics for result in results],
        "final": {name: tensor.tolist() for name, tensor in engine.hf_state_dict().items()},
    }


def batch_of(engine: Engine, step: int) -> StepBatch:
    """The share of a step's batch that belongs to this rank."""
    return batch(step, engine.data_rank, engine.data_size)


def gradients_of(engine: Engine, step: StepBatch) -> list[Tensor]:
    """Gradients of a step that is not applied, summed over ranks, one tensor per parameter."""

    def loss(logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return (engine.token_loss(logits, micro.labels) * micro.loss_mask).sum(), {}

    engine.train_step(step, loss, lr=0.0, accept=lambda loss, norm: False)
    return [parameter.main_grad.clone() for parameter in engine.module.parameters()]


def figures(engine: Engine) -> dict[str, Any]:
    """What a model trained for six steps comes to, by every way to ask: plain JSON.

    Evaluation and log-probabilities have rows of 21 and 24 positions.
    """
    initial = {name: tensor.tolist() for name, tensor in engine.hf_state_dict().items()}
    by_group: dict[str, float] = {}
    norms = GroupNorms(engine)
    losses = train(engine, 0, 5)
    losses += train(engine, 5, 6, lambda *_: by_group.update(norms.measure()) is None)
    tokens, labels, mask = rows(99)
    share = slice(engine.data_rank * 4 // engine.data_size, (engine.data_rank + 1) * 4 // engine.data_size)
    micro = MicroBatch(tokens[share], labels[share], mask[share], torch.zeros_like(tokens[share]))
    packed = replace(micro, cu_seqlens=two_documents(len(micro.tokens)))
    short = micro.each(lambda x: x[:, :21])
    return {
        "initial": initial,
        "losses": losses,
        "by_group": by_group,
        "evaluation": engine.evaluate([micro]),
        "mixed": engine.evaluate([short, micro, short]),
        "packed": engine.evaluate([packed]),
        "logprobs": engine.token_logprobs_no_grad(tokens[:, :21]).tolist(),
        "final": {name: tensor.tolist() for name, tensor in engine.hf_state_dict().items()},
    }


def parameter_hash(engine: Engine) -> str:
    """SHA-256 over this rank's parameters and optimizer state, bit for bit."""
    sha = hashlib.sha256()
    for name, tensor in sorted(engine.module.state_dict().items()):
        if isinstance(tensor, Tensor):
            sha.update(name.encode() + raw_bytes(tensor))
    for optimizer in engine.optimizer.chained_optimizers:
        for parameter in optimizer.get_parameters():
            for name, value in sorted(optimizer.state[parameter].items()):
                sha.update(name.encode() + raw_bytes(torch.as_tensor(value)))
    return sha.hexdigest()


def raw_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def run_ranks(ranks: int, folder: Path, *calls: tuple[Any, ...]) -> list[Any]:
    """Run functions of ``tests/pretrain/ranks.py`` one after another in processes that make up one world.

    Starting them takes longer than what they do. They are forks of one process, where ``pretrain.launch``
    has torchrun start each anew: four starts cost as much as one.

    Args:
        ranks: processes.
        folder: for the calls and what they return; a fresh one for each start.
        calls: name and arguments of each.

    Returns:
        What each returned on rank 0.
    """
    (folder / "calls.json").write_text(json.dumps(calls, default=str))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-m", "tests.pretrain.ranks", str(ranks), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, cwd=root)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-6000:]
    results: list[Any] = json.loads((folder / "results.json").read_text())
    return results
