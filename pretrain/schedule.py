"""Learning rates as a pure function of the step, so that a resumed run needs no scheduler state."""

import math

from pretrain.config import ScheduleConfig


def learning_rate(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """Learning rate of one update.

    The warm-up reaches ``peak_lr`` on its last step; falling shapes reach ``end_lr`` on the stage's last
    step. ``wsd`` stays until its decay phase (warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395).

    Args:
        schedule: the stage's schedule.
        step: number of the update, 0 for the first.
        total_steps: updates in the stage.

    Raises:
        ValueError: ``step`` is not one of the stage's, or ``peak_lr`` is null.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is not within a stage of {total_steps} steps")
    peak, end = schedule.peak, schedule.end_lr
    if step < schedule.warmup_steps:
        return schedule.start_lr + (peak - schedule.start_lr) * (step + 1) / schedule.warmup_steps
    remaining = total_steps - schedule.warmup_steps
    progress = (step + 1 - schedule.warmup_steps) / remaining  # in (0, 1]
    if schedule.shape == "constant":
        return peak
    if schedule.shape == "wsd":
        to_go = (1.0 - progress) / schedule.decay_fraction  # of the decay; exactly 0 on the last step
        if to_go >= 1.0:
            return peak
        return end + (peak - end) * _left(schedule.decay, 1.0 - to_go)
    return end + (peak - end) * _left(schedule.shape, progress)


def _left(shape: str, progress: float) -> float:
    """How much of the way down is left after a share of a decay: 1 at 0, and 0 at 1.

    ``1-sqrt`` is Haegele et al. 2024 (arXiv 2405.18392, section 3), ``cosine`` Loshchilov and Hutter 2016
    (arXiv 1608.03983, equation 5).
    """
    if shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - (math.sqrt(progress) if shape == "1-sqrt" else progress)
