"""What a profile would train, before anything does: parameters, tokens, steps, schedule, memory and days.

``plan_profile`` returns plain data, ``pretrain.planner_tables`` prints it. The model is built on torch's
meta device, which allocates nothing, and its parameters are counted; the rest is arithmetic
(``pretrain.costs``).
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

from data_pipeline.config import CurriculumConfig, PlanConfig
from pretrain.config import ModelConfig, TrainingConfig
from pretrain.costs import DEVICES, GIB, Memory, checkpoint_bytes, memory, training_flops
from pretrain.schedule import learning_rate
from pretrain.topology import Topology
from pretrain.topology_search import GPUS_PER_NODE, ROOM, Estimate, Work, estimate, feasible, topologies
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
        choice: how the GPUs share it, its time and memory.
        feasible: the choice fits; if not, it is what comes nearest.
        kept: memory of the fullest GPU at the longest sequence, in bytes, activations kept.
        recomputed: the same with every layer computed again in the backward pass.
        checkpoint: bytes of one checkpoint.
        checkpoints: of them on disk towards the end of the stage: the last ones, and the milestones.
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
    choice: Estimate
    feasible: bool
    kept: Memory
    recomputed: Memory
    checkpoint: int
    checkpoints: int

    @property
    def days(self) -> float:
        """Estimated, without restarts and evaluation."""
        return self.choice.seconds / 86_400


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
    common: Topology | None
    """The fastest topology that every stage fits, if one does: a run has one for all its stages."""
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
    tensor_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    context_parallel: int | None = None,
) -> PlannerReport:
    """Plan the training stages of a profile on given hardware.

    Args:
        profile: a ``stemma.profile.Profile``.
        gpus: devices in all; what the three parallel sizes leave over becomes data parallelism.
        gpu: a key of ``pretrain.costs.DEVICES``.
        mfu: model FLOPs utilization that one GPU reaches by itself, 0 to 1: an assumption, not a promise.
            What sharing costs on top is estimated.
        tensor_parallel: None: whatever is fastest; so are the others.

    Raises:
        PlannerError: unknown GPU, or a number of GPUs that the parallel sizes do not divide.
        TopologyError: the model cannot be split that way.
    """
    if gpu not in DEVICES:
        raise PlannerError(f"unknown GPU {gpu!r}; known are: {', '.join(DEVICES)}")
    asked = {"tensor": tensor_parallel, "pipeline": pipeline_parallel, "context": context_parallel}
    given = {name: size for name, size in asked.items() if size is not None}
    group = prod(given.values())
    if gpus % group:
        raise PlannerError(
            f"{gpus} GPUs cannot be divided into groups of "
            f"{' x '.join(str(given.get(name, 1)) for name in asked)} (tensor x pipeline x context parallel)"
        )
    Topology(**given).check(profile.model)
    if tensor_parallel and tensor_parallel > GPUS_PER_NODE:
        raise PlannerError(
            f"tensor_parallel {tensor_parallel}: ranks that share a layer have to be in one machine, which "
            f"has {GPUS_PER_NODE} GPUs; share the depth or the sequences further instead"
        )
    stages, fitting = [], []
    for name, training, phases in stage_phases(profile):
        found = options(profile.model, training, phases, gpus, gpu, mfu, given)
        stages.append(plan_stage(name, phases, training, profile.model, found, at_most=name not in STAGES))
        fitting.append(fastest_by_topology(found.fits))
    lengths = sorted({phase.sequence_length for stage in stages for phase in stage.phases})
    everywhere = set.intersection(*(set(seconds) for seconds in fitting))
    return PlannerReport(
        profile=profile.name,
        parameters=count_parameters(profile.model),
        flops_per_token={length: training_flops(profile.model, length) for length in lengths},
        gpus=gpus,
        gpu=gpu,
        gpu_memory=DEVICES[gpu].memory,
        mfu=mfu,
        common=min(
            everywhere,
            key=lambda shared: (sum(seconds[shared] for seconds in fitting), str(shared)),
            default=None,
        ),
        stages=tuple(stages),
        notes=tuple(remarks(stages, gpus, DEVICES[gpu].memory)),
    )


@dataclass(frozen=True)
class Options:
    """Ways to share a stage over given GPUs.

    Attributes:
        fits: feasible ones, fastest first.
        nearest: what needs the least memory of all, for a stage that nothing fits.
    """

    fits: list[Estimate]
    nearest: Estimate


def options(
    model: ModelConfig,
    training: TrainingConfig,
    phases: Sequence[PhasePlan],
    gpus: int,
    gpu: str,
    mfu: float,
    given: Mapping[str, int],
) -> Options:
    """Every way to share a stage that has the given sizes (``tensor``, ``pipeline``, ``context``)."""
    rows = training.micro_batch_size * phases[0].sequence_length
    work = [
        Work(
            phase.sequence_length,
            phase.sequences_per_step,
            max(1, rows // phase.sequence_length),
            phase.steps,
        )
        for phase in phases
    ]
    wanted = [
        topology
        for topology in topologies(model, gpus)
        if all(getattr(topology, name) == size for name, size in given.items())
    ]
    device = DEVICES[gpu]
    every = [
        estimate(model, training.precision, work, topology, recompute, device, mfu)
        for topology in wanted
        for recompute in (False, True)
    ]
    return Options(feasible(every, work, device), min(every, key=lambda option: option.memory.total))


def fastest_by_topology(fits: Sequence[Estimate]) -> dict[Topology, float]:
    """Seconds of a stage by topology, with or without recomputation, whichever is faster."""
    found: dict[Topology, float] = {}
    for option in fits:  # fastest first
        found.setdefault(option.topology, option.seconds)
    return found


def stage_phases(profile: Plannable) -> Iterator[tuple[str, TrainingConfig, list[PhasePlan]]]:
    """Name, training and phases of every training stage of a profile, in order.

    The steps of a pretraining stage all hold the same number of tokens: ``global_batch_size`` sequences of
    the first phase's length, and fewer of longer ones. SFT and RL count sequences, of whatever length they
    come; for RL the length is what the model may write, without the prompt. A stage without a rotary base of
    its own goes on with that of the stage before.
    """
    base = profile.model.rope_theta
    for name in STAGES:
        training: TrainingConfig = getattr(profile.training, name)
        curriculum: CurriculumConfig = getattr(profile.curriculum, name)
        plan = PlanConfig(curriculum=curriculum, global_batch_size=training.global_batch_size)
        base = training.rope_theta or base
        bases = getattr(profile.long_context, name, {})
        phases = [
            PhasePlan(
                sequence_length=phase.sequence_length,
                tokens=steps * plan.batch_tokens,
                sequences_per_step=plan.batch_tokens // phase.sequence_length,
                steps=steps,
                rope_theta=bases.get(phase.sequence_length, base),
            )
            for phase, steps in plan.stretches
        ]
        yield name, training, phases
        base = phases[-1].rope_theta
    written = max(task.max_new_tokens * task.max_turns for task in profile.rl.tasks.values())
    longest = {"sft": profile.sft.max_tokens, "rl": min(written, profile.model.max_position_embeddings)}
    for name, length in longest.items():
        section = getattr(profile, name)
        rows = section.training.global_batch_size
        base = section.training.rope_theta or base
        tokens = section.steps * rows * length
        yield name, section.training, [PhasePlan(length, tokens, rows, section.steps, base)]


def plan_stage(
    name: str,
    phases: Sequence[PhasePlan],
    training: TrainingConfig,
    model: ModelConfig,
    found: Options,
    at_most: bool = False,
) -> StagePlan:
    """Cost one stage.

    Args:
        name: of the stage.
        phases: what it trains on.
        training: how.
        model: the model's shape.
        found: how GPUs can share it.
        at_most: the phases are upper bounds.
    """
    steps = sum(phase.steps for phase in phases)
    rates = [learning_rate(training.schedule, step, steps) for step in milestones(training, steps)]
    longest = max(phase.sequence_length for phase in phases)
    rows = max(1, training.micro_batch_size * phases[0].sequence_length // longest)
    choice = found.fits[0] if found.fits else found.nearest
    kept, recomputed = (
        memory(model, choice.topology, training.precision, longest, rows, recompute)
        for recompute in (False, True)
    )
    permanent = steps // training.keep_every if training.keep_every else 0
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
        flops=float(sum(training_flops(model, phase.sequence_length) * phase.tokens for phase in phases)),
        choice=choice,
        feasible=bool(found.fits),
        kept=kept,
        recomputed=recomputed,
        checkpoint=checkpoint_bytes(model, training.precision),
        checkpoints=min(training.keep_checkpoints, -(-steps // training.checkpoint_every)) + permanent,
    )


def milestones(training: TrainingConfig, steps: int) -> list[int]:
    """Steps at which a schedule begins, has warmed up, and ends."""
    return [0, min(max(training.schedule.warmup_steps - 1, 0), steps - 1), steps - 1]


def remarks(stages: Sequence[StagePlan], gpus: int, capacity: int) -> Iterator[str]:
    """What will not work on this hardware, and what to change."""
    for stage in stages:
        if stage.feasible:
            continue
        shared = stage.choice.topology
        for phase in stage.phases:
            if phase.sequences_per_step % shared.data:
                yield (
                    f"{stage.name}: {phase.sequences_per_step} sequences of {phase.sequence_length:,} per "
                    f"step do not divide over {shared.data} data-parallel replicas; raise the context, "
                    "tensor or pipeline parallel size, or the batch"
                )
        if stage.choice.memory.total > ROOM * capacity:
            yield (
                f"{stage.name}: does not fit {capacity / GIB:.0f} GiB, {1 - ROOM:.0%} kept free; "
                f"what comes nearest on {gpus} GPUs takes {stage.choice.memory.total / GIB:.3g} GiB"
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
