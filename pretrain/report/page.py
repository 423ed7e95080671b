"""The page of a run's training: losses, rates, speed, bits per byte, positions, needles, incidents."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.inspection.report.charts import both, compact_length
from data_pipeline.inspection.report.page import (
    OTHER,
    Notice,
    Section,
    card,
    colour_of,
    compact,
    counted,
    figure,
    legend,
    page,
    share,
    soft,
    table,
    text,
)
from pretrain.monitors.positional_law import PositionalFit
from pretrain.report.figures import StageFigures
from pretrain.report.lines import Line, Stretch, chart, smooth

POINTS = 100  # of a curve over the whole run
RAW = 1200  # of the pale one behind it
SHOWN_ROWS = 12  # of an incident
SHOWN_INCIDENTS = 50  # the newest


def training_page(stages: Sequence[StageFigures], run: str) -> str:
    """The whole page.

    Args:
        stages: from ``figures.gather``, at least one.
        run: name of the run, for the title.
    """
    domains = sorted({domain for stage in stages for domain in stage.domains})
    colours = colour_of(domains)
    incidents = [(stage, line) for stage in stages for line in stage.incidents]
    seconds = sum(line["seconds"] for stage in stages for line in stage.metrics)
    waited = sum(line["data_seconds"] for stage in stages for line in stage.metrics)
    tokens = sum(stage.tokens for stage in stages)
    training = [stage for stage in stages if not stage.sealed]
    tiles = [
        (compact(tokens), f"tokens trained on in {counted(len(stages), 'stage')}"),
        (figure(sum(stage.steps for stage in stages)), "optimizer steps"),
        (f"{tokens / seconds:,.0f}", "tokens a second, over all stages"),
        (share(waited / seconds), "of the time waiting for data, or sampling it"),
        (figure(len(incidents)), "incidents"),
    ]
    sections = [
        Section(
            "loss",
            "Loss",
            "Nats per predicted token, stage after stage: each step pale, means over neighbouring ones bold, "
            "domains in their colours. SFT counts the assistant's tokens only.",
            _loss(stages, colours),
        ),
        Section(
            "rewards",
            "Rewards",
            "What the model's own answers scored while RL trained it.",
            _rewards(stages),
        ),
        Section(
            "rates",
            "Learning rate, gradient and speed",
            "The learning rate across stages, the gradient's norm before clipping, and tokens a second.",
            _rates(stages),
        ),
        Section(
            "bits",
            "Bits per byte",
            "On held-out text, before and after each stage, with the same windows throughout.",
            _bits(stages, colours),
        ),
        Section(
            "positions",
            "Loss by position",
            "What a longer context gives: the mean training loss at each position of the sequence, and the "
            "law a0 / (1 + a1 i) + a2 fitted to it.",
            _positions(stages),
        ),
        Section(
            "needles",
            "Needles",
            "A number hidden in held-out text, asked for at its end: by how many nats a digit it is likelier "
            "than where it first stood, and the share of numbers with every digit likelier than not.",
            _needles(stages),
        ),
        Section(
            "incidents",
            "Incidents",
            "Steps whose loss or gradient was not as usual, what was done, and what they had read.",
            _incidents(incidents),
        ),
        Section(
            "checkpoints",
            "Checkpoints",
            "The chain of hashes over weights and optimizer: equal lines are equal trainings, to the bit.",
            _checkpoints(stages),
        ),
    ]
    return page(
        "training",
        run,
        ", ".join(stage.folder for stage in stages),
        tiles,
        _notices(stages, incidents, training),
        sections,
        "Drawn from metrics.jsonl, monitors.jsonl, incidents.jsonl and checkpoints.jsonl of each stage.",
    )


def _notices(
    stages: Sequence[StageFigures],
    incidents: Sequence[tuple[StageFigures, dict[str, Any]]],
    training: Sequence[StageFigures],
) -> list[Notice]:
    found = []
    for stage in training:
        found.append(Notice("warn", f"{stage.name} is not finished: {counted(stage.steps, 'step')} so far"))
    for stage in stages:
        if restarts := stage.summary.get("restarts"):
            found.append(
                Notice(
                    "warn", f"{stage.name} died or hung, and was started again {counted(restarts, 'time')}"
                )
            )
        kinds = [line["kind"] for line in stage.incidents]
        for kind in sorted(set(kinds)):
            words = kind.replace("_", " ")
            level = "bad" if kind == "not_finite" else "warn"
            found.append(Notice(level, f"{stage.name}: {counted(kinds.count(kind), 'step')} with {words}"))
        worse = [domain for domain, (before, after) in stage.bits.items() if after > 1.1 * before]
        if worse:
            found.append(
                Notice("warn", f"{stage.name} made held-out text of {', '.join(worse)} over a tenth costlier")
            )
    if not incidents and not training:
        found.append(Notice("good", "every step was applied, and none stood out"))
    return found


def _over_steps(stages: Sequence[StageFigures], name: str) -> tuple[list[tuple[float, float]], list[Stretch]]:
    """A figure over the steps of all stages one after another, and where each stage lies."""
    points, stretches, first = [], [], 0
    for stage in stages:
        points += [
            (float(first + at), float(line[name]))
            for at, line in enumerate(stage.metrics)
            if line.get(name) is not None
        ]
        stretches.append(Stretch(stage.name, first, first + stage.steps))
        first += stage.steps
    return points, stretches


def _steps_chart(
    stages: Sequence[StageFigures],
    lines: Sequence[Line],
    title: str,
    shown: str = "{:.4g}",
    height: float = 250.0,
) -> str:
    stretches = _over_steps(stages, "loss")[1]

    def where(x: float) -> str:
        inside = next((part for part in stretches if part.start <= x < part.stop), stretches[-1])
        return f"{inside.name}, step {int(x - inside.start):,}"

    return both(
        lambda width: chart(
            lines,
            title,
            width,
            x_label=lambda x: f"{x:,.0f}",
            y_label=shown.format,
            x_tip=where,
            stretches=stretches,
            height=height,
        )
    )


def _loss(stages: Sequence[StageFigures], colours: Mapping[str, int]) -> str:
    """Of stages that predict text: a policy gradient's loss is another thing."""
    shown = [stage for stage in stages if not _samples(stage)]
    if not shown:
        return ""
    points = _over_steps(shown, "loss")[0]
    lines = [Line("each step", OTHER, smooth(points, RAW), "raw")]
    for domain, colour in colours.items():
        of_domain = _over_steps(shown, f"loss/{domain}")[0]
        lines.append(Line(domain, colour, smooth(of_domain, POINTS)))
    lines.append(Line("all", OTHER, smooth(points, POINTS)))
    drawn = _steps_chart(shown, [line for line in lines if line.points], "Training loss", height=320)
    return legend({**colours, "all": OTHER}) + drawn


