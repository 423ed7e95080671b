"""The page a report stands on: skeleton, style, escaping, and the parts that are plain HTML.

A page is one file that asks no other host for anything; its content security policy forbids it. Everything
that comes from data passes ``text``: a corpus may hold markup, scripts and control characters.
"""

import html
import importlib.resources
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stemma.core.printable import printable

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
DOMAIN_COLOURS = {"web": 0, "stem": 1, "code": 2, "agent": 3}
COLOURS = 8
OTHER = COLOURS - 1


@dataclass(frozen=True)
class Section:
    """A part of a page: ``id`` for links, a title, one sentence under it, and its HTML."""

    id: str
    title: str
    lead: str
    body: str


@dataclass(frozen=True)
class Notice:
    """Something worth a look. ``level``: good, warn or bad."""

    level: str
    text: str


@dataclass(frozen=True)
class Bar:
    """A line of a bar list.

    Attributes:
        name: label.
        value: length, in the list's unit.
        shown: the value as text.
        colour: number of a colour.
        ghost: a longer, paler bar behind it, such as what there was before.
        tip: shown on hovering.
    """

    name: str
    value: float
    shown: str
    colour: int = OTHER
    ghost: float = 0.0
    tip: str = ""


def text(value: object) -> str:
    """Data as HTML text or attribute: escaped, with a visible sign for what cannot be printed."""
    return html.escape(printable(value), quote=True)


