"""What a profile would train, before anything does: parameters, tokens, steps, schedule, memory and days.

``plan_profile`` returns plain data, ``pretrain.planner_tables`` prints it. The model is built on torch's
meta device, which allocates nothing, and its parameters are counted; the rest is arithmetic
(``pretrain.costs``).
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from data_pipeline.config import CurriculumConfig, PlanConfig
from pretrain.config import ModelConfig, TrainingConfig
from pretrain.costs import DEVICES, GIB, Memory, days, memory, training_flops
from pretrain.schedule import learning_rate
from pretrain.topology import Topology
from stemma.core.errors import StemmaError

STAGES = ("commonsense", "stem", "general", "agentic")


class Plannable(Protocol):
    """The part of a profile that the planner reads."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> ModelConfig: ...
    @property
    def curriculum(self) -> Any: ...
    @property
    def training(self) -> Any: ...
    @property
    def long_context(self) -> Any: ...
    @property
    def sft(self) -> Any: ...
    @property
    def rl(self) -> Any: ...


class PlannerError(StemmaError):
    """The plan cannot be made as asked."""

    exit_code = 2


@dataclass(frozen=True)
class PhasePlan:
    """A run of steps with one sequence length."""

    sequence_length: int
    tokens: int
    sequences_per_step: int
    steps: int
    rope_theta: float


@dataclass(frozen=True)
class StagePlan:
    """One training stage.

    Attributes:
        tokens: predicted positions, over all phases, in whole steps.
        at_most: the data decides, and every sequence has at most the length given: tokens, FLOPs and days are
            upper bounds. So it is after pretraining.
        batch_tokens: tokens per optimizer step.
        learning_rates: (first, highest, last).
        flops: model FLOPs of the stage, forward and backward.
        days: on the GPUs and at the MFU of the report.
        kept: memory of the fullest GPU at the longest sequence, in bytes, activations kept.
        recomputed: the same with every layer computed again in the backward pass.
    """

    name: str
    phases: tuple[PhasePlan, ...]
    at_most: bool
    tokens: int
    steps: int
    batch_tokens: int
    schedule: str
    warmup_steps: int
    learning_rates: tuple[float, float, float]
    precision: str
    micro_batch_size: int
    flops: float
    days: float
    kept: Memory
    recomputed: Memory


