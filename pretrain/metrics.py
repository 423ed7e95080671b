"""Figures of a step, for people: ``metrics.jsonl``, and what ``pretrain.sinks`` shows."""

import math
import resource
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain import device
from pretrain.batch import MicroBatch, Objective, StepBatch
from pretrain.costs import DEVICES, GIB, training_flops
from pretrain.engine import Engine, StepResult
from pretrain.norms import GroupNorms

LOSS, BYTES = "loss/", "bytes/"


class Meter:
    """Measures the steps of one stage.

    Args:
        engine: trains them.
        objective: reports losses by source as ``loss/SOURCE``, or other sums.
        domains: domain of each source.
        bytes_of: bytes of text each token id stands for; None: bits per byte are not measured.
    """

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        domains: Mapping[str, str],
        bytes_of: np.ndarray | None = None,
    ) -> None:
        self.engine, self.objective, self.domains = engine, objective, domains
        self.places = {source: place for place, source in enumerate(sorted(domains))}
        self.bytes_of = None if bytes_of is None else torch.from_numpy(bytes_of).to(engine.device)
        self.peak = _peak_flops()
        self.norms = GroupNorms(engine)
        self.last_norms: dict[str, float] = {}

    def loss(self, output: Tensor, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's loss and sums; beside losses by source also ``bytes/SOURCE`` of their labels."""
        total, sums = self.objective.loss(output, micro)
        if self.bytes_of is not None and any(name.startswith(LOSS) for name in sums):
            rows = (self.bytes_of[micro.labels] * micro.loss_mask).sum(dim=1).double()
            places = torch.tensor(
                [self.places.get(source, 0) for source in micro.sources], device=rows.device
            )
            by_source = rows.new_zeros(len(self.places)).index_add_(0, places, rows)
            sums = sums | {BYTES + source: size for source, size in zip(self.places, by_source.unbind())}
        return total, sums

    def before_update(self, step: int) -> None:
        """Measure norms where they are due: gradients are ready and not clipped yet. Every rank calls it."""
        every = self.engine.training.metrics.norms_every
        if every and step % every == 0:
            self.last_norms = self.norms.measure()

    def figures(
        self, step: int, batch: StepBatch, result: StepResult, lr: float, seconds: float, waited: float
    ) -> dict[str, Any]:
        """One line of ``metrics.jsonl``: clocks are allowed here. NaN becomes null.

        Args:
            step: counted from 0.
            batch: what the step read.
            result: what it came to.
            lr: its learning rate.
            seconds: it took, the wait for data included.
            waited: seconds until the batch was there.

        Returns:
            Losses in nats per token; ``bits_per_byte`` as in validation; ``flops_per_second`` of the model
            (forward and backward over the step's tokens, all ranks); ``mfu``, that over the devices' bf16
            peaks where these are known; ``peak_memory_gib`` of this process or its device.
        """
        samples = sum(count for count, _, _ in batch.counts.values())
        tokens = sum(count for _, count, _ in batch.counts.values())
        figures = {
            "step": step,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": lr,
            "skipped": int(result.skipped),
            "tokens": tokens,
            "seconds": round(seconds, 4),
            "data_seconds": round(waited, 5),
            "tokens_per_second": round(tokens / seconds, 1),
            **self._utilization(tokens, samples, seconds),
            "peak_memory_gib": round(_peak_memory() / GIB, 3),
            **losses(batch, result.metrics, self.domains),
            **batch.metrics,
            **self.last_norms,
        }
        self.last_norms = {}
        if self.engine.training.precision == "fp16":
            figures["loss_scale"] = float(self.engine.optimizer.get_loss_scale())
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}

    def _utilization(self, tokens: int, samples: int, seconds: float) -> dict[str, float]:
        if not tokens:
            return {}
        achieved = tokens * training_flops(self.engine.model, round(tokens / samples)) / seconds
        found = {"flops_per_second": float(f"{achieved:.4g}")}
        if self.peak:
            found["mfu"] = round(achieved / (self.peak * self.engine.world_size), 4)
        return found


def losses(batch: StepBatch, means: Mapping[str, float], domains: Mapping[str, str]) -> dict[str, float]:
    """What an objective reports, ready to be read.

    ``loss/SOURCE`` and ``loss/DOMAIN``, nats per token of it; with bytes known, ``bits_per_byte`` of the step
    and ``bits_per_byte/DOMAIN``.

    Args:
        batch: the step's batch.
        means: sums over all supervised tokens of the batch, as ``StepResult.metrics`` holds them.
        domains: domain of each source.
    """
    found: dict[str, float] = {}
    by_domain: dict[str, list[float]] = {}
    for name, mean in means.items():
        source = name.removeprefix(LOSS)
        if name.startswith(BYTES):
            continue
        if source == name:
            found[name] = mean
        elif supervised := batch.counts.get(source, (0, 0, 0))[2]:
            nats = mean * batch.denominator
            found[name] = nats / supervised
            size = means.get(BYTES + source, 0.0) * batch.denominator
            total = by_domain.setdefault(domains[source], [0.0, 0.0, 0.0])
            total[:] = [total[0] + nats, total[1] + supervised, total[2] + size]
    found |= {LOSS + domain: nats / tokens for domain, (nats, tokens, _) in by_domain.items()}
    whole = [sum(column) for column in zip(*by_domain.values())]
    bits = {f"/{domain}": total for domain, total in by_domain.items()} | ({"": whole} if whole else {})
    return found | {
        f"bits_per_byte{where}": nats / math.log(2) / size for where, (nats, _, size) in bits.items() if size
    }


def _peak_flops() -> float | None:
    """bf16 peak of this rank's device, FLOP/s; None where it is not known, as on a CPU."""
    name = torch.cuda.get_device_name().lower() if device.ON_CUDA else ""
    return next((found.flops for known, found in DEVICES.items() if known in name), None)


def _peak_memory() -> int:
    """Most bytes in use so far: of the device, else of the process."""
    if device.ON_CUDA:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
