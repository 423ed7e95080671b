"""A model of a few thousand parameters, batches for it, and processes that run on several ranks."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.batch import MicroBatch, StepBatch
from pretrain.config import ModelConfig, ScheduleConfig, TrainingConfig
from pretrain.engine import Engine
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
REFERENCE = ModelConfig(
    vocab_size=128_256,
    hidden_size=2048,
    num_layers=32,
    num_attention_heads=16,
    ffn_hidden_size=6144,
    q_lora_rank=1536,
    kv_lora_rank=512,
)


def build(model: ModelConfig = TINY, sharded_optimizer: bool = False, **ranks: int) -> Engine:
    """An engine in this process, or on the ranks of ``run_ranks``."""
    training = TrainingConfig(
        seed=7, global_batch_size=4, micro_batch_size=2, schedule=ScheduleConfig(peak_lr=1e-2)
    )
    return Engine.build(model, training, Execution(threads=1, **ranks), sharded_optimizer)


def rows(step: int, count: int = 4, seq: int = SEQ) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels and a loss mask with holes: a function of the step."""
    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(0, VOCAB, (count, seq + 1), generator=generator)
    mask = (torch.rand(count, seq, generator=generator) < 0.8).float()
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), mask


def batch(step: int, data_rank: int = 0, data_size: int = 1) -> StepBatch:
    """One rank's share of a global batch of four sequences."""
    tokens, labels, mask = rows(step)
    mine = range(data_rank * 4 // data_size, (data_rank + 1) * 4 // data_size)
    micro = [
        MicroBatch(tokens[i : i + 1], labels[i : i + 1], mask[i : i + 1], torch.arange(SEQ)[None])
        for i in mine
    ]
    return StepBatch(micro, {}, "", float(mask.sum()))


def two_documents(count: int, first: int = 10) -> Tensor:
    """``cu_seqlens`` of rows that hold two documents each."""
    starts = [row * SEQ + at for row in range(count) for at in (0, first)]
    return torch.tensor([*starts, count * SEQ], dtype=torch.int32)


def train(engine: Engine, start: int, end: int) -> list[float]:
    """Losses of some steps."""

    def loss(logits: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        each = engine.token_loss(logits, micro.labels) * micro.loss_mask
        return each.sum(), {"largest": each.max().detach()}

    return [
        engine.train_step(batch(step, engine.data_rank, engine.data_size), loss, lr=1e-2).loss
        for step in range(start, end)
    ]


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
    """Run functions of ``tests/pretrain/ranks.py`` one after another, under one torchrun.

    Starting it takes longer than what they do.

    Args:
        ranks: processes.
        folder: for the calls and what they return.
        calls: name and arguments of each.

    Returns:
        What each returned on rank 0.
    """
    todo, done = folder / "calls.json", folder / "results.json"
    todo.write_text(json.dumps(calls, default=str))
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={ranks}", str(Path(__file__).with_name("ranks.py")), str(todo), str(done)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, cwd=root)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-6000:]
    results: list[Any] = json.loads(done.read_text())
    return results
