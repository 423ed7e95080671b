"""Policy-gradient losses: functions of tensors, chosen by name. All work token by token, on any shape.

One surrogate covers three published ones, because they have the same value and differ only in what they let
through where PPO's ratio is clipped. With ``r = exp(logprobs - old_logprobs)`` and sg the stop-gradient,
the clip bounds become ``(1 - eps_low) * r / sg(r)`` and ``(1 + eps_high) * r / sg(r)`` (GPPO, arXiv
2508.07629), each gradient scaled by ``beta`` (CE-GPPO, arXiv 2509.20712): 0 gives PPO's zero gradient, 1
gives GPPO's bounded one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from posttrain.config import LossConfig

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are cut off here, so that one token cannot make a batch infinite."""


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    eps_low: float,
    eps_high: float,
    beta_low: float = 0.0,
    beta_high: float = 0.0,
    dual_clip: float | None = None,
) -> Tensor:
    """Loss of each token: minus PPO's ``min(r A, clip(r, 1 - eps_low, 1 + eps_high) A)``.

    Args:
        logprobs: log-probabilities under the policy being trained.
        old_logprobs: those of the policy that made the batch.
        advantages: advantage of each token.
        eps_low: how far below 1 a ratio may fall before a token with a negative advantage is clipped.
        eps_high: how far above 1 it may rise before one with a positive advantage is clipped; above
            ``eps_low`` it is *clip-higher* (DAPO, arXiv 2503.14476).
        beta_low: scale of the gradient ``(1 - eps_low) A`` of clipped negative tokens.
        beta_high: scale of the gradient ``(1 + eps_high) A`` of clipped positive tokens.
        dual_clip: for negative advantages the ratio counts as this at most, with no gradient above; None:
            no limit.

    Returns:
        loss per token, of the inputs' shape. Its value does not depend on the betas.
    """
    log_ratio = (logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    one = ratio / ratio.detach()  # the value 1 with the gradient of log r
    above = (advantages > 0) & (ratio > 1 + eps_high)
    below = (advantages < 0) & (ratio < 1 - eps_low)
    weight = torch.where(above, (1 + eps_high) * (1 + beta_high * (one - 1)), ratio)
    weight = torch.where(below, (1 - eps_low) * (1 + beta_low * (one - 1)), weight)
    if dual_clip is not None:
        far = (advantages < 0) & (ratio > dual_clip)
        weight = torch.where(far, torch.full_like(weight, dual_clip), weight)
    return -weight * advantages


def grpo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """PPO's clipped loss, as GRPO and DAPO use it: no gradient where the ratio is clipped."""
    return _surrogate(logprobs, old_logprobs, advantages, config, 0.0, 0.0)


def gppo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """The value of PPO's loss, with a bounded gradient where the ratio is clipped."""
    return _surrogate(logprobs, old_logprobs, advantages, config, 1.0, 1.0)


def ce_gppo(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, config: LossConfig) -> Tensor:
    """The value of PPO's loss, the gradient of clipped tokens scaled by ``beta_low`` and ``beta_high``."""
    return _surrogate(logprobs, old_logprobs, advantages, config, config.beta_low, config.beta_high)


def _surrogate(
    logprobs: Tensor, old: Tensor, advantages: Tensor, config: LossConfig, beta_low: float, beta_high: float
) -> Tensor:
    return clipped_surrogate(
        logprobs,
        old,
        advantages,
        eps_low=config.eps_low,
        eps_high=config.eps_high,
        beta_low=beta_low,
        beta_high=beta_high,
        dual_clip=config.dual_clip,
    )


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, LossConfig], Tensor]] = {
    "grpo": grpo,
    "gppo": gppo,
    "ce_gppo": ce_gppo,
}


def kl_k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """Schulman's k3 estimate of ``KL(policy || reference)`` from tokens the policy sampled: ``r - 1 - log
    r``.

    Here ``r = exp(reference - logprobs)``. Never negative, 0 where both agree, unbiased over samples of the
    policy.
    """
    log_ratio = (reference - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(log_ratio) - log_ratio
