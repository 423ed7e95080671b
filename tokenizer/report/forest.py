"""Ratios with their intervals as a forest plot in SVG, drawn once for wide screens and once for phones."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizer.report.html import colour, counted, text

WIDE, NARROW = 1010, 330
LINE, GAP, FOOT = 17, 16, 30


def forest(rows: Sequence[Mapping[str, Any]], others: Mapping[str, str]) -> str:
    """How many tokens each other tokenizer takes for one of ours, a row of lines per group.

    Args:
        rows: of a report's ``groups``.
        others: name -> title of the tokenizers compared with, in order; ours has colour 0.
    """
    return (
        f'<figure class="wide">{_draw(rows, others, WIDE)}</figure>'
        f'<figure class="narrow" aria-hidden="true">{_draw(rows, others, NARROW)}</figure>'
    )


def _draw(rows: Sequence[Mapping[str, Any]], others: Mapping[str, str], width: int) -> str:
    wide = width == WIDE
    left, right = (170 if wide else 0), (158 if wide else 44)
    found = [row["ratios"][name] for row in rows for name in others]
    ends = [
        value for cell in found for value in (cell.get("low", cell["ratio"]), cell.get("high", cell["ratio"]))
    ]
    low, high = max(0.4, min([0.95, *ends])), min(2.5, max([1.05, *ends]))
    step = next(step for step in (0.05, 0.1, 0.2, 0.25, 0.5) if (high - low) / step <= (9 if wide else 5))
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step

    def x(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (width - left - right)

    parts: list[str] = []
    y = 8.0
    for row in rows:
        if wide:
            parts.append(f'<text x="0" y="{y + 9}" class="strong">{text(row["name"])}</text>')
            count = counted(row["documents"], "document")
            parts.append(f'<text x="0" y="{y + 25}" class="soft">{count}</text>')
        else:
            parts.append(f'<text x="0" y="{y + 9}" class="strong">{text(row["name"])}</text>')
            y += LINE
        for at, name in enumerate(others, 1):
            parts.append(_line(row["ratios"][name], x, y + 5, colour(at), width, wide))
            y += LINE
        y = y + GAP if not wide or len(others) > 1 else y + GAP + LINE
    ticks = [low + step * number for number in range(round((high - low) / step) + 1)]
    grid = "".join(
        f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{y - 4:.0f}" '
        f'class="{"one" if abs(tick - 1) < 1e-6 else "grid"}"/>'
        f'<text x="{x(tick):.1f}" y="{y + 12:.0f}" class="soft" text-anchor="middle">{tick:.2f}</text>'
        for tick in ticks
    )
    described = "; ".join(
        f"{row['name']}: "
        + ", ".join(f"{title} {row['ratios'][name]['ratio']:.3f}" for name, title in others.items())
        for row in rows
    )
    return (
        f'<svg viewBox="0 0 {width} {y + FOOT - 12:.0f}" role="img" aria-label="Tokens for one of ours">'
        f"<desc>{text(described)}</desc>{grid}{''.join(parts)}</svg>"
    )


def _line(
    cell: Mapping[str, float], x: Callable[[float], float], y: float, kind: int, width: int, wide: bool
) -> str:
    parts = []
    label = f"{cell['ratio']:.3f}"
    if "low" in cell:
        first, last = x(cell["low"]), x(cell["high"])
        parts.append(
            f'<line x1="{first:.1f}" x2="{last:.1f}" y1="{y}" y2="{y}" class="f{kind}" stroke-width="2"/>'
        )
        label += f" [{cell['low']:.3f}, {cell['high']:.3f}]" if wide else ""
    parts.append(f'<circle cx="{x(cell["ratio"]):.1f}" cy="{y}" r="4.5" class="f{kind}"/>')
    place = f'x="{width - 140}"' if wide else f'x="{width}" text-anchor="end"'
    parts.append(f'<text {place} y="{y + 4}">{label}</text>')
    return "".join(parts)