@dataclass(frozen=True)
class PlannerReport:
    """Everything ``stemma plan`` says, as data."""

    profile: str
    parameters: int
    flops_per_token: Mapping[int, int]
    """Sequence length -> model FLOPs per token, forward and backward."""
    gpus: int
    gpu: str
    gpu_memory: int
    mfu: float
    topology: Topology
    stages: tuple[StagePlan, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def pretraining(self) -> tuple[StagePlan, ...]:
        """The stages whose tokens the profile fixes."""
        return tuple(stage for stage in self.stages if not stage.at_most)


def plan_profile(
    profile: Plannable,
    gpus: int = 64,
    gpu: str = "h100",
    mfu: float = 0.4,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    context_parallel: int = 1,
) -> PlannerReport:
    """Plan the training stages of a profile on given hardware.

    Args:
        profile: a ``stemma.profile.Profile``.
        gpus: devices in all; what the three parallel sizes leave over becomes data parallelism.
        gpu: a key of ``pretrain.costs.DEVICES``.
        mfu: model FLOPs utilization to assume, 0 to 1. It is an assumption, not a promise.

    Raises:
        PlannerError: unknown GPU, or a number of GPUs that the parallel sizes do not divide.
        TopologyError: the model cannot be split that way.
    """
    if gpu not in DEVICES:
        raise PlannerError(f"unknown GPU {gpu!r}; known are: {', '.join(DEVICES)}")
    group = tensor_parallel * pipeline_parallel * context_parallel
    if gpus % group:
        raise PlannerError(
            f"{gpus} GPUs cannot be divided into groups of {tensor_parallel} x {pipeline_parallel} x "
            f"{context_parallel} (tensor x pipeline x context parallel)"
        )
    topology = Topology(tensor_parallel, pipeline_parallel, context_parallel, gpus // group)
    topology.check(profile.model)
    peak, capacity = DEVICES[gpu]
    stages = tuple(
        plan_stage(name, phases, training, profile.model, topology, peak * mfu, at_most=name not in STAGES)
        for name, training, phases in stage_phases(profile)
    )
    lengths = sorted({phase.sequence_length for stage in stages for phase in stage.phases})
    return PlannerReport(
        profile=profile.name,
        parameters=count_parameters(profile.model),
        flops_per_token={length: training_flops(profile.model, length) for length in lengths},
        gpus=gpus,
        gpu=gpu,
        gpu_memory=capacity,
        mfu=mfu,
        topology=topology,
        stages=stages,
        notes=tuple(remarks(stages, topology, capacity)),
    )


def stage_phases(profile: Plannable) -> Iterator[tuple[str, TrainingConfig, list[PhasePlan]]]:
    """Name, training and phases of every training stage of a profile, in order.

    The steps of a pretraining stage all hold the same number of tokens: ``global_batch_size`` sequences of
    the first phase's length, and fewer of longer ones. SFT and RL count sequences, of whatever length they
    come; for RL the length is what the model may write, without the prompt.
    """
    for name in STAGES:
        training: TrainingConfig = getattr(profile.training, name)
        curriculum: CurriculumConfig = getattr(profile.curriculum, name)
        plan = PlanConfig(curriculum=curriculum, global_batch_size=training.global_batch_size)
        stage_base = training.rope_theta or profile.model.rope_theta
        bases = getattr(profile.long_context, name, {})
        yield (
            name,
            training,
            [
                PhasePlan(
                    sequence_length=phase.sequence_length,
                    tokens=steps * plan.batch_tokens,
                    sequences_per_step=plan.batch_tokens // phase.sequence_length,
                    steps=steps,
                    rope_theta=bases.get(phase.sequence_length, stage_base),
                )
                for phase, steps in plan.stretches
            ],
        )
    written = max(task.max_new_tokens * task.max_turns for task in profile.rl.tasks.values())
    longest = {"sft": profile.sft.max_tokens, "rl": min(written, profile.model.max_position_embeddings)}
    for name, length in longest.items():
        section = getattr(profile, name)
        rows = section.training.global_batch_size
        base = section.training.rope_theta or profile.model.rope_theta
        yield (
            name,
            section.training,
            [PhasePlan(length, section.steps * rows * length, rows, section.steps, base)],
        )


def plan_stage(
    name: str,
    phases: Sequence[PhasePlan],
    training: TrainingConfig,
    model: ModelConfig,
    topology: Topology,
    flops_per_gpu: float,
    at_most: bool = False,
) -> StagePlan:
    """Cost one stage.

    Args:
        name: of the stage.
        phases: what it trains on.
        training: how.
        model: the model's shape.
        topology: how the ranks share it.
        flops_per_gpu: FLOP/s one GPU achieves, MFU included.
        at_most: the phases are upper bounds.
    """
    steps = sum(phase.steps for phase in phases)
    flops = float(sum(training_flops(model, phase.sequence_length) * phase.tokens for phase in phases))
    rates = [learning_rate(training.schedule, step, steps) for step in milestones(training, steps)]
    longest = max(phase.sequence_length for phase in phases)
    rows = max(1, training.micro_batch_size * phases[0].sequence_length // longest)
    kept, recomputed = (
        memory(model, topology, training.precision, longest, rows, recompute) for recompute in (False, True)
    )
    return StagePlan(
        name=name,
        phases=tuple(phases),
        at_most=at_most,
        tokens=sum(phase.tokens for phase in phases),
        steps=steps,
        batch_tokens=phases[0].sequences_per_step * phases[0].sequence_length,
        schedule=training.schedule.shape,
        warmup_steps=training.schedule.warmup_steps,
        learning_rates=(rates[0], max(rates), rates[-1]),
        precision=training.precision,
        micro_batch_size=rows,
        flops=flops,
        days=days(flops, topology.ranks, flops_per_gpu),
        kept=kept,
        recomputed=recomputed,
    )


def milestones(training: TrainingConfig, steps: int) -> list[int]:
    """Steps at which a schedule begins, has warmed up, and ends."""
    return [0, min(max(training.schedule.warmup_steps - 1, 0), steps - 1), steps - 1]


def remarks(stages: Sequence[StagePlan], topology: Topology, capacity: int) -> Iterator[str]:
    """What will not work on this hardware, and what to change."""
    if topology.context > 1:
        yield "context parallel: counted here, but the training engine cannot split sequences yet"
    for stage in stages:
        for phase in stage.phases:
            if phase.sequences_per_step % topology.data:
                yield (
                    f"{stage.name}: {phase.sequences_per_step} sequences of {phase.sequence_length:,} per "
                    f"step do not divide over {topology.data} data-parallel replicas; raise the context, "
                    "tensor or pipeline parallel size, or the batch"
                )
        if stage.recomputed.total > capacity:
            yield f"{stage.name}: does not fit {capacity / GIB:.0f} GiB even when activations are recomputed"
        elif stage.kept.total > capacity:
            yield (
                f"{stage.name}: fits {capacity / GIB:.0f} GiB only when activations are recomputed, which "
                "the training engine does not do yet"
            )


@contextlib.contextmanager
def single_rank() -> Iterator[None]:
    """Megatron's parallel state with one rank and no network, undone afterwards; an existing one is kept."""
    import torch.distributed
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        yield
        return
    own = not torch.distributed.is_initialized()
    if own:
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel_state.initialize_model_parallel()
        yield
    finally:
        parallel_state.destroy_model_parallel()
        if own:
            torch.distributed.destroy_process_group()


def count_parameters(model: ModelConfig) -> int:
    """Build the training engine's model on the meta device and count its parameters.

    Raises:
        PlannerError: the count differs from ``ModelConfig.parameters``; one of the two is wrong.
    """
    import torch

    # Megatron warns about missing CUDA extensions, which a count does not need.
    with warnings.catch_warnings(action="ignore"), single_rank(), torch.device("meta"):
        from pretrain.model import build_model, megatron_config

        module = build_model(model, megatron_config(model))
    counted = sum(parameter.numel() for parameter in module.parameters())
    if counted != model.parameters:
        raise PlannerError(
            f"the model has {counted:,} parameters, by its config it should have {model.parameters:,}"
        )
    return counted
