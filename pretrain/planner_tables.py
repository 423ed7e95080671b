"""What ``stemma plan`` prints: the planner's report as tables."""

from collections.abc import Iterable

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
    for table in (_training_table, _settings_table, _sharing_table, _memory_table):
        console.print(table(report))
    console.print()
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


def _table(title: str, heads: Iterable[str], first: str = "stage") -> Table:
    """An empty table. All of them fit 80 columns: cut figures are worse than none."""
    made = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    made.add_column(first, style="cyan", no_wrap=True)
    for head in heads:
        made.add_column(head, justify="right", no_wrap=True)
    return made


def _training_table(report: PlannerReport) -> Table:
    heads = ("tokens", "sequence", "steps", "sequences\nper step", "tokens\nper step", "time")
    made = _table("\ntraining", heads)
    for stage in report.stages:
        bound = "≤ " if stage.at_most else ""
        made.add_row(
            stage.name,
            bound + amount(stage.tokens),
            "\n".join(f"{bound}{phase.sequence_length:,}" for phase in stage.phases),
            "\n".join(f"{phase.steps:,}" for phase in stage.phases),
            "\n".join(f"{phase.sequences_per_step:,}" for phase in stage.phases),
            bound + amount(stage.batch_tokens),
            bound + duration(stage.days),
        )
    return made


def _settings_table(report: PlannerReport) -> Table:
    made = _table("\nsettings", ("schedule", "warm-up", "learning rate", "rope base", "format"))
    for stage in report.stages:
        first, peak, last = (f"{rate:.3g}" for rate in stage.learning_rates)
        rates = [first] * (first != peak) + [peak] + [last] * (last != peak)
        bases = [amount(phase.rope_theta) for phase in stage.phases]
        made.add_row(
            stage.name,
            stage.schedule,
            f"{stage.warmup_steps:,}" if stage.warmup_steps else "",
            " → ".join(rates),
            "\n".join(dict.fromkeys(bases)),
            stage.precision,
        )
    return made


def _sharing_table(report: PlannerReport) -> Table:
    heads = ("tensor", "pipeline", "context", "data", "recompute", "MFU", "checkpoints")
    made = _table("\nthe fastest way to share each stage (estimated), and checkpoints kept", heads)
    for stage in report.stages:
        chosen = stage.choice
        split = chosen.topology
        made.add_row(
            stage.name,
            *map(str, (split.tensor, split.pipeline, split.context, split.data)),
            "yes" if chosen.recompute else "no",
            f"{report.mfu * chosen.useful / chosen.seconds:.0%}" if stage.feasible else "no fit",
            f"{stage.checkpoints} x {stage.checkpoint / GIB:.3g} GiB",
        )
    return made


def _memory_table(report: PlannerReport) -> Table:
    """Stages side by side, so that each adds up downwards."""
    capacity = f"{report.gpu_memory / GIB:.0f} GiB {report.gpu}"
    names = [stage.name for stage in report.stages]
    made = _table(f"\nmemory of the fullest GPU shared so, GiB (of a {capacity})", names, first="")
    longest = [max(phase.sequence_length for phase in stage.phases) for stage in report.stages]
    made.add_row("longest sequence", *(f"{length:,}" for length in longest))
    made.add_row("rows of it at a time", *(str(stage.micro_batch_size) for stage in report.stages))
    kept = [stage.kept for stage in report.stages]
    recomputed = [stage.recomputed for stage in report.stages]
    for name, values in {
        "weights": [memory.parameters for memory in kept],
        "gradients": [memory.gradients for memory in kept],
        "optimizer": [memory.optimizer for memory in kept],
        "logits": [memory.logits for memory in kept],
        "activations": [memory.activations for memory in kept],
        "total": [memory.total for memory in kept],
        "activations, recomputed": [memory.activations for memory in recomputed],
        "total, recomputed": [memory.total for memory in recomputed],
    }.items():
        style = "bold" if name.startswith("total") else None
        made.add_row(name, *map(_gib, values), style=style)
    return made


def _gib(value: float) -> str:
    shown = value / GIB
    return f"{shown:.3g}" if shown >= 0.01 or not shown else "<0.01"


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
