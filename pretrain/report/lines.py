"""Line charts as inline SVG, on the canvas of the data reports."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from data_pipeline.inspection.report.charts import CHARACTER, Canvas, fitted

COLUMNS = 120  # places across a chart that say their figures on hovering


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: for legends and tips.
        colour: number of a colour.
        points: ``(x, y)``, x rising.
        kind: ``line``, ``raw`` (pale, behind others) or ``line dashed``.
        dots: draw the points, too.
    """

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    kind: str = "line"
    dots: bool = False


@dataclass(frozen=True)
class Stretch:
    """A part of the x axis with a name of its own, such as a stage."""

    name: str
    start: float
    stop: float


def chart(
    lines: Sequence[Line],
    title: str,
    width: float,
    x_label: Callable[[float], str],
    y_label: Callable[[float], str],
    x_tip: Callable[[float], str] | None = None,
    stretches: Sequence[Stretch] = (),
    logarithmic: bool = False,
    height: float = 250.0,
) -> str:
    """Curves over one pair of axes. The y axis is cut where the highest percent of all points would hide
    the others.

    Args:
        lines: without a point among them there is no chart, but an empty string.
        title: for those who cannot see it.
        width: of the drawing.
        x_label, y_label: a value as text, at an axis.
        x_tip: the same on hovering, where it is said otherwise.
        stretches: named parts of the x axis, in order; without them the axis has ticks.
        logarithmic: the x axis; its values are above 0.
        height: of the drawing.
    """
    if not any(line.points for line in lines):
        return ""
    canvas = Canvas(width)
    left, top, base = 50.0, (26.0 if stretches else 10.0), height - 26.0
    xs = [x for line in lines for x, _ in line.points]
    low_x = min([*xs, *(part.start for part in stretches)])
    high_x = max([*xs, *(part.stop for part in stretches)])
    low, high = _range([y for line in lines for _, y in line.points])
    marks = ticks(low, high, 5 if height > 200 else 3)
    low, high = min(low, marks[0]), max(high, marks[-1])
    bend: Callable[[float], float] = math.log if logarithmic else float
    across = (bend(high_x) - bend(low_x)) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        at = left + (width - left) * (bend(x) - bend(low_x)) / across
        return at, base - (base - top) * (min(max(y, low), high) - low) / ((high - low) or 1.0)

    for mark in marks:
        y = place(low_x, mark)[1]
        canvas.line(left, y, width, y)
        canvas.text(left - 7, y + 4, y_label(mark), "soft", "end")
    _x_axis(canvas, stretches, place, (low_x, high_x), base, top, x_label, logarithmic)
    for line in lines:
        if line.points:
            spots = [place(x, y) for x, y in line.points]
            drawn = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
            canvas.path(drawn, f"{line.kind} s{line.colour}")
            for x, y in spots if line.dots else ():
                canvas.rect(x - 2, y - 2, 4, 4, f"f{line.colour}")
    _tips(canvas, lines, place, x_tip or x_label, y_label, (left, top, width, base))
    ends = ", ".join(f"{line.name} {y_label(line.points[-1][1])}" for line in lines if line.points)
    return canvas.svg(height, title, f"The curves end at {ends}.")


def smooth(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Means over runs of neighbouring points, so that at most ``most`` points are left."""
    each = max(1, math.ceil(len(points) / most))
    runs = [points[at : at + each] for at in range(0, len(points), each)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round values that span a range: steps of 1, 2 or 5 times a power of ten."""
    least = 1e-12 * max(1.0, abs(low), abs(high))  # of a range that numbers can divide
    if high - low < least:
        high = low + (abs(low) if abs(low) > least else 1.0)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * at, 12) for at in range(first, last + 1)]


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest value, and the highest but for the top percent, unless that is not far above."""
    ordered = sorted(values)
    most = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    low, high = ordered[0], ordered[-1]
    return low, high if high - low < 1.5 * (most - low) else most


def _x_axis(
    canvas: Canvas,
    stretches: Sequence[Stretch],
    place: Callable[[float, float], tuple[float, float]],
    ends: tuple[float, float],
    base: float,
    top: float,
    label: Callable[[float], str],
    logarithmic: bool,
) -> None:
    for part in stretches:
        start, stop = place(part.start, 0.0)[0], place(part.stop, 0.0)[0]
        canvas.line(start, top - 20, start, base)
        canvas.text(start + 5, top - 9, fitted(part.name, stop - start - 8), "strong")
    low, high = ends
    if logarithmic:
        marks = [2.0**at for at in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1, 2)]
    else:
        marks = [mark for mark in ticks(low, high, 6) if low <= mark <= high]
    shown = -math.inf
    for mark in marks:
        x, text = place(mark, 0.0)[0], label(mark)
        half = len(text) * CHARACTER / 2
        if x - half > shown + 8 and x + half <= canvas.width + 1:
            canvas.text(x, base + 18, text, "soft", "middle")
            shown = x + half


def _tips(
    canvas: Canvas,
    lines: Sequence[Line],
    place: Callable[[float, float], tuple[float, float]],
    x_label: Callable[[float], str],
    y_label: Callable[[float], str],
    box: tuple[float, float, float, float],
) -> None:
    """Transparent columns that say what the curves are at their place."""
    left, top, right, base = box
    each = (right - left) / COLUMNS
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for line in lines:
        if line.kind != "raw":
            for x, y in line.points:
                column = min(COLUMNS - 1, int((place(x, y)[0] - left) / each))
                found.setdefault(column, {})[line.name] = (x, y)
    for column, values in sorted(found.items()):
        x = next(iter(values.values()))[0]
        tip = "\n".join([x_label(x), *(f"{name}: {y_label(y)}" for name, (_, y) in values.items())])
        canvas.rect(left + column * each, top, each, base - top, "hit", tip, ' fill="transparent"')
