"""Lineage of artifacts: which was made from which, as a walk, as Mermaid text, as a picture."""

import html
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from stemma.core.artifact import Artifact, Store

WIDTH, HEIGHT, GAP, ROW = 148, 40, 18, 76  # of a box, between boxes, from row to row; pixels
COLOURS = ("#2b6cb0", "#0b7a5f", "#b86e00", "#a3478f", "#2e8fc4", "#c2482b", "#757519", "#6b7280")
STYLE = (
    ":root{--paper:#fbfbf9;--card:#fff;--edge:#dfe2e6;--ink:#1d2430;--soft:#586172;--wire:#aab2bd}"
    "@media(prefers-color-scheme:dark){:root{--paper:#14171c;--card:#1b1f26;--edge:#323945;--ink:#e6e9ee;"
    "--soft:#a3adbb;--wire:#5b6675}}"
    ".paper{fill:var(--paper)}.box{fill:var(--card);stroke:var(--edge)}"
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;"
    "fill:var(--ink)}"
    ".name{font-weight:650}.print{font:10.5px ui-monospace,Menlo,Consolas,monospace;fill:var(--soft)}"
    ".line{fill:none;stroke:var(--wire);stroke-width:1.4}"
)


def ancestry(artifact: Artifact, store: Store) -> Iterator[Artifact]:
    """Yield an artifact and everything it was made from, inputs before what uses them, each once."""
    seen: set[str] = set()

    def visit(node: Artifact) -> Iterator[Artifact]:
        if node.fingerprint in seen:
            return
        seen.add(node.fingerprint)
        for reference in node.manifest["inputs"].values():
            yield from visit(store.open(reference["name"], reference["fingerprint"]))
        yield node

    yield from visit(artifact)


def mermaid(artifact: Artifact, store: Store) -> str:
    """The ancestry as a Mermaid flowchart, each node with the start of its fingerprint."""
    lines = ["flowchart LR"]
    for node in ancestry(artifact, store):
        lines.append(f'  n{node.fingerprint[:12]}["{node.name}<br/><small>{node.fingerprint[:12]}</small>"]')
        for reference in node.manifest["inputs"].values():
            lines.append(f"  n{reference['fingerprint'][:12]} --> n{node.fingerprint[:12]}")
    return "\n".join(lines)


def family(artifacts: Sequence[Artifact], store: Store) -> list[Artifact]:
    """Artifacts and everything they were made from, inputs before what uses them, each once."""
    found = (member for artifact in artifacts for member in ancestry(artifact, store))
    return list({member.fingerprint: member for member in found}.values())


def picture(members: Sequence[Artifact], title: str) -> str:
    """A family tree as SVG that stands by itself: a box per artifact with the start of its fingerprint, what
    it was made from above it. Lines that follow from others are left out.

    Args:
        members: closed under inputs, inputs before what uses them, as ``family`` gives them.
        title: for those who cannot see it.
    """
    inputs = {
        member.fingerprint: {reference["fingerprint"] for reference in member.manifest["inputs"].values()}
        for member in members
    }
    drawn = _reduced(inputs)
    rows = _rows(drawn)
    spans = [sum(_width(cell) + GAP for cell in row) for row in rows]
    wide, tall = max(spans, default=0) + GAP, len(rows) * ROW + 10
    middles: dict[tuple[str, ...], tuple[float, float]] = {}
    for level, row in enumerate(rows):
        x = (wide - spans[level] + GAP) / 2
        for cell in row:
            middles[cell] = (x + _width(cell) / 2, 12.0 + level * ROW)
            x += _width(cell) + GAP
    lines = []
    for name, above in drawn.items():
        for source in sorted(above):
            passing = (middles[cell] for row in rows for cell in row if cell[:-1] == (source, name))
            lines.append(_line([middles[source,], *passing, middles[name,]]))
    kinds = list(dict.fromkeys(member.kind for member in members))
    boxes = []
    for member in members:
        x, y = middles[member.fingerprint,]
        x -= WIDTH / 2
        colour = COLOURS[kinds.index(member.kind) % len(COLOURS)]
        boxes.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}" rx="6" '
            f'class="box"/><rect x="{x:.0f}" y="{y + 7:.0f}" width="4" height="{HEIGHT - 14}" '
            f'rx="2" fill="{colour}"/>'
            f'<text class="name" x="{x + 13:.0f}" y="{y + 17:.0f}">{html.escape(member.name)}</text>'
            f'<text class="print" x="{x + 13:.0f}" y="{y + 32:.0f}">{member.fingerprint[:12]}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{tall}" '
        f'viewBox="0 0 {wide} {tall}" role="img" aria-label="{html.escape(title)}"><style>{STYLE}</style>'
        f'<rect width="{wide}" height="{tall}" rx="10" class="paper"/>'
        f"{''.join(lines)}{''.join(boxes)}</svg>\n"
    )


def _reduced(inputs: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Without the inputs that are inputs of other inputs, directly or not."""
    behind: dict[str, set[str]] = {}
    kept: dict[str, set[str]] = {}
    for name, direct in inputs.items():
        further = set().union(*(behind[source] for source in direct))
        behind[name] = direct | further
        kept[name] = direct - further
    return kept


def _width(cell: tuple[str, ...]) -> int:
    return WIDTH if len(cell) == 1 else 0


def _line(stops: Sequence[tuple[float, float]]) -> str:
    """A curve from the bottom of the first box, straight past the boxes of the rows between, to the last."""
    data = f"M{stops[0][0]:.0f} {stops[0][1] + HEIGHT:.0f}"
    for (from_x, from_y), (x, y) in pairwise(stops):
        bend = (ROW - HEIGHT) / 2
        data += f"C{from_x:.0f} {from_y + HEIGHT + bend:.0f} {x:.0f} {y - bend:.0f} {x:.0f} {y:.0f}"
        if (x, y) != stops[-1]:
            data += f"V{y + HEIGHT:.0f}"
    return f'<path class="line" d="{data}"/>'


def _rows(inputs: Mapping[str, set[str]]) -> list[list[tuple[str, ...]]]:
    """Cells by the length of the longest line above them; beside each other in the order of what is above.

    ``(name,)`` is a box, ``(source, name, level)`` the place in between where a line passes a row.
    """
    levels: dict[str, int] = {}
    above: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    rows: list[list[tuple[str, ...]]] = []
    for name, direct in inputs.items():
        levels[name] = 1 + max((levels[source] for source in direct), default=-1)
        rows += [[] for _ in range(len(rows), levels[name] + 1)]
        rows[levels[name]].append((name,))
        above[name,] = []
        for source in sorted(direct):
            last: tuple[str, ...] = (source,)
            for level in range(levels[source] + 1, levels[name]):
                passing = (source, name, str(level))
                rows[level].append(passing)
                above[passing], last = [last], passing
            above[name,].append(last)
    spots: dict[tuple[str, ...], float] = {}
    for row in rows:
        row.sort(key=lambda cell: sum(spots[s] for s in above[cell]) / max(1, len(above[cell])))
        spots |= {cell: at - (len(row) - 1) / 2 for at, cell in enumerate(row)}
    return rows
