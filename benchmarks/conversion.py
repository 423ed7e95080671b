"""Converting a model of the reference's 2B shape in bf16: seconds, and memory held beside its weights.

    python -m benchmarks.conversion [--layers 32]

Weights are random. Three processes, one after the other: Megatron's model is filled tensor by tensor and
writes a folder in shards; a model is filled from that folder; the tensors of a GGUF file are made from it.
The folder is compared with the weights, bit for bit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain import convert
from pretrain.config import ModelConfig
from pretrain.convert.names import MegatronView
from pretrain.gguf.write import GGUFTensors

SHARD_BYTES = 1_000_000_000
STEPS = ("weights -> Megatron -> folder", "folder -> Megatron", "folder -> GGUF tensors")


def reference(layers: int) -> ModelConfig:
    """The vendor's shape, perhaps of another depth."""
    return ModelConfig(
        vocab_size=128_256,
        hidden_size=2048,
        num_layers=layers,
        num_attention_heads=16,
        ffn_hidden_size=6144,
        q_lora_rank=1536,
        kv_lora_rank=512,
    )


class RandomWeights(Mapping[str, Tensor]):
    """Random signs and mantissas at the exponent of 2^-7: drawing normals would take longer than the rest."""

    def __init__(self, model: ModelConfig) -> None:
        self.shapes = convert.hf_shapes(model)

    def __getitem__(self, name: str) -> Tensor:
        shape = self.shapes[name]
        size = torch.Size(shape).numel()
        generator = np.random.SFC64(list(name.encode()))
        bits = torch.from_numpy(generator.random_raw(size // 4 + 1).view(np.int16)[:size])
        return bits.bitwise_and_(~0x7F80).bitwise_or_(0x3C00).view(torch.bfloat16).view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def filled(model: ModelConfig, weights: Mapping[str, Tensor]) -> Any:
    """Megatron's model in bf16, with these weights."""
    from pretrain.model import build_model, megatron_config
    from pretrain.ranks import join
    from pretrain.topology import Topology
    from stemma.core.stage import Execution

    join(Topology(), Execution().hang_seconds)
    module = build_model(model, megatron_config(model, "bf16")).to(torch.bfloat16)
    convert.scatter(module, model, MegatronView(weights, model))
    return module


def step(number: int, model: ModelConfig, folder: Path) -> None:
    """One step, in this process."""
    if number == 0:
        module = filled(model, RandomWeights(model))
        weights = convert.megatron_to_hf(convert.gather(module, model))
        convert.write_hf(folder, weights, model, dtype=torch.bfloat16, shard_bytes=SHARD_BYTES)
    elif number == 1:
        filled(model, convert.HFFolder(folder))
    else:
        for tensor in GGUFTensors(convert.HFFolder(folder), 0):
            tensor.contiguous()


class Peak(threading.Thread):
    """The most anonymous memory this process held, bytes: pages of mapped files can be dropped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self.done = 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.02):
            fields = Path("/proc/self/status").read_text().split("RssAnon:")[1].split()
            self.bytes = max(self.bytes, int(fields[0]) * 1024)


def child(number: int, layers: int, folder: Path) -> None:
    """Run a step and print its seconds and its peak, as JSON."""
    model, peak = reference(layers), Peak()
    peak.start()
    started = time.perf_counter()
    step(number, model, folder)
    seconds = time.perf_counter() - started
    peak.done.set()
    print(json.dumps({"seconds": seconds, "peak": peak.bytes}))


def measure(layers: int, folder: Path, steps: int = len(STEPS)) -> list[dict[str, Any]]:
    """``seconds`` and ``peak`` (bytes) of the first steps, each in a process of its own."""
    rows = []
    for number in range(steps):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.conversion", "--child", str(number)]
        command += ["--layers", str(layers), "--folder", str(folder)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(ended.stdout.splitlines()[-1]))
    return rows


def unchanged(model: ModelConfig, folder: Path) -> bool:
    """Whether a folder holds the weights it was made from, bit for bit."""
    written, weights = convert.HFFolder(folder), RandomWeights(model)
    return written.keys() == weights.keys() and all(
        torch.equal(tensor.view(torch.int16), weights[name].view(torch.int16))
        for name, tensor in written.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        child(given.child, given.layers, given.folder)
        return
    model = reference(given.layers)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(given.layers, Path(folder))
        same = unchanged(model, Path(folder))
    print(f"{model.parameters:,} parameters, {2 * model.parameters / 1e9:.2f} GB in bf16")
    print(f"{'step':32} {'seconds':>8} {'peak GB':>8}")
    for name, row in zip(STEPS, rows, strict=True):
        print(f"{name:32} {row['seconds']:8.1f} {row['peak'] / 1e9:8.2f}")
    print(f"what the folder holds is {'the weights, bit for bit' if same else 'SOMETHING ELSE'}")


if __name__ == "__main__":
    main()
