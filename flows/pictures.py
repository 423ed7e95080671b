"""Pictures of a stage: SVG files that stand by themselves, in the reports' colours, for the UI to show.

The charts are those of the HTML reports. Outside a page they need their style, a background and a legend of
their own.
"""

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from functools import cache
from xml.sax.saxutils import escape

from data_pipeline.inspection.report.charts import CHARACTER, Stack, composition
from data_pipeline.inspection.report.page import OTHER, colour_of, compact, text
from pretrain.report.figures import StageFigures
from pretrain.report.lines import Line, chart, smooth
from stemma.core.ledger import Ledger

WIDTH, MARGIN, HEAD = 880, 22, 58  # of a picture, around its chart, above it; pixels
POINTS = 120  # of a bold curve
RAW = 800  # of the pale one behind it
DOMAIN_LOSS = "loss/"


def loss_picture(stage: StageFigures, total: int = 0) -> str:
    """Loss by step: of all tokens, each step pale and means bold; by domain where the stage has domains.

    Args:
        stage: its figures; at least one step.
        total: steps it will have; 0: those it has.
    """
    curves = {domain: _curve(stage, DOMAIN_LOSS + domain) for domain in sorted(stage.domains)}
    curves = {domain: curve for domain, curve in curves.items() if curve}
    colours = colour_of(list(curves))
    overall, most = _curve(stage, "loss"), _points(stage)
    lines = [
        Line("each step", OTHER, smooth(overall, RAW), "raw"),
        *(Line(domain, colours[domain], smooth(curve, most)) for domain, curve in curves.items()),
        Line("all tokens", OTHER, smooth(overall, most)),
    ]
    drawn = chart(lines, f"Loss of {stage.name}", WIDTH - 2 * MARGIN, _step, lambda y: f"{y:.3g}", height=230)
    done = f"{stage.steps:,} of {total:,} steps" if total > stage.steps else f"{stage.steps:,} steps"
    what = "Loss of the policy" if stage.name == "rl" else "Loss, nats per predicted token"
    return framed(drawn, f"{what} · {stage.name}, {done}", {"all tokens": OTHER} | colours)


def reward_picture(stage: StageFigures) -> str:
    """What the model's own answers scored, by step and task; "" for a stage that scores none."""
    tasks = sorted({name for line in stage.metrics for name in line if name.startswith("score/")})
    if not any("reward" in line for line in stage.metrics):
        return ""
    colours = {name: at % OTHER for at, name in enumerate(tasks)}
    lines = [Line(name, colours[name], smooth(_curve(stage, name), _points(stage))) for name in tasks]
    lines.append(Line("reward", OTHER, smooth(_curve(stage, "reward"), _points(stage))))
    drawn = chart(lines, "Reward", WIDTH - 2 * MARGIN, _step, lambda y: f"{y:.2g}", height=200)
    legend = {"all": OTHER} | {name.removeprefix("score/"): colours[name] for name in tasks}
    return framed(drawn, "Reward of what the model sampled, mean by step", legend)


def mix_picture(stage: str, planned: Ledger, realized: Ledger | None) -> str:
    """Planned tokens above realized ones, by domain and, below, by source."""
    domains = {**planned.domains, **(realized.domains if realized else {})}
    colours = colour_of(sorted(set(domains.values())))
    stacks = [_stack("planned", planned)]
    if realized:
        stacks.append(_stack("realized", realized))
    drawn = composition(stacks, colours, f"Mix of {stage}", "tokens", WIDTH - 2 * MARGIN)
    return framed(drawn, f"Tokens by domain and source · {stage}", colours)


def _stack(name: str, ledger: Ledger) -> Stack:
    parts: dict[str, dict[str, float]] = {}
    for source, count in ledger.counts.items():
        parts.setdefault(ledger.domains[source], {})[source] = count.tokens
    return Stack(name, compact(sum(count.tokens for count in ledger.counts.values())), parts)


def _curve(stage: StageFigures, name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in stage.metrics if line.get(name) is not None]


def _points(stage: StageFigures) -> int:
    """Of a bold curve: each the mean of at least four steps, so that it shows where the noise goes."""
    return min(POINTS, max(8, stage.steps // 4))


def _step(x: float) -> str:
    return f"{x:,.0f}"


def framed(drawn: str, title: str, legend: Mapping[str, int]) -> str:
    """A chart of the reports as a file of its own.

    Args:
        drawn: the chart, with a view box as its size.
        title: above it.
        legend: names and numbers of colours.
    """
    size = re.match(r'<svg viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    if size is None:
        raise ValueError("not a chart: it has no size")
    width, height = (float(value) for value in size.groups())
    wide, tall = width + 2 * MARGIN, height + HEAD + MARGIN
    inner = re.sub(r'<rect [^>]*class="hit"[^>]*/>| data-tip="[^"]*"', "", drawn)
    placed = inner.replace("<svg ", f'<svg x="{MARGIN}" y="{HEAD}" width="{width:g}" height="{height:g}" ', 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide:g}" height="{tall:g}" '
        f'viewBox="0 0 {wide:g} {tall:g}" role="img" aria-label="{text(title)}"><style>{_style()}</style>'
        f'<rect width="{wide:g}" height="{tall:g}" rx="10" style="fill:var(--card);stroke:var(--line)"/>'
        f'<text class="strong" x="{MARGIN}" y="24">{text(title)}</text>{_legend(list(legend.items()))}'
        f"{placed}</svg>\n"
    )


def _legend(entries: Sequence[tuple[str, int]]) -> str:
    x, parts = float(MARGIN), []
    for name, colour in entries:
        parts.append(
            f'<rect x="{x:g}" y="35" width="10" height="10" rx="3" class="f{colour}"/>'
            f'<text class="soft" x="{x + 16:g}" y="44">{text(name)}</text>'
        )
        x += 16 + CHARACTER * len(name) + 14
    return "".join(parts)


@cache
def _style() -> str:
    """The rules of the reports' style sheet that a chart needs; light and dark as the browser prefers."""
    sheet = (importlib.resources.files("data_pipeline.inspection.report") / "style.css").read_text("utf-8")
    blocks = re.findall(r"^:root \{.*?^\}|^@media \(prefers-color-scheme.*?^\}", sheet, re.S | re.M)
    rules = [line for line in sheet.splitlines() if re.match(r"svg (text|\.)|\.[fs]0 ", line)]
    return escape("\n".join([*blocks, *rules]))