def _rewards(stages: Sequence[StageFigures]) -> str:
    shown = [stage for stage in stages if _samples(stage)]
    names = sorted({name for stage in shown for line in stage.metrics for name in line if "score/" in name})
    if not shown:
        return ""
    lines = [Line("reward", OTHER, smooth(_over_steps(shown, "reward")[0], POINTS))]
    keys = {"mean": OTHER}
    for colour, name in enumerate(names):
        task = name.removeprefix("score/")
        keys[task] = colour % OTHER
        lines.append(Line(task, colour % OTHER, smooth(_over_steps(shown, name)[0], POINTS)))
    return legend(keys) + _steps_chart(shown, lines, "Rewards", shown="{:.2f}")


def _rates(stages: Sequence[StageFigures]) -> str:
    parts = []
    for name, title, shown in (
        ("lr", "Learning rate", "{:.2g}"),
        ("grad_norm", "Gradient norm", "{:.3g}"),
        ("tokens_per_second", "Tokens a second", "{:,.0f}"),
    ):
        points = _over_steps(stages, name)[0]
        lines = [Line(title, 0, smooth(points, POINTS))]
        if name != "lr":
            lines.insert(0, Line("each step", 0, smooth(points, RAW), "raw"))
        drawn = _steps_chart(stages, lines, title, shown, height=150)
        parts.append(f"<h3>{text(title)}</h3>{drawn}")
    return "".join(parts)


def _bits(stages: Sequence[StageFigures], colours: Mapping[str, int]) -> str:
    rows = [
        [
            text(stage.name),
            *(
                f"{soft(f'{stage.bits[domain][0]:.3f}')} → {stage.bits[domain][1]:.3f}"
                if domain in stage.bits
                else ""
                for domain in colours
            ),
        ]
        for stage in stages
        if stage.bits
    ]
    return table(["stage", *colours], rows, range(1, len(colours) + 1)) if rows else ""


