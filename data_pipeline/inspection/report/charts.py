"""The charts of a report as inline SVG, drawn for a given width so that their text stays readable.

``both`` draws one for wide screens and one for telephones; the style sheet shows the one that fits. Every
chart has a title and a description for those who cannot see it, and shapes carry their figures in
``data-tip``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from data_pipeline.inspection.report.page import compact, share, text

WIDE, NARROW = 1010, 330
CHARACTER, BOLD = 7.3, 8.2  # what a character takes at 12 px, on a wide average: labels are fitted by it
SHADES = (1.0, 0.74, 0.55, 0.4, 0.28)


@dataclass(frozen=True)
class Stack:
    """One bar of a composition: parts by domain, and within each by source.

    Attributes:
        name: label.
        note: beside it, such as the total.
        parts: domain -> source -> amount.
    """

    name: str
    note: str
    parts: Mapping[str, Mapping[str, float]]

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(sum(sources.values()) for sources in self.parts.values())


@dataclass(frozen=True)
class Span:
    """One phase on a time line.

    Attributes:
        stage, phase: whose.
        tokens: its length.
        sequence_length: of its samples.
        domains: share of each.
        reached: part of it that is trained, 0 to 1.
    """

    stage: str
    phase: str
    tokens: float
    sequence_length: int
    domains: Mapping[str, float]
    reached: float = 0.0


@dataclass(frozen=True)
class Loss:
    """A step of a funnel and what it took from each domain."""

    step: str
    taken: Mapping[str, float]
    tip: str = ""


@dataclass
class Canvas:
    """An SVG: shapes in the order they are drawn."""

    width: float
    parts: list[str] = field(default_factory=list)

    def rect(self, x: float, y: float, w: float, h: float, kind: str, tip: str = "", more: str = "") -> None:
        tipped = f' data-tip="{text(tip)}"' if tip else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0.0, w):.1f}" height="{max(0.0, h):.1f}" '
            f'class="{kind}"{more}{tipped}/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> None:
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def path(self, data: str, kind: str, tip: str = "", more: str = "") -> None:
        tipped = f' data-tip="{text(tip)}"' if tip else ""
        self.parts.append(f'<path d="{data}" class="{kind}"{more}{tipped}/>')

    def text(self, x: float, y: float, value: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{text(value)}</text>'
        )

    def svg(self, height: float, title: str, description: str) -> str:
        return (
            f'<svg viewBox="0 0 {self.width:g} {height:.0f}" role="img" aria-label="{text(title)}">'
            f"<desc>{text(description)}</desc>{''.join(self.parts)}</svg>"
        )


def both(draw: Callable[[float], str]) -> str:
    """A chart for wide and one for narrow screens."""
    return (
        f'<figure class="wide">{draw(WIDE)}</figure>'
        f'<figure class="narrow" aria-hidden="true">{draw(NARROW)}</figure>'
    )


def fitted(value: str, width: float, each: float = CHARACTER) -> str:
    """A label cut to a width; empty if not even three characters of it fit."""
    room = int(width / each)
    if len(value) <= room:
        return value
    return value[: room - 1] + "…" if room >= 4 else ""


def composition(
    stacks: Sequence[Stack], colours: Mapping[str, int], title: str, unit: str, width: float
) -> str:
    """Stacked bars, one per entry: domains above with their shares, their sources below in shades."""
    canvas = Canvas(width)
    wide = width > 600
    left = min(190.0, 12 + BOLD * max(len(stack.name) for stack in stacks)) if wide else 0.0
    y = 4.0
    for stack in stacks:
        if wide:
            canvas.text(0, y + 15, fitted(stack.name, left - 8, BOLD), "strong")
            canvas.text(0, y + 31, fitted(stack.note, left - 8), "soft")
        else:
            canvas.text(0, y + 11, fitted(f"{stack.name} · {stack.note}", width, BOLD), "strong")
            y += 19
        total, x, room = stack.total or 1.0, left, width - left
        for domain in sorted(stack.parts, key=lambda name: (colours[name], name)):
            sources = stack.parts[domain]
            amount = sum(sources.values())
            if not amount:
                continue
            w, part = room * amount / total, share(amount / total)
            kind = f"f{colours[domain]}"
            canvas.rect(
                x, y, w, 26, f"{kind} cut", f"{stack.name}: {domain}\n{compact(amount)} {unit}, {part}"
            )
            label = f"{domain} {part}" if len(f"{domain} {part}") * BOLD < w - 10 else part
            if len(label) * BOLD < w - 8:
                canvas.text(x + w / 2, y + 17.5, label, "on", "middle")
            inner, ranked = x, sorted(sources.items(), key=lambda item: (-item[1], item[0]))
            for rank, (source, tokens) in enumerate(ranked):
                sw = room * tokens / total
                if sw < 0.4:
                    break  # too thin to see; the table has it
                tip = f"{source}\n{compact(tokens)} {unit}, {share(tokens / total)} of {stack.name}"
                shade = f' fill-opacity="{SHADES[rank % len(SHADES)]}"'
                canvas.rect(inner, y + 28, sw, 9, f"{kind} cut", tip, shade)
                inner += sw
            x += w
        y += 52
    named = "; ".join(f"{stack.name} {stack.note}" for stack in stacks)
    return canvas.svg(y - 10, title, f"Stacked bars: {named}. The table below has the figures.")


def timeline(spans: Sequence[Span], colours: Mapping[str, int], title: str, width: float) -> str:
    """The phases of all stages along their tokens: the mix as stacked areas, sequence lengths as a staircase.

    Phases too short to see are drawn ``LEAST`` wide; the axis says where the scale is broken by that.
    """
    canvas = Canvas(width)
    total = sum(span.tokens for span in spans) or 1.0
    least = min(56.0 if width > 600 else 20.0, width / max(1, len(spans)))
    widths = _at_least([span.tokens / total * width for span in spans], least, width)
    edges = [0.0, *accumulate(widths)]
    top, height, steps = 96.0, 150.0, 44.0
    lengths = sorted({span.sequence_length for span in spans})
    levels = {length: 40 + steps * (1 - (at + 1) / len(lengths)) for at, length in enumerate(lengths)}
    stairs = []
    for at, span in enumerate(spans):
        x, w = edges[at], widths[at]
        y = top
        for domain in sorted(span.domains, key=lambda name: (colours[name], name)):
            h = height * span.domains[domain]
            tip = (
                f"{span.stage} · {span.phase}\n{domain} {share(span.domains[domain])}\n"
                f"{compact(span.tokens)} tokens in sequences of {span.sequence_length:,}"
            )
            canvas.rect(x, y, w, h, f"f{colours[domain]} cut", tip)
            if h > 17 and len(share(span.domains[domain])) * BOLD < w - 6:
                canvas.text(x + w / 2, y + h / 2 + 4, share(span.domains[domain]), "on", "middle")
            y += h
        level = levels[span.sequence_length] + 6
        stairs.append(f"{'M' if not stairs else 'L'}{x:.1f} {level:.1f}L{x + w:.1f} {level:.1f}")
        shown = compact_length(span.sequence_length)
        if len(shown) * CHARACTER < w - 4 and (
            not at or spans[at - 1].sequence_length != span.sequence_length
        ):
            canvas.text(x + 3, level - 5, shown, "soft")
        if span.reached:
            canvas.rect(x, top + height + 4, w * span.reached, 4, "f1", f"trained: {share(span.reached)}")
    canvas.path("".join(stairs), "stairs")
    _stage_names(canvas, spans, edges, top + height + 28)
    described = "; ".join(
        f"{span.stage} {span.phase}: {compact(span.tokens)} tokens, length {span.sequence_length}"
        for span in spans[:40]
    )
    canvas.text(0, 12, "sequence length" if width > 600 else "sequence length (staircase)", "soft")
    return canvas.svg(top + height + 52, title, described)


def _stage_names(canvas: Canvas, spans: Sequence[Span], edges: Sequence[float], y: float) -> None:
    """Names under the stretch of each stage, where they fit."""
    first = 0
    for at in range(1, len(spans) + 1):
        if at < len(spans) and spans[at].stage == spans[first].stage:
            continue
        x, w = edges[first], edges[at] - edges[first]
        tokens = sum(span.tokens for span in spans[first:at])
        canvas.line(x + 0.5, y - 14, x + 0.5, y + 18)
        if label := fitted(spans[first].stage, w - 8, BOLD):
            canvas.text(x + 6, y, label, "strong")
        if label := fitted(compact(tokens), w - 8):
            canvas.text(x + 6, y + 16, label, "soft")
        first = at


def _at_least(widths: Sequence[float], least: float, total: float) -> list[float]:
    """Widths that add up to the total, none below the least; the wide ones give what the narrow ones get."""
    small = [width < least for width in widths]
    rest = sum(width for width, tiny in zip(widths, small) if not tiny)
    left = total - least * sum(small)
    return [least if tiny else width / rest * left for width, tiny in zip(widths, small)]


def sankey(
    read: Mapping[str, float],
    losses: Sequence[Loss],
    colours: Mapping[str, int],
    title: str,
    unit: str,
    width: float = WIDE,
) -> str:
    """What flows from sources to kept documents: a band per domain, out of which every step takes its part.

    Args:
        read: amount by domain at the beginning.
        losses: steps in running order; those that took nothing are left out.
        colours: by domain.
        title: for those who cannot see it.
        unit: what is counted.
        width: of the drawing.
    """
    canvas = Canvas(width)
    losses = [loss for loss in losses if sum(loss.taken.values()) > 0]
    domains = sorted((name for name in read if read[name] > 0), key=lambda name: (colours[name], name))
    total = sum(read[name] for name in domains) or 1.0
    lanes, gap, left, right = 190.0, 16.0, 96.0, 96.0
    scale = lanes / total
    inner = width - left - right
    columns = max(1, len(losses))
    xs = [left + inner * (at + 0.5) / columns for at in range(columns)]
    floor = lanes + gap * len(domains) + 64.0
    room = inner / columns - 8
    tops: dict[str, float] = {}
    y = 6.0
    for domain in domains:
        tops[domain] = y
        y += read[domain] * scale + gap
    remaining = dict(read)
    reject_x = {at: xs[at] - sum(loss.taken.values()) * scale / 2 for at, loss in enumerate(losses)}
    flows: list[tuple[float, str, str, str]] = []
    outlines: dict[str, list[tuple[float, float]]] = {
        domain: [(left, read[domain] * scale)] for domain in domains
    }
    for at, loss in enumerate(losses):
        offset = reject_x[at]
        for domain in domains:
            taken = loss.taken.get(domain, 0.0)
            if not taken:
                continue
            w = max(0.8, taken * scale)
            bottom = tops[domain] + remaining[domain] * scale
            start = xs[at] - min(34.0, inner / columns / 2)
            end_x = offset
            curve = (
                f"M{start:.1f} {bottom - w:.1f}"
                f"C{end_x + w:.1f} {bottom - w:.1f} {end_x + w:.1f} {bottom:.1f} {end_x + w:.1f} {floor:.1f}"
                f"L{end_x:.1f} {floor:.1f}"
                f"C{end_x:.1f} {bottom:.1f} {end_x:.1f} {bottom:.1f} {start:.1f} {bottom:.1f}Z"
            )
            tip = f"{loss.step}\n{domain}: {compact(taken)} {unit}, {share(taken / read[domain])} of it"
            flows.append((w, curve, f"f{colours[domain]}", tip))
            remaining[domain] -= taken
            offset += taken * scale
            outlines[domain].append((start, remaining[domain] * scale))
    for domain in domains:  # the bands that go on, narrowing where a step took something
        kept, y0 = remaining[domain], tops[domain]
        data, height = f"M{left:.1f} {y0:.1f}L{width - right:.1f} {y0:.1f}", outlines[domain][-1][1]
        data += f"L{width - right:.1f} {y0 + height:.1f}"
        for (x, lower), (_, upper) in zip(reversed(outlines[domain][1:]), reversed(outlines[domain][:-1])):
            data += f"L{x:.1f} {y0 + lower:.1f}L{x:.1f} {y0 + upper:.1f}"
        data += f"L{left:.1f} {y0 + outlines[domain][0][1]:.1f}Z"
        tip = (
            f"{domain}: {compact(kept)} of {compact(read[domain])} {unit} kept, {share(kept / read[domain])}"
        )
        canvas.path(data, f"f{colours[domain]}", tip, ' fill-opacity="0.78"')
        middle = y0 + max(6.0, read[domain] * scale / 2)
        canvas.text(left - 10, middle - 1, fitted(domain, left - 14, BOLD), "strong", "end")
        canvas.text(left - 10, middle + 14, f"{compact(read[domain])} read", "soft", "end")
        end = y0 + max(6.0, kept * scale / 2)
        canvas.text(width - right + 10, end - 1, f"{compact(kept)} kept", "strong")
        canvas.text(width - right + 10, end + 14, share(kept / read[domain]), "soft")
    for _, curve, kind, tip in sorted(flows, key=lambda flow: -flow[0]):
        canvas.path(curve, kind, tip, ' fill-opacity="0.5"')
    levels = next((levels for levels in (1, 2, 3) if room * levels > 110), 3)  # of labels below one another
    for at, loss in enumerate(losses):
        taken = sum(loss.taken.values())
        canvas.rect(reject_x[at], floor, max(1.5, taken * scale), 7, "f7", loss.tip)
        y, space = floor + 24 + 32 * (at % levels), room * levels
        canvas.text(xs[at], y, fitted(loss.step, space, BOLD), "strong", "middle")
        lost = fitted(f"−{compact(taken)} ({share(taken / total)})", space)
        canvas.text(xs[at], y + 15, lost, "soft", "middle")
    described = "; ".join(f"{loss.step} takes {compact(sum(loss.taken.values()))}" for loss in losses)
    height = floor + 46 + 32 * (levels - 1)
    return canvas.svg(height, title, f"{compact(total)} {unit} read; {described}.")


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    colour: int,
    title: str,
    labels: Callable[[float], str],
    unit: str,
    mark: float | None = None,
    mark_label: str = "",
) -> str:
    """Counts per bin, bins of equal width on the page whatever they span.

    Args:
        edges: ``[bins + 1]``, rising.
        counts: ``[bins]``.
        colour: number of a colour.
        title: for those who cannot see it.
        labels: an edge as text.
        unit: what is counted.
        mark: a value to draw a line at, such as the median.
        mark_label: text beside it.
    """
    width, height, base, top = 340.0, 138.0, 114.0, 24.0
    canvas = Canvas(width)
    highest, total = max(counts, default=0) or 1, sum(counts) or 1
    each = min(48.0, width / max(1, len(counts)))  # few bins stay bars
    for at, count in enumerate(counts):
        h = (base - top) * count / highest
        tip = f"{labels(edges[at])} to {labels(edges[at + 1])}\n{count:,.0f} {unit}, {share(count / total)}"
        canvas.rect(at * each, top, each, base - top, "hit", tip, ' fill="transparent"')
        canvas.rect(at * each + 0.5, base - h, each - 1, h, f"f{colour}", tip)
    canvas.line(0, base + 0.5, width, base + 0.5)
    shown = -1e9
    for at, edge in enumerate(edges):
        label, x = labels(edge), at * each
        half = len(label) * CHARACTER / 2
        if x - half - 8 < shown or x + half > width or x - half < -half:
            continue
        anchor, begin = ("start", 0.0) if at == 0 else ("middle", x)
        canvas.line(max(0.5, x), base, max(0.5, x), base + 4)
        canvas.text(begin, base + 18, label, "soft", anchor)
        shown = x + half if at else 2 * half
    if mark is not None and edges:
        x = _place(mark, edges) * each
        canvas.line(x, 16, x, base, "mark")
        width_of = len(mark_label) * BOLD
        middle = min(max(x, width_of / 2), width - width_of / 2)
        canvas.text(middle, 11, mark_label, "soft", "middle")
    return canvas.svg(height, title, f"Histogram of {total:,.0f} {unit}; highest bin {highest:,.0f}.")


def _place(value: float, edges: Sequence[float]) -> float:
    """Where a value lies on an axis of equal bins."""
    for at in range(len(edges) - 1):
        if value < edges[at + 1]:
            return at + (value - edges[at]) / (edges[at + 1] - edges[at])
    return float(len(edges) - 1)


def quantile(edges: Sequence[float], counts: Sequence[float], part: float) -> float:
    """A quantile of a histogram, by the straight line within its bin."""
    wanted = part * sum(counts)
    for at, count in enumerate(counts):
        if count and wanted <= count:
            return edges[at] + (edges[at + 1] - edges[at]) * wanted / count
        wanted -= count
    return float(edges[-1]) if edges else 0.0


def compact_length(length: int) -> str:
    """A sequence length as people say it: 32,768 -> 32k."""
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else f"{length:,}"


def coarser(histogram: Mapping[str, Any], most: int = 34) -> tuple[list[float], list[float]]:
    """Edges and counts with neighbouring bins put together until there are few enough to see."""
    edges, counts = list(histogram["edges"]), list(histogram["counts"])
    while len(counts) > most:
        if len(counts) % 2:
            edges.append(edges[-1] * 2 - edges[-2])
            counts.append(0)
        counts = [counts[at] + counts[at + 1] for at in range(0, len(counts), 2)]
        edges = edges[::2]
    return edges, counts
