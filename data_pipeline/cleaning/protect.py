"""What in a text is not prose: code, formulas, tables. Rewriting steps leave it alone, byte for byte.

``delimited`` goes through a text once and follows whatever opens (a fence, ``$``, ``\\begin{..}``,
``<pre>``) to where it closes; ``is_laid_out`` tells lines of code and tables by their shape. In doubt a span
is protected: prose that stays as it was costs little, a damaged formula is wrong for ever.
"""

import re
from collections.abc import Callable

MARK = re.compile(r"[`~><\\$]")  # what openers begin with: searched for first, because that is fast
OPENERS = re.compile(
    r"""
      (?P<ticks>`+)
    | (?P<tildes>~{3,})
    | (?P<doctest>>>>[ ])
    | <(?P<element>pre|code|script|style|textarea|math|svg|samp|kbd|tt|xmp)\b[^>\n]*>
    | \\begin\{(?P<environment>[^{}\n]{1,40})\}
    | \\(?P<display>[\[(])
    | (?P<dollars>\$\$?)
    | \\(?P<escaped>[\\$`])
    """,
    re.VERBOSE | re.IGNORECASE,
)
LAID_OUT = re.compile(
    r"""
      (?:[ ]{4}|[ ]{0,3}\t)[^\n]*\S                  # indented
    | [ \t]*[|+╔╠╚═│┌├└─]                            # a table's row or border
    | [^\n]*[ \t]\|[ \t]                             # cells
    | [^\n]*(?:[^\s.!?:;][ ]{2}|\S[ ]{3,}|\S[ ]*\t[ \t]*)\S  # columns
    | [ \t]*[=~^"'*#+-]{2}[ \t=~^"'*#+-]*+$           # an underline, or a border of several
    """,
    re.VERBOSE,
)
CLOSING_DOLLAR = re.compile(r"(?<![\s\\])\$(?!\d)")  # pandoc's rule
BLANK = re.compile(r"\n[ \t]*(?=\n)")

Span = tuple[int, int]


def is_laid_out(text: str, start: int, end: int) -> bool:
    """Whether the line from ``start`` to ``end`` (without its line break) is code or a table by its shape."""
    return LAID_OUT.match(text, start, end) is not None


def delimited(text: str) -> list[Span]:
    """Spans from an opening to its closing mark: (start, end exclusive) in characters, in order, apart."""
    closers = Closers(text)
    spans: list[Span] = []
    position = 0
    while mark := MARK.search(text, position):
        position = mark.end()
        opener = OPENERS.match(text, mark.start())
        if opener is None:
            continue
        end = closers.find(opener)
        position = opener.end()
        if end is not None:
            spans.append((opener.start(), end))
            position = max(position, end)
    return spans


class Closers:
    """Finds the ends of spans. What was looked for in vain is not looked for again: time stays linear."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.missing: set[str] = set()
        self.paragraph = (0, -1)  # a stretch without blank line that was looked at last

    def find(self, opener: re.Match[str]) -> int | None:
        """Where the span ends that ``opener`` begins; None if it is no span."""
        kind = opener.lastgroup or ""
        value, start = opener[kind], opener.end()
        if kind in ("ticks", "tildes") and self._is_fence(opener, value):
            mark = re.escape(value[0])
            closing = re.compile(rf"^[ \t>]*{mark}{{{len(value)},}}[ \t]*$", re.MULTILINE)
            end = self._search(f"fence {value}", closing.search, start)
            return len(self.text) if end is None else end
        if kind == "ticks":
            return self._inline(re.compile(rf"(?<!`){value}(?!`)"), start)
        if kind == "doctest" and self._opens_line(opener.start(), " \t"):
            return self._paragraph_end(start)
        if kind == "element":
            closing = re.compile(rf"</{value}\s*>", re.IGNORECASE)
            return self._search(f"element {value.lower()}", closing.search, start)
        if kind == "environment":
            return self._environment_end(value, start)
        if kind == "display":
            closing = re.compile(r"(?<!\\)\\" + ("\\]" if value == "[" else "\\)"))
            return self._search(f"display {value}", closing.search, start)
        if value == "$$":
            return self._search(value, re.compile(r"(?<!\\)\$\$").search, start)
        if value == "$" and kind == "dollars" and self.text[start : start + 1].strip():
            return self._inline(CLOSING_DOLLAR, start)
        return None

    def _opens_line(self, start: int, allowed: str) -> bool:
        """Whether a mark has only ``allowed`` before it in its line."""
        while start and self.text[start - 1] in allowed:
            start -= 1
        return not start or self.text[start - 1] == "\n"

    def _is_fence(self, opener: re.Match[str], value: str) -> bool:
        """Three or more at the start of a line; after backticks, no further one in it (CommonMark 4.5)."""
        if len(value) < 3 or not self._opens_line(opener.start(), " \t>"):
            return False
        line_end = self.text.find("\n", opener.end())
        return value[0] == "~" or "`" not in self.text[opener.end() : line_end if line_end >= 0 else None]

    def _search(
        self, name: str, search: Callable[[str, int], re.Match[str] | None], start: int
    ) -> int | None:
        if name in self.missing:
            return None
        found = search(self.text, start)
        if found is None:
            self.missing.add(name)
            return None
        return found.end()

    def _inline(self, closing: re.Pattern[str], start: int) -> int | None:
        end = self._paragraph_end(start)
        return self._search(f"{closing.pattern} {end}", lambda text, at: closing.search(text, at, end), start)

    def _paragraph_end(self, start: int) -> int:
        if not self.paragraph[0] <= start <= self.paragraph[1]:
            blank = BLANK.search(self.text, start)
            self.paragraph = (start, blank.start() if blank else len(self.text))
        return self.paragraph[1]

    def _environment_end(self, name: str, start: int) -> int:
        """After the ``\\end`` of it, environments of the same name inside counted; or the end of the text."""
        depth = 1
        for mark in re.compile(rf"\\(begin|end)\{{{re.escape(name)}\}}").finditer(self.text, start):
            depth += 1 if mark[1] == "begin" else -1
            if not depth:
                return mark.end()
        return len(self.text)
