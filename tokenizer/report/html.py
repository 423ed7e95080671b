"""The page a report stands on: skeleton, escaping, tables. One file, no script, nothing asked of any host."""

import html
import importlib.resources
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stemma.core.printable import printable

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_BLANKS = str.maketrans({" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥", "\u00a0": "⍽", "\u3000": "□"})


@dataclass(frozen=True)
class Section:
    """A part of a page: ``id`` for links, a title, one sentence under it, and its HTML."""

    id: str
    title: str
    lead: str
    body: str


def text(value: object) -> str:
    """Data as HTML text or attribute: escaped, with a visible sign for what cannot be printed."""
    return html.escape(printable(value), quote=True)


def entry(value: str) -> str:
    """An entry of a vocabulary as HTML, with its blanks made visible."""
    return f"<code>{text(value.translate(_BLANKS))}</code>"


def page(
    kicker: str,
    title: str,
    subtitle: str,
    tiles: Sequence[tuple[str, str]],
    notices: Sequence[tuple[str, str]],
    sections: Iterable[Section],
    footer: str,
) -> str:
    """A whole report.

    Args:
        kicker: what kind of report it is.
        title: its name.
        subtitle: what it was made from.
        tiles: ``(figure, what it is)``: the first things to know.
        notices: ``(level, text)``: what a person should look at; levels are bad, warn and note.
        sections: in order; those without a body are left out.
        footer: how it was made.
    """
    shown = [section for section in sections if section.body]
    style = (importlib.resources.files("tokenizer.report") / "style.css").read_text("utf-8")
    links = "".join(f'<li><a href="#{section.id}">{text(section.title)}</a></li>' for section in shown)
    cards = "".join(f"<div><b>{text(figure)}</b><span>{text(about)}</span></div>" for figure, about in tiles)
    words = {"bad": "Attention", "warn": "Look", "note": "Note"}
    listed = "".join(
        f'<li class="{level}"><b>{words[level]}</b><span>{text(about)}</span></li>'
        for level, about in sorted(notices, key=lambda notice: list(words).index(notice[0]))
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
<header><p class="kicker">{text(kicker)}</p><h1>{text(title)}</h1><p>{text(subtitle)}</p>
<div class="tiles">{cards}</div></header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main>
{f'<ul class="notices" aria-label="Worth a look">{listed}</ul>' if listed else ""}
{body}
</main>
<footer>{text(footer)}</footer>
</body>
</html>
"""


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1, strong: int = 0) -> str:
    """A table of cells that are HTML already.

    Args:
        headings: one per column, HTML.
        rows: cells.
        words: of the first columns, how many hold words; the others hold numbers.
        strong: of the first rows, how many stand out.
    """

    def line(cells: Sequence[str], kind: str) -> str:
        first = f'<th scope="row">{cells[0]}</th>'
        rest = (f"<td{'' if at < words else ' class=n'}>{cell}</td>" for at, cell in enumerate(cells[1:], 1))
        return f"<tr{kind}>{first}{''.join(rest)}</tr>"

    head = "".join(
        f'<th scope="col"{"" if at < words else " class=n"}>{name}</th>' for at, name in enumerate(headings)
    )
    body = "".join(line(cells, " class=sum" if at < strong else "") for at, cells in enumerate(rows))
    return scrolling(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", "Table")


def scrolling(inside: str, label: str) -> str:
    """What may be wider than the screen: it scrolls by itself, also by keys; ``inside`` is HTML."""
    return f'<div class="scroll" role="region" aria-label="{text(label)}" tabindex="0">{inside}</div>'


def details(summary: str, body: str, opened: bool = False) -> str:
    """Something to unfold; both are HTML."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{body}</details>"


def soft(inside: str) -> str:
    """What matters less; HTML."""
    return f'<span class="soft">{inside}</span>'


def note(inside: str) -> str:
    """A remark under a figure; HTML."""
    return f'<p class="note">{inside}</p>'


def legend(names: Sequence[str], first: int = 0) -> str:
    """Names beside the colours of their places."""
    items = "".join(
        f'<li><i class="b{colour(at)}"></i>{text(name)}</li>' for at, name in enumerate(names, first)
    )
    return f'<ul class="legend">{items}</ul>'


def colour(place: int) -> int:
    """The number of a tokenizer's colour; the first is ours."""
    return place % 8


def counted(number: int, name: str) -> str:
    """``1 document``, ``2 documents``."""
    return f"{number:,} {name}{'s' * (number != 1)}"


def size(value: float) -> str:
    """Bytes, in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= 0.9995 * scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:,.0f} B"


def percent(value: float) -> str:
    """A part of 1; what is above nothing is never shown as nothing."""
    return "< 0.1%" if 0 < value < 0.0005 else f"{value:.1%}"
