"""What ``stemma plan`` prints: the planner's report as tables."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pretrain.costs import GIB
from pretrain.planner import PlannerReport


def render(report: PlannerReport, console: Console) -> None:
    """Print a report for people."""
    console.print(
        f"[bold]{report.profile}[/]: {report.parameters:,} parameters "
        "(counted on the meta device, equal to the config's arithmetic)"
    )
    console.print(
        f"{report.gpus} x {report.gpu}, assumed MFU {report.mfu:.0%} of bf16 peak on one GPU by itself"
    )
    console.print(_training_table(report))
    console.print(_sharing_table(report))
    console.print(_memory_table(report))
    per_token = ", ".join(
        f"{flops / 1e9:.3g} G at {length:,}" for length, flops in report.flops_per_token.items()
    )
    console.print(f"Model FLOPs per token, forward and backward, causal attention included: {per_token}")
    console.print(
        f"Pretraining in all: {amount(sum(stage.tokens for stage in report.pretraining))} tokens, "
        f"{sum(stage.flops for stage in report.pretraining):.3g} FLOPs, "
        f"[bold]{duration(sum(stage.days for stage in report.pretraining))}[/], without restarts and "
        "evaluation. SFT at most; RL: tokens written at most, without prompts and the time to sample"
    )
    if report.common:
        split = report.common
        console.print(
            "One setting for the whole run, the fastest that every stage fits: "
            f"execution.tensor_parallel={split.tensor} execution.pipeline_parallel={split.pipeline} "
            f"execution.context_parallel={split.context} execution.data_parallel={split.data} "
            f"execution.sequence_parallel={str(split.sequence_parallel).lower()}. Checkpoints load on any "
            "other: stages can be run one by one, each with its own"
        )
    for note in report.notes:
        console.print(f"[yellow]{note}[/]")


def _table(title: str, heads: tuple[str, ...]) -> Table:
    made = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    made.add_column("stage", style="cyan", no_wrap=True)
    for head in heads:
        made.add_column(head, justify="right", no_wrap=True)
    return made


def _training_table(report: PlannerReport) -> Table:
    heads = ("tokens", "sequence", "steps", "sequences\nper step", "tokens\nper step", "schedule")
    made = _table("training", (*heads, "learning\nrate", "rope\nbase", "format", "time"))
    for stage in report.stages:
        bound = "≤ " if stage.at_most else ""
        first, peak, last = (f"{rate:.3g}" for rate in stage.learning_rates)
        rates = [first] * (first != peak) + [peak] + [last] * (last != peak)
        warm_up = [f"{stage.warmup_steps:,} warm-up"] if stage.warmup_steps else []
        made.add_row(
            stage.name,
            bound + amount(stage.tokens),
            "\n".join(f"{bound}{phase.sequence_length:,}" for phase in stage.phases),
            "\n".join(f"{phase.steps:,}" for phase in stage.phases),
            "\n".join(f"{phase.sequences_per_step:,}" for phase in stage.phases),
            bound + amount(stage.batch_tokens),
            "\n".join([*warm_up, stage.schedule]),
            " →\n".join(rates),
            "\n".join(amount(phase.rope_theta) for phase in stage.phases),
            stage.precision,
            bound + duration(stage.days),
        )
    return made


def _sharing_table(report: PlannerReport) -> Table:
    heads = ("tensor", "pipeline", "context", "data", "recompute", "MFU", "checkpoint", "kept")
    made = _table("the fastest way to share each stage that fits (estimated), and its checkpoints", heads)
    for stage in report.stages:
        chosen = stage.choice
        split = chosen.topology
        made.add_row(
            stage.name if stage.feasible else f"{stage.name} (no fit)",
            *map(str, (split.tensor, split.pipeline, split.context, split.data)),
            "yes" if chosen.recompute else "no",
            f"{report.mfu * chosen.useful / chosen.seconds:.0%}",
            f"{stage.checkpoint / GIB:.3g} GiB",
            str(stage.checkpoints),
        )
    return made


def _memory_table(report: PlannerReport) -> Table:
    capacity = f"{report.gpu_memory / GIB:.0f} GiB {report.gpu}"
    heads = ("longest", "rows", "weights", "gradients", "optimizer", "activations", "logits", "total")
    recomputed = ("activations\nrecomputed", "total")
    made = _table(f"memory of the fullest GPU, GiB (of a {capacity})", (*heads, *recomputed))
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
    """A large number with its unit: ``8.16 T``, ``4.194 M``, ``512``."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.4g} {name}"
    return f"{value:.3g}"


def duration(value: float) -> str:
    """Days as people write them; short ones in hours, minutes or seconds."""
    for unit, name in ((1.0, "days"), (1 / 24, "h"), (1 / 1440, "min")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value * 86_400:.2g} s"
