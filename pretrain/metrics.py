"""Figures of a step, for people: ``metrics.jsonl``, and what shows them."""

import math
from typing import Any

from pretrain.batch import StepBatch
from pretrain.engine import StepResult


def step_metrics(
    step: int,
    batch: StepBatch,
    result: StepResult,
    domains: dict[str, str],
    lr: float,
    seconds: float,
    waited: float,
) -> dict[str, Any]:
    """One line of ``metrics.jsonl``: clocks are allowed here. NaN becomes null.

    Args:
        step: counted from 0.
        batch: what the step read.
        result: what it came to.
        domains: domain of each source.
        lr: its learning rate.
        seconds: it took, the wait for data included.
        waited: seconds until the batch was there.
    """
    tokens = sum(tokens for _, tokens, _ in batch.counts.values())
    figures = {
        "step": step,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "lr": lr,
        "tokens": tokens,
        "seconds": round(seconds, 4),
        "data_seconds": round(waited, 5),
        "tokens_per_second": round(tokens / seconds, 1),
        **losses(batch, result.metrics, domains),
        **batch.metrics,
    }
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def losses(batch: StepBatch, means: dict[str, float], domains: dict[str, str]) -> dict[str, float]:
    """What an objective reports, ready to be read: ``loss/SOURCE`` per token of it, and ``loss/DOMAIN``.

    Args:
        batch: the step's batch.
        means: the objective's sums over all supervised tokens of the batch, as ``StepResult.metrics``
            holds them.
        domains: domain of each source.
    """
    found: dict[str, float] = {}
    by_domain: dict[str, tuple[float, int]] = {}
    for name, mean in means.items():
        source = name.removeprefix("loss/")
        if source == name:
            found[name] = mean
        elif supervised := batch.counts.get(source, (0, 0, 0))[2]:
            value = mean * batch.denominator
            found[name] = value / supervised
            total, tokens = by_domain.get(domains[source], (0.0, 0))
            by_domain[domains[source]] = total + value, tokens + supervised
    return found | {f"loss/{domain}": total / tokens for domain, (total, tokens) in by_domain.items()}
