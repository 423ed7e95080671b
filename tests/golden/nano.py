"""A hundred training steps at nano's shape whose losses are known to the last bit.

A change that is not meant to change the arithmetic leaves them as they are; one that is records them anew, in
a commit that says why:

    OMP_NUM_THREADS=1 python -m tests.golden.nano
    OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m tests.golden.nano

The second plays a machine without AVX-512. The libraries below torch choose their kernels, and with them the
order of sums, by the processor: losses are kept by processor and torch version.
"""

import hashlib
import json
import math
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.batch import MicroBatch, StepBatch
from pretrain.config import ScheduleConfig, TrainingConfig
from pretrain.engine import Engine
from stemma.core.stage import Execution
from stemma.profile import load_profile

RECORD = Path(__file__).with_name("nano_losses.json")
STEPS, ROWS = 100, 4
TRAINING = TrainingConfig(
    seed=5, global_batch_size=ROWS, micro_batch_size=2, schedule=ScheduleConfig(peak_lr=3e-3)
)


def losses() -> list[tuple[float, float]]:
    """Loss and gradient norm of every step, trained on one thread.

    Two micro batches a step; the sequences double after 40 steps, when the rotary base changes too, and hold
    masked documents in the last 30.
    """
    threads = torch.get_num_threads()
    engine = Engine.build(load_profile("nano").model, TRAINING, Execution(threads=1))

    def loss(output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return (engine.token_loss(output, micro.labels) * micro.loss_mask).sum(), {}

    found = []
    for step in range(STEPS):
        if step == 40:
            engine.set_rope_theta(40_000.0)
        lr = 3e-3 * min(1.0, (step + 1) / 10, (STEPS - step) / 20)
        result = engine.train_step(batch(step, 48 if step < 40 else 96, documents=step >= 70), loss, lr)
        found.append((result.loss, result.grad_norm))
    engine.close()
    torch.set_num_threads(threads)
    return found


def batch(step: int, length: int, documents: bool) -> StepBatch:
    """Numbers that follow one another by a rule that a sixth of the positions break, by SHAKE-256."""
    rows = []
    for row in range(ROWS):
        noise = hashlib.shake_256(f"stemma golden {step} {row}".encode()).digest(2 * length + 2)
        tokens = [noise[0]]
        for at in range(length):
            jump = noise[2 * at + 1] if noise[2 * at + 2] < 43 else 0
            tokens.append((5 * tokens[-1] + 17 + jump) % 1024)
        rows.append(tokens)
    ids = torch.tensor(rows)
    cut = length // 3
    starts = [row * length + at for row in range(2) for at in (0, cut)] + [2 * length]
    micro = [
        MicroBatch(
            part[:, :-1].contiguous(),
            part[:, 1:].contiguous(),
            torch.ones(2, length),
            torch.arange(length).expand(2, length),
            cu_seqlens=torch.tensor(starts, dtype=torch.int32) if documents else None,
        )
        for part in ids.split(2)
    ]
    return StepBatch(micro, {}, "", float(ROWS * length))


def machine() -> str:
    """What the order of sums depends on: torch, its kernels for this processor, and the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    about = [re.search(rf"^{name}\s*: (.*)$", text, re.M) for name in ("vendor_id", "cpu family", "model")]
    processor = " ".join(found[1] for found in about if found) or platform.machine()
    kernels = torch.backends.cpu.get_cpu_capability()
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        kernels += f" (oneDNN: {limit})"
    return f"torch {torch.__version__.split('+')[0]}, {kernels}, {processor}"


def recorded() -> dict[str, Any]:
    """``model``: the shape; ``losses``: by machine, loss and gradient norm of every step in hexadecimal."""
    known: dict[str, Any] = json.loads(RECORD.read_text())
    return known


def shape() -> dict[str, Any]:
    return load_profile("nano").model.model_dump(mode="json")


def main() -> None:
    known = recorded() if RECORD.exists() else {}
    kept = known.get("losses", {}) if known.get("model") == shape() else {}
    found = losses()
    kept[machine()] = [f"{loss.hex()} {norm.hex()}" for loss, norm in found]
    RECORD.write_text(json.dumps({"model": shape(), "losses": kept}, indent=0) + "\n")
    print(f"{machine()}: loss {found[0][0]:.4f} to {found[-1][0]:.4f} (ln vocabulary {math.log(8192):.2f})")


if __name__ == "__main__":
    main()
