"""Markdown and reStructuredText stay markup: models read and write both, and much of what is worth learning
is in it (code with its language, formulas, tables). Only what says nothing without the site it builds goes.
"""

import re
from collections.abc import Iterator
from typing import IO

from data_pipeline.sources.item import Item, whole

# Tables of contents and index entries are lists of file names and keywords; the rest are switches of the
# builder. Directives with words for a reader (notes, code, math, figures with captions) stay.
EMPTY_DIRECTIVES = (
    "toctree|index|contents|highlight|default-role|currentmodule|sectnum|section-numbering|meta|tabularcolumns"
    "|autosummary|automodule|autoclass|autofunction|automethod|raw"
)
DIRECTIVE = re.compile(rf"^([ \t]*)\.\.[ \t]+(?:{EMPTY_DIRECTIVES})::", re.IGNORECASE)
# a key must come first: a text may begin with a rule, too, and have another one further down
FRONT_MATTER = re.compile(
    r"\A---[ \t]*\n(?:(?:#[^\n]*\n)*+[\w\"'][^\n:]*:(?:[ \t][^\n]*)?\n(?:[^\n]*\n)*?)?"
    r"(?:---|\.\.\.)[ \t]*(?:\n|\Z)"
)
COMMENT_END = re.compile(r"-->[ \t]*\n?")
FENCED = re.compile(
    r"(^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\2[`~]*[ \t]*$|\Z))", re.DOTALL | re.MULTILINE
)


def read_rst(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per file, without directives that hold nothing to read."""
    item = whole(handle)
    yield item if item.rule else Item(item.row, strip_rst(item.text))


def strip_rst(text: str) -> str:
    """Remove directives of ``EMPTY_DIRECTIVES`` with their content: lines indented deeper than they."""
    kept: list[str] = []
    skip_deeper_than: int | None = None
    for line in text.replace("\r\n", "\n").split("\n"):
        if skip_deeper_than is not None:
            if not line.strip() or indent(line) > skip_deeper_than:
                continue
            skip_deeper_than = None
            if kept and kept[-1].strip():
                kept.append("")
        if DIRECTIVE.match(line):
            skip_deeper_than = indent(line)
            continue
        kept.append(line)
    return "\n".join(kept)


def indent(line: str) -> int:
    return len(line.expandtabs()) - len(line.expandtabs().lstrip())


def read_markdown(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per file, without front matter (settings of a site generator) and comments."""
    item = whole(handle)
    yield item if item.rule else Item(item.row, strip_markdown(item.text))


def strip_markdown(text: str) -> str:
    """Remove front matter, and HTML comments outside of fenced code."""
    text = FRONT_MATTER.sub("", text.replace("\r\n", "\n"))
    pieces = FENCED.split(text)  # text, (fence, its marks), text, ...
    kept = [without_comments(piece) for piece in pieces[0::3]]
    fences = pieces[1::3]
    return "".join(part for index, piece in enumerate(kept) for part in (piece, *fences[index : index + 1]))


def without_comments(text: str) -> str:
    """A text without its comments, and without the line break that follows one; what does not end stays."""
    kept: list[str] = []
    position = 0
    while (start := text.find("<!--", position)) >= 0 and (end := COMMENT_END.search(text, start + 4)):
        kept.append(text[position:start])
        position = end.end()
    return "".join([*kept, text[position:]])
