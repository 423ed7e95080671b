"""What is minimized over next tokens: cross entropy, z-loss, MiLe.

All of them are sums over positions of a micro batch. What a mean over the *step* needs, the engine does once
it has added up micro batches and ranks, so that no loss depends on how a step was cut into these.
"""

from typing import TYPE_CHECKING

from torch import Tensor

from pretrain.batch import MicroBatch
from pretrain.config import LossConfig

if TYPE_CHECKING:
    from pretrain.engine import Engine

WEIGHT = "weight"  # of an objective's sums: what the step's loss is divided by, in place of the denominator


def next_token_loss(
    engine: "Engine", output: Tensor, micro: MicroBatch, config: LossConfig
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The loss of a micro batch.

    Per position, with cross entropy ``CE``, log-normalizer ``log Z`` and entropy ``H`` of the softmax::

        l_t = CE_t + z_loss (log Z_t)^2          z-loss: PaLM (arXiv 2204.02311, section 5)
        w_t = (sigma + H_t)^gamma                MiLe (arXiv 2310.19531): no gradient goes through it
        L   = sum_t w_t l_t / sum_t w_t          over all supervised positions of the step, on all ranks

    Cross entropy is ``w_t = 1``. MiLe's authors divide by the mean weight of each rank, padding included; a
    mean over the step's supervised positions does not depend on the number of ranks.

    Args:
        engine: computes the softmax's statistics.
        output: of the model.
        micro: what it was for.
        config: which loss.

    Returns:
        The sum of ``w_t l_t``; the plain cross entropy of each position, ``[batch, seq]``, masked or not,
        without a gradient; and sums to report: ``WEIGHT`` where the weights are not 1, ``cross_entropy``
        where that is not the loss itself, and ``z_loss``.
    """
    mile = config.name == "mile"
    losses, log_normalizer, entropy = engine.token_statistics(output, micro.labels, entropy=mile)
    cross_entropy = losses.detach()
    total = (losses * micro.loss_mask).sum(dim=1).sum()
    if not mile and not config.z_loss:
        return total, cross_entropy, {}
    sums = {"cross_entropy": total.detach()}
    if config.z_loss:
        penalty = config.z_loss * log_normalizer.square()
        sums["z_loss"] = (penalty.detach() * micro.loss_mask).sum()
        losses = losses + penalty
    weights = micro.loss_mask
    if entropy is not None:
        weights = weights * (config.sigma + entropy.clamp(min=0.0)) ** config.gamma
        sums[WEIGHT] = weights.double().sum()
    return (losses * weights).sum(dim=1).sum(), cross_entropy, sums


def by_source(losses: Tensor, micro: MicroBatch, sources: list[str]) -> dict[str, Tensor]:
    """Losses ``[batch, seq]`` of supervised positions, summed by source as ``loss/SOURCE``; 0 without any."""
    rows = (losses * micro.loss_mask).sum(dim=1)
    return {
        f"loss/{source}": rows[[row for row, name in enumerate(micro.sources) if name == source]].sum()
        for source in sources
    }
