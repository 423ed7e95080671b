"""Advantages from the rewards of several answers to one prompt: functions of ``[prompts, group]``, chosen
by name.

All of them add up to zero over a group, in exact arithmetic, and are zero where a group's rewards are all
equal.
"""

from collections.abc import Callable

import numpy as np

EPSILON = 1e-6
"""Added to a group's standard deviation."""


def grpo(rewards: np.ndarray) -> np.ndarray:
    """``(r - mean) / (std + 1e-6)``, both over the group, std with ``group - 1`` (GRPO, arXiv 2402.03300)."""
    return dr_grpo(rewards) / (rewards.std(axis=1, ddof=1, keepdims=True) + EPSILON)


def dr_grpo(rewards: np.ndarray) -> np.ndarray:
    """``r - mean``: hard and easy prompts weigh alike (Dr. GRPO, arXiv 2503.20783)."""
    return rewards - rewards.mean(axis=1, keepdims=True)


def rloo(rewards: np.ndarray) -> np.ndarray:
    """``r -`` the mean of the *others*: ``group / (group - 1) * dr_grpo`` (RLOO, arXiv 2402.14740)."""
    group = rewards.shape[1]
    return dr_grpo(rewards) * group / (group - 1)


ADVANTAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"grpo": grpo, "dr_grpo": dr_grpo, "rloo": rloo}


def informative(rewards: np.ndarray) -> np.ndarray:
    """Which groups teach anything, ``[prompts]`` of bool: those with unequal rewards (DAPO's filter)."""
    return np.ptp(rewards, axis=1) > 0