def _positions(stages: Sequence[StageFigures]) -> str:
    """The last window of every stage and length, drawn; all windows in a table."""
    windows = [
        (stage.name, line) for stage in stages for line in stage.monitors if line["monitor"] == "positions"
    ]
    if not windows:
        return ""
    last = {(name, line["sequence_length"]): line for name, line in windows}
    lines, keys = [], {}
    for at, ((name, length), line) in enumerate(last.items()):
        label, colour = f"{name} at {compact_length(length)}", at % OTHER
        keys[label] = colour
        lines.append(Line(label, colour, [(x, y) for x, y in line["curve"]], "raw", dots=True))
        law = PositionalFit(line["a0"], line["a1"], line["a2"], line["rmse"], line["identifiable"])
        lines.append(Line(label, colour, [(x, _at(law, x)) for x, _ in line["curve"]]))
    drawn = both(
        lambda width: chart(
            lines,
            "Loss by position",
            width,
            x_label=lambda x: f"{x:,.0f}",
            y_label=lambda y: f"{y:.2f}",
            logarithmic=True,
            height=280,
        )
    )
    rows = [
        [
            text(name),
            f"{line['step']:,}",
            f"{line['sequence_length']:,}",
            *([f"{line['a0']:.3f}", f"{line['a1']:.3g}"] if line["identifiable"] else [soft("no bend"), ""]),
            f"{line['a2']:.3f}",
            f"{line['rmse']:.3f}",
            f"{line['mean']:.3f}",
            f"{line['predicted']:.3f}" if line["predicted"] is not None else "",
        ]
        for name, line in windows
    ]
    headings = ["stage", "step", "length", "a0", "a1", "a2", "residual", "mean", "predicted"]
    note = (
        '<p class="note">Dots: mean training loss over the last window; lines: the law, on a logarithmic '
        "axis of positions. Predicted: what the windows before, of the same length, foretold for this one by "
        "our own extrapolation: each coefficient follows a power law of the step.</p>"
    )
    return legend(keys) + drawn + note + card("all windows", table(headings, rows, range(1, 9)))


def _at(law: PositionalFit, position: float) -> float:
    return law.a0 / (1.0 + law.a1 * position) + law.a2


def _needles(stages: Sequence[StageFigures]) -> str:
    found = [(stage.name, line) for stage in stages for line in stage.monitors if line["monitor"] == "needle"]
    if not found:
        return ""
    depths = sorted({depth for _, line in found for depth in line["depths"]}, key=float)
    rows = [
        [
            text(name),
            f"{line['step']:,}",
            f"{line['sequence_length']:,}",
            *(f"{line['depths'][depth]['gain']:+.2f}" if depth in line["depths"] else "" for depth in depths),
            f"{line['gain']:+.2f}",
            share(line["found"]),
            f"{line['needles']}",
        ]
        for name, line in found
    ]
    headings = ["stage", "step", "length", *(f"at {float(depth):.0%}" for depth in depths)]
    headings += ["gain, all", "found", "needles"]
    return table(headings, rows, range(1, len(headings)))


def _incidents(incidents: Sequence[tuple[StageFigures, dict[str, Any]]]) -> str:
    cards = []
    if before := len(incidents[:-SHOWN_INCIDENTS]):
        cards.append(f'<p class="note">{counted(before, "earlier one")}: see `stemma training incidents`</p>')
    for stage, line in incidents[-SHOWN_INCIDENTS:]:
        kind = line["kind"].replace("_", " ")
        figures = f"loss {line['loss']}, gradient norm {line['grad_norm']}, {line['policy']}"
        summary = f"{text(stage.name)}, step {line['step']:,}: {text(kind)} {soft(text(figures))}"
        rows = [[text(row.get("source", "")), text(_documents(row))] for row in line["batch"][:SHOWN_ROWS]]
        more = len(line["batch"]) - SHOWN_ROWS
        note = f'<p class="note">and {more:,} more rows</p>' if more > 0 else ""
        cards.append(card(summary, table(["source", "documents"], rows) + note))
    return "".join(cards)


def _documents(row: Mapping[str, Any]) -> str:
    read = row.get("documents", [])
    return ", ".join(f"{entry['id']} ({entry['origin']})" for entry in read) or str(row.get("trajectory", ""))


def _checkpoints(stages: Sequence[StageFigures]) -> str:
    rows = [
        [text(stage.name), f"{line['step']:,}", f"<code>{text(line['chain_sha256'][:32])}</code>"]
        for stage in stages
        for line in stage.checkpoints
    ]
    return table(["stage", "step", "chain"], rows, [1], identifier="chain") if rows else ""


def _samples(stage: StageFigures) -> bool:
    """Whether a stage trains on what the model sampled."""
    return any("reward" in line for line in stage.metrics[:1])
