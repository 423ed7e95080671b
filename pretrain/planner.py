"""What a profile would train, before anything does: parameters, tokens, steps, schedule, memory and days.

``plan_profile`` returns plain data, ``render`` prints it. The model is built on torch's meta device, which
allocates nothing, and its parameters are counted; everything else is arithmetic (``pretrain.costs``).
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table

from data_pipeline.config import CurriculumConfig, PlanConfig
from pretrain.config import ModelConfig, TrainingConfig
from pretrain.costs import DEVICES, GIB, Memory, Topology, days, memory, training_flops
from pretrain.schedule import learning_rate
from stemma.core.errors import StemmaError

STAGES = ("commonsense", "stem", "general", "agentic")


class Plannable(Protocol):
    """The part of a profile that the planner reads."""

    name: str
    model: ModelConfig
    curriculum: Any
    training: Any


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


@dataclass(frozen=True)
class StagePlan:
    """One training stage.

    Attributes:
        tokens: predicted positions, over all phases, in whole steps.
        batch_tokens: tokens per optimizer step.
        learning_rates: (first, highest, last).
        flops: model FLOPs of the stage, forward and backward.
        days: on the GPUs and at the MFU of the report.
        kept: memory of the fullest GPU at the longest sequence, in bytes, activations kept.
        recomputed: the same with every layer computed again in the backward pass.
    """

    name: str
    phases: tuple[PhasePlan, ...]
    tokens: int
    steps: int
    batch_tokens: int
    schedule: str
    warmup_steps: int
    learning_rates: tuple[float, float, float]
    rope_theta: float
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
    def tokens(self) -> int:
        return sum(stage.tokens for stage in self.stages)

    @property
    def days(self) -> float:
        return sum(stage.days for stage in self.stages)


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
        plan_stage(
            name,
            getattr(profile.curriculum, name),
            getattr(profile.training, name),
            profile.model,
            topology,
            peak * mfu,
        )
        for name in STAGES
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


def plan_stage(
    name: str,
    curriculum: CurriculumConfig,
    training: TrainingConfig,
    model: ModelConfig,
    topology: Topology,
    flops_per_gpu: float,
) -> StagePlan:
    """Plan one stage.

    Args:
        curriculum: the stage's phases. Every step holds the same number of tokens: ``global_batch_size``
            sequences of the first phase's length, and fewer of longer ones.
        flops_per_gpu: FLOP/s one GPU achieves, MFU included.
    """
    plan = PlanConfig(curriculum=curriculum, global_batch_size=training.global_batch_size)
    base = curriculum.phases[0].sequence_length
    planned = []
    for phase in curriculum.phases:
        steps = phase.tokens // plan.batch_tokens
        rows = plan.batch_tokens // phase.sequence_length
        planned.append(PhasePlan(phase.sequence_length, steps * plan.batch_tokens, rows, steps))
    steps = sum(phase.steps for phase in planned)
    flops = float(sum(training_flops(model, phase.sequence_length) * phase.tokens for phase in planned))
    rates = [learning_rate(training.schedule, step, steps) for step in milestones(training, steps)]
    longest = max(phase.sequence_length for phase in planned)
    rows = max(1, training.micro_batch_size * base // longest)
    kept, recomputed = (
        memory(model, topology, training.precision, longest, rows, recompute) for recompute in (False, True)
    )
    return StagePlan(
        name=name,
        phases=tuple(planned),
        tokens=sum(phase.tokens for phase in planned),
        steps=steps,
        batch_tokens=plan.batch_tokens,
        schedule=training.schedule.shape,
        warmup_steps=training.schedule.warmup_steps,
        learning_rates=(rates[0], max(rates), rates[-1]),
        rope_theta=training.rope_theta or model.rope_theta,
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
            yield f"{stage.name}: fits {capacity / GIB:.0f} GiB only when activations are recomputed"


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

    with warnings.catch_warnings(), single_rank(), torch.device("meta"):
        warnings.simplefilter(
            "ignore"
        )  # Megatron's about missing CUDA extensions, which a count does not need
        from pretrain.model import build_model, megatron_config

        module = build_model(model, megatron_config(model))
    counted = sum(parameter.numel() for parameter in module.parameters())
    if counted != model.parameters:
        raise PlannerError(
            f"the model has {counted:,} parameters, by its config it should have {model.parameters:,}"
        )
    return counted


def render(report: PlannerReport, console: Console) -> None:
    """Print a report for people."""
    split = report.topology
    console.print(
        f"[bold]{report.profile}[/]: {report.parameters:,} parameters "
        "(counted on the meta device, equal to the config's arithmetic)"
    )
    console.print(
        f"{report.gpus} x {report.gpu}: tensor {split.tensor} x pipeline {split.pipeline} x context "
        f"{split.context} x data {split.data}, assumed MFU {report.mfu:.0%} of bf16 peak"
    )
    console.print(_training_table(report))
    console.print(_memory_table(report))
    per_token = ", ".join(
        f"{flops / 1e9:.3g} G at {length:,}" for length, flops in report.flops_per_token.items()
    )
    console.print(f"Model FLOPs per token, forward and backward, causal attention included: {per_token}")
    console.print(
        f"In all {amount(report.tokens)} tokens, {sum(stage.flops for stage in report.stages):.3g} FLOPs, "
        f"[bold]{duration(report.days)}[/] without restarts, evaluation and post-training"
    )
    for note in report.notes:
        console.print(f"[yellow]{note}[/]")


def _training_table(report: PlannerReport) -> Table:
    made = Table(title="training", title_justify="left", header_style="bold", pad_edge=False)
    made.add_column("stage", style="cyan", no_wrap=True)
    for head in ("tokens", "sequence", "steps", "batch", "schedule", "learning rate", "rope base", "time"):
        made.add_column(head, justify="right")
    for stage in report.stages:
        first, peak, last = stage.learning_rates
        rates = f"{first:.3g} → {peak:.3g}" if first != peak else f"{peak:.3g}"
        made.add_row(
            stage.name,
            amount(stage.tokens),
            "\n".join(f"{phase.sequence_length:,}" for phase in stage.phases),
            "\n".join(f"{phase.steps:,}" for phase in stage.phases),
            "\n".join(
                f"{phase.sequences_per_step:,} seq, {amount(stage.batch_tokens)} tok"
                for phase in stage.phases
            ),
            f"{stage.schedule}, {stage.warmup_steps:,} warm-up",
            rates if last == peak else f"{rates} → {last:.3g}",
            f"{stage.rope_theta:,.0f}",
            duration(stage.days),
        )
    return made


def _memory_table(report: PlannerReport) -> Table:
    capacity = f"{report.gpu_memory / GIB:.0f} GiB {report.gpu}"
    made = Table(
        title=f"memory of the fullest GPU, GiB (of a {capacity})",
        title_justify="left",
        header_style="bold",
        pad_edge=False,
    )
    made.add_column("stage", style="cyan", no_wrap=True)
    heads = ("weights", "gradients", "optimizer", "activations", "logits", "total", "recomputing", "total")
    for head in ("longest", "rows", *heads):
        made.add_column(head, justify="right")
    for stage in report.stages:
        kept = stage.kept
        values = (
            kept.parameters,
            kept.gradients,
            kept.optimizer,
            kept.activations,
            kept.logits,
            kept.total,
            stage.recomputed.activations,
            stage.recomputed.total,
        )
        longest = max(phase.sequence_length for phase in stage.phases)
        cells = [f"{value / GIB:.3g}" for value in values]
        made.add_row(stage.name, f"{longest:,}", str(stage.micro_batch_size), *cells)
    return made


def amount(value: float) -> str:
    """A large number with its unit: ``8.16T``, ``4.19M``, ``512``."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def duration(value: float) -> str:
    """Days as people write them; short ones in hours, minutes or seconds."""
    for unit, name in ((1.0, "days"), (1 / 24, "h"), (1 / 1440, "min")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value * 86_400:.2g} s"
