"""Rules for what is not prose: source code, documentation, mathematics. Nothing is asked of words.

Generated files, data and binary rests betray themselves by long lines, few letters, long encoded strings
and lines that say the same again and again.
"""

import re
from collections.abc import Iterator

from datatrove.data import Document
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.config import cleaning

# base64, hexadecimal and escaped Unicode sequences, after The Stack v2 (arXiv 2402.19173), within a line
ENCODED = re.compile(
    r"[a-zA-Z0-9+/=]{64,}"
    r"|(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}\b,?[^\S\n]*){8,}"
    r"|(?:\\u[0-9a-fA-F]{4}){8,}"
)
TELLING = 10  # characters from which on a repeated line says something: not `}`, `else:`, `return x`
_NOT_ALPHANUMERIC = bytes(byte for byte in range(128) if not chr(byte).isalnum())


class LineRules(BaseFilter):
    """Drops texts by the shape of their lines."""

    name = "📏 Line rules"

    def __init__(
        self, options: cleaning.LineRules | None = None, exclusion_writer: DiskWriter | None = None
    ) -> None:
        super().__init__(exclusion_writer)
        self.options = options or cleaning.SourceCode()

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        for rule, value in self.broken(doc.text):
            doc.metadata["value"] = round(value, 4)
            return False, rule
        return True

    def broken(self, text: str) -> Iterator[tuple[str, float]]:
        """The rules a text breaks, with the values, one after the other."""
        options = self.options
        size = len(text.encode("utf-8", "surrogatepass"))
        if size < options.min_bytes:
            yield "too_short", size
        lines = text.splitlines() or [""]
        longest = max(map(len, lines))
        if longest > options.max_line:
            yield "long_line", longest
        mean = sum(map(len, lines)) / len(lines)
        if mean > options.max_mean_line:
            yield "long_mean_line", mean
        share = alphanumeric(text) / max(1, len(text))
        if share < options.min_alphanumeric:
            yield "few_alphanumeric", share
        if options.max_duplicate_lines is not None:
            share = duplicate_lines(lines)
            if share > options.max_duplicate_lines:
                yield "duplicate_lines", share
        if options.max_encoded is not None or options.max_encoded_run is not None:
            runs = [len(match.group()) for match in ENCODED.finditer(text)]
            if options.max_encoded_run is not None and max(runs, default=0) > options.max_encoded_run:
                yield "encoded_run", max(runs)
            share = sum(runs) / max(1, len(text))
            if options.max_encoded is not None and share > options.max_encoded:
                yield "encoded", share


def alphanumeric(text: str) -> int:
    """Letters and digits in a text."""
    if text.isascii():
        return len(text.encode().translate(None, _NOT_ALPHANUMERIC))
    return sum(map(str.isalnum, text))


def duplicate_lines(lines: list[str]) -> float:
    """Share of the characters that stand in lines which occurred before, without indentation."""
    stripped = [line.strip() for line in lines]
    total = sum(map(len, stripped))
    telling = [line for line in stripped if len(line) >= TELLING]
    return (sum(map(len, telling)) - sum(map(len, set(telling)))) / max(1, total)