def page(
    kicker: str,
    title: str,
    subtitle: str,
    tiles: Sequence[tuple[str, str]],
    notices: Sequence[Notice],
    sections: Iterable[Section],
    footer: str,
) -> str:
    """A whole report.

    Args:
        kicker: what kind of report it is.
        title: its name.
        subtitle: what it was made from.
        tiles: ``(figure, what it is)``: the first things to know.
        notices: what a person should look at.
        sections: in order; those without a body are left out.
        footer: how it was made.
    """
    shown = [section for section in sections if section.body]
    assets = importlib.resources.files("data_pipeline.inspection.report")
    style, script = ((assets / name).read_text("utf-8") for name in ("style.css", "page.js"))
    links = "".join(f'<li><a href="#{section.id}">{text(section.title)}</a></li>' for section in shown)
    cards = "".join(
        f'<div class="tile"><b>{text(figure)}</b><span>{text(about)}</span></div>' for figure, about in tiles
    )
    words = {"good": "Fine", "warn": "Look", "bad": "Attention"}
    order = {"bad": 0, "warn": 1, "good": 2}
    listed = "".join(
        f'<li class="{notice.level}"><b>{words[notice.level]}</b><span>{text(notice.text)}</span></li>'
        for notice in sorted(notices, key=lambda notice: order[notice.level])
    )
    body = "\n".join(
        f'<section id="{section.id}"><h2>{text(section.title)}</h2>'
        f'<p class="lead">{text(section.lead)}</p>\n{section.body}</section>'
        for section in shown
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{text(title)} · {text(kicker)}</title>
<style>
{style}</style>
</head>
<body>
<header class="top"><div><div class="kicker">{text(kicker)}</div><h1>{text(title)}</h1><p>{text(subtitle)}</p>
<div class="tiles">{cards}</div></div></header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{f'<ul class="notices" aria-label="Worth a look">{listed}</ul>' if listed else ""}
{body}
</main>
<footer>{text(footer)}</footer>
<div id="tip" role="status" hidden></div>
<script>
{script}</script>
</body>
</html>
"""


def colour_of(domains: Sequence[str]) -> dict[str, int]:
    """A colour for every domain: the same one in all reports where it has one of its own."""
    free = [number for number in range(OTHER) if number not in DOMAIN_COLOURS.values()]
    found: dict[str, int] = {}
    for domain in sorted(domains, key=lambda name: (DOMAIN_COLOURS.get(name, OTHER), name)):
        found[domain] = (
            DOMAIN_COLOURS[domain] if domain in DOMAIN_COLOURS else (free.pop(0) if free else OTHER)
        )
    return found


def legend(entries: dict[str, int]) -> str:
    """Names beside their colours."""
    if not entries:
        return ""
    items = "".join(f'<li><i class="b{number}"></i>{text(name)}</li>' for name, number in entries.items())
    return f'<ul class="legend">{items}</ul>'


def bars(rows: Sequence[Bar], limit: int = 24, mark: float | None = None, full: float = 0.0) -> str:
    """Horizontal bars with their values, longest scale shared; what is beyond ``limit`` is counted.

    Args:
        rows: in order.
        limit: rows shown.
        mark: a line across all bars, in their unit, such as a cap.
        full: what fills a bar, where it is not the longest one.
    """
    if not rows:
        return ""
    longest = max(*(max(row.value, row.ghost) for row in rows), mark or 0.0, full, 1e-12)

    def percent(value: float) -> str:
        return f"{min(100.0, 100 * value / longest):.2f}%"

    made = []
    for row in rows[:limit]:
        ghost = f'<i class="ghost b{row.colour}" style="width:{percent(row.ghost)}"></i>' if row.ghost else ""
        line = f'<u style="left:calc({percent(mark)} - 2px)"></u>' if mark else ""
        tip = f' data-tip="{text(row.tip)}"' if row.tip else ""
        made.append(
            f'<span class="name">{text(row.name)}</span><span class="track"{tip}>{ghost}'
            f'<i class="b{row.colour}" style="width:{percent(row.value)}"></i>{line}</span>'
            f'<span class="value">{text(row.shown)}</span>'
        )
    more = len(rows) - limit
    note = f'<p class="note">and {more:,} more</p>' if more > 0 else ""
    return f'<div class="bars">{"".join(made)}</div>{note}'


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: Iterable[int] = (),
    limit: int = 300,
    identifier: str = "",
    sums: int = 0,
) -> str:
    """A table of cells that are HTML already.

    Args:
        headings: one per column.
        rows: cells; ``text`` them.
        numbers: columns to align to the right.
        limit: rows shown; the rest is counted.
        identifier: gives it a search field.
        sums: of the last rows, how many are sums: always shown, in bold.
    """
    right = set(numbers)
    body, tail = (rows[: len(rows) - sums], rows[len(rows) - sums :]) if sums else (rows, [])

    def line(cells: Sequence[str], kind: str = "") -> str:
        inside = "".join(
            f'<td class="n">{cell}</td>' if at in right else f"<td>{cell}</td>"
            for at, cell in enumerate(cells)
        )
        return f"<tr{kind}>{inside}</tr>"

    head = "".join(
        f'<th scope="col" class="n">{text(name)}</th>'
        if at in right
        else f'<th scope="col">{text(name)}</th>'
        for at, name in enumerate(headings)
    )
    lines = "".join(map(line, body[:limit])) + "".join(line(cells, ' class="sum"') for cells in tail)
    search = (
        f'<label><span class="visually-hidden">Filter rows</span>'
        f'<input type="search" placeholder="Filter" data-filters="{identifier}"></label>'
        if identifier and len(body) > 12
        else ""
    )
    more = len(body) - limit
    note = f'<p class="note">and {more:,} more</p>' if more > 0 else ""
    name = f' id="{identifier}"' if identifier else ""
    return (
        f'{search}<div class="scroll"><table{name}><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>{note}"
    )


def details(summary: str, body: str) -> str:
    """Something to unfold; both are HTML."""
    return f"<details><summary>{summary}</summary>{body}</details>"


def card(summary: str, body: str, opened: bool = False) -> str:
    """A framed thing to unfold; both are HTML."""
    state = " open" if opened else ""
    return f'<details class="card"{state}><summary>{summary}</summary><div>{body}</div></details>'


def piece(about: str, body: str) -> str:
    """A text under a line about it; both are HTML."""
    return f'<div class="piece"><p>{about}</p>{body}</div>'


def titled(heading: str, drawing: str) -> str:
    """A drawing under a heading; both are HTML."""
    return f"<figure><h4>{heading}</h4>{drawing}</figure>"


def soft(inside: str) -> str:
    """What matters less; HTML."""
    return f'<span class="soft">{inside}</span>'


def counted(number: int, thing: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def dot(colour: int) -> str:
    """A colour beside a name."""
    return f'<i class="dot b{colour}"></i>'


def compact(value: float) -> str:
    """A count in three digits: 12,345,678 -> 12.3 M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {unit}" if value / size < 999.5 else f"{value / size:,.0f} {unit}"
    return f"{value:,.0f}"


def figure(value: int) -> str:
    """A count to be read at a glance: whole up to a million."""
    return f"{value:,}" if value < 1_000_000 else compact(value)


def size(value: float) -> str:
    """Bytes, in decimal units."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * scale:
            return f"{value / scale:.3g} {unit}" if value / scale < 999.5 else f"{value / scale:,.0f} {unit}"
    return f"{value:,.0f} B"


def share(value: float) -> str:
    """A part of 1, in percent; what is above nothing is never shown as nothing."""
    if 0 < value < 0.0005:
        return "< 0.1%"
    return f"{value:.1%}"


def clip(value: str, length: int) -> str:
    """The beginning of a text, with what was left out counted."""
    more = len(value) - length
    return value if more <= 0 else f"{value[:length]}\n[… {more:,} more characters]"
