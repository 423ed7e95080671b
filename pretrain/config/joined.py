"""Stages one after another: where a learning rate goes on, and what an optimizer can take over."""

import math
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from pretrain.config.schedule import ScheduleConfig
from pretrain.config.training import TrainingConfig


def joined(stages: Mapping[str, TrainingConfig]) -> tuple[dict[str, TrainingConfig], list[str]]:
    """Put in the learning rates that stages take over from the one before, and find what does not fit.

    Args:
        stages: by the path of their ``training`` in the profile, in the order in which they run.

    Returns:
        The stages with every ``peak_lr`` a number, and the problems. A stage with a problem of its own rate
        is returned as it was, and the next one is not compared with it.
    """
    resolved: dict[str, TrainingConfig] = {}
    problems: list[str] = []
    before: tuple[str, TrainingConfig] | None = None
    for path, training in stages.items():
        resolved[path] = training
        if training.schedule.peak_lr is None:
            try:
                schedule = _go_on(training.schedule, before[1].schedule if before else None)
            except ValueError as error:
                problems.append(f"{path}.schedule.peak_lr is null, but {error}")
                before = None
                continue
            resolved[path] = training = training.model_copy(update={"schedule": schedule})
        if before:
            problems += _misfits(path, training, *before)
        before = path, training
    return resolved, problems


def _go_on(schedule: ScheduleConfig, former: ScheduleConfig | None) -> ScheduleConfig:
    """The schedule with the former one's last rate as its peak."""
    if former is None:
        raise ValueError("there is no rate to go on from: give a number")
    if former.final_lr == 0:
        raise ValueError("the stage before ends with a learning rate of 0: give a number")
    try:
        return ScheduleConfig.model_validate(schedule.model_dump() | {"peak_lr": former.final_lr})
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"the stage before ends with {former.final_lr:g}, and {said}") from error


def _misfits(path: str, training: TrainingConfig, before: str, former: TrainingConfig) -> Iterator[str]:
    """What a stage that goes on with the moments of another must have in common with it."""
    if not training.carry_optimizer:
        return
    schedule, ended = training.schedule, former.schedule.final_lr
    declared = schedule.warmup_steps > 0 or schedule.jump
    if not declared and not math.isclose(schedule.peak, ended, rel_tol=1e-9):
        yield (
            f"{path}.schedule.peak_lr {schedule.peak:g} is not where {before} ends, {ended:g}; give null to "
            "go on from there, warmup_steps, carry_optimizer: false, or jump: true if it is meant"
        )
    for field in ("name", "decay_embeddings"):
        mine, theirs = getattr(training.optimizer, field), getattr(former.optimizer, field)
        if mine != theirs:
            yield (
                f"{path}.optimizer.{field} {mine!r} cannot take over the moments of {before}, where it is "
                f"{theirs!r}; give {path}.carry_optimizer: false to begin without"
            )
    if (training.precision == "fp32") != (former.precision == "fp32"):  # 16-bit weights have fp32 masters
        yield (
            f"{path}.precision {training.precision} cannot take over the moments of {before}, which has "
            f"{former.precision}; give {path}.carry_optimizer: false to begin without"
        )
