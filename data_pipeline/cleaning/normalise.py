"""Text normalisation that leaves code, formulas and tables alone.

Everywhere: ``\\r\\n`` becomes ``\\n``, a leading byte order mark and NUL go. Code gets nothing else. In the
prose of technical and of web text (what is neither ``delimited`` nor ``is_laid_out``, see ``protect``):

    entities      ``&amp;`` is ``&``, unless the text has tags: then it is about them (web only)
    mojibake      ``donâ€™t`` is ``don’t`` (by ftfy)
    control       C1 characters as Windows-1252; other control characters and terminal escapes go
    invisible     soft hyphens, zero-width characters and direction marks go where they carry nothing: joiners
                  stay in Indic, Persian, emoji; zero-width spaces in Thai; marks in texts with Hebrew, Arabic
    composed      letter + accent becomes one character (not full NFC, which turns ohm signs into omegas)
    typographic   ligatures become letters, no-break spaces spaces (web only)
    spaces        at line ends go; Markdown's hard break (two spaces) stays in technical text
    blank_lines   at most so many in a row; none at the ends

Never touched: quotes, dashes, full-width characters, superscripts, anything else that NFKC would fold.
The result is a fixed point: normalising it again changes nothing (unless repairs uncover others more than
``ROUNDS`` times).
"""

import html
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import ftfy
import regex
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from ftfy.badness import is_bad
from ftfy.chardata import CHARMAP_ENCODINGS

from data_pipeline.cleaning.protect import Span, delimited, is_laid_out
from data_pipeline.config.rewriting import Normalise

MODES = {"web": "prose", "stem": "technical", "code": "code", "agent": "code"}
ROUNDS = 8  # one repair can uncover another (an entity of mojibake); a third round is already rare
PLAIN = bytes([9, 10, *range(32, 127)])  # ASCII that means what it shows


def decoded(first: int, last: int) -> str:
    """As a character class: what bytes become in the encodings that ftfy tries."""
    codes = {ord(bytes([b]).decode(name)) for name in CHARMAP_ENCODINGS for b in range(first, last + 1)}
    return "".join(f"\\U{code:08x}" for code in sorted(codes) if code > 0x7F)


ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,23});")
TAG = re.compile(r"<[A-Za-z/!?]")
# the bytes of UTF-8 beyond ASCII are C2-F4, then 80-BF; of these, A0 is often found as a space
MOJIBAKE = re.compile(f"[{decoded(0xC2, 0xF4)}][{decoded(0x80, 0xBF)}]|[ÂÃÅÎÐÙâã] ")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]?")
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffe\uffff\ufdd0-\ufdef]")
C1 = re.compile(r"[\x80-\x9f]")
LINE_END = re.compile(r"\r+\n")
BREAKS = re.compile(r"[\x0b\x0c\u2028\u2029]")
JOINING = r"\p{Arabic}\p{Syriac}\p{Mongolian}\p{Nko}\p{Extended_Pictographic}"
INVISIBLE = regex.compile(
    r"[\u00ad\u2060\ufeff\u206a-\u206f\ufff9-\ufffb]"
    r"|(?<![\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])\u200b"
    r"|(?<=[\p{Latin}\p{Greek}\p{Cyrillic}\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\s!-@\[-`{-~]|^)"
    rf"[\u200c\u200d]+(?![{JOINING}\u200c\u200d])",
    regex.MULTILINE,
)
DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
RIGHT_TO_LEFT = regex.compile(r"[\p{Hebrew}\p{Arabic}\p{Syriac}\p{Thaana}\p{Nko}]")
MARKED = regex.compile(r"\P{M}\p{M}+|[\u1100-\u11ff]+")
LIGATURES = dict(
    zip("\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06", ["ff", "fi", "fl", "ffi", "ffl", "st", "st"])
)
TYPOGRAPHIC = re.compile("[\u00a0\ufb00-\ufb06]")
SPACES = re.compile(r"(?<![ \t])[ \t]+(?=\n|\Z)")
# what some repair of a non-ASCII text begins with, apart from mojibake and composition
SUSPECT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufb00-\ufb06\ufeff"
    "\ufdd0-\ufdef\ufff9-\uffff]"
)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def normalise(text: str, mode: str = "prose", blank_lines: int = 2) -> tuple[str, dict[str, int]]:
    """Normalise a text.

    Args:
        text: any.
        mode: ``prose``, ``technical`` or ``code``.
        blank_lines: most blank lines in a row in prose.

    Returns:
        The text, and how often each repair was made (those that were not are left out).
    """
    counts: Counter[str] = Counter()
    for _ in range(ROUNDS):
        before = text
        text = everywhere(text, mode, counts)
        if mode != "code":
            if looked_for := suspicions(text, mode):
                text = repair_lines(text, mode, looked_for, counts)
            text = squeeze(text, blank_lines, counts)
        if text == before:
            break
    return text, {name: count for name, count in sorted(counts.items()) if count}


def everywhere(text: str, mode: str, counts: Counter[str]) -> str:
    """What is done to code, too: line ends, byte order mark, NUL."""
    if "\x00" in text:
        counts["control"] += text.count("\x00")
        text = text.replace("\x00", "")
    if text.startswith("\ufeff"):
        counts["invisible"] += len(text) - len(text.lstrip("\ufeff"))
        text = text.lstrip("\ufeff")
    if "\r" in text:
        text = count(LINE_END, "\n", text, "line_ends", counts)
        # a lone \r can be part of a string, or (in docstrings) what is left of \rightarrow
        if "\r" in text and (mode == "prose" or "\n" not in text):
            counts["line_ends"] += text.count("\r")
            text = text.replace("\r", "\n")
    return text


def suspicions(text: str, mode: str) -> list[Any]:
    """Patterns that find every place of a text where a repair could apply; mostly none."""
    found: list[Any] = []
    if " \n" in text or "\t\n" in text or text.endswith((" ", "\t")):
        found.append(SPACES)
    if mode == "prose" and "&" in text and ENTITY.search(text) and not TAG.search(text):
        found.append(ENTITY)
    if text.isascii():
        if text.encode("ascii").translate(None, PLAIN):
            found.append(CONTROL)
        return found
    found += [pattern for pattern in (SUSPECT, MOJIBAKE) if pattern.search(text)]
    if not unicodedata.is_normalized("NFC", text):
        found.append(MARKED)
    return found


def repair_lines(text: str, mode: str, looked_for: list[Any], counts: Counter[str]) -> str:
    """Repair the prose in the lines that hold what is looked for."""
    entities = ENTITY in looked_for
    one_direction = not RIGHT_TO_LEFT.search(text)
    spans = delimited(text)
    ends = [end for _, end in spans]
    pieces: list[str] = []
    done = 0
    for start, end in lines_with(text, looked_for):
        if is_laid_out(text, start, end):
            continue
        position, place = start, bisect_right(ends, start)
        while position < end:
            left, right = spans[place] if place < len(spans) else (end, end)
            place += 1
            stop = min(left, end)
            if position < stop:
                piece = repair(text[position:stop], mode, entities, one_direction, counts)
                if stop == end:
                    piece = trim(piece, mode, text[end + 1 : end + 200], counts)
                pieces += [text[done:position], piece]
                done = stop
            position = max(position, right)
    return "".join([*pieces, text[done:]])


def lines_with(text: str, patterns: list[Any]) -> Iterator[Span]:
    """Lines (without their breaks) in which a pattern is found, in order."""
    starts: set[int] = set()
    for pattern in patterns:
        position = 0
        while match := pattern.search(text, position):
            starts.add(text.rfind("\n", 0, match.start()) + 1)
            position = text.find("\n", match.start()) + 1
            if not position:
                break
    for start in sorted(starts):
        end = text.find("\n", start)
        yield start, len(text) if end < 0 else end


def repair(piece: str, mode: str, entities: bool, one_direction: bool, counts: Counter[str]) -> str:
    """All repairs but those of spaces, on prose of one line."""
    if entities:
        piece = count(ENTITY, lambda match: html.unescape(match[0]), piece, "entities", counts)
    if not piece.isascii():
        if MOJIBAKE.search(piece) and is_bad(piece):
            fixed = ftfy.fix_encoding(piece, replace_lossy_sequences=False)
            counts["mojibake"] += fixed != piece
            piece = fixed
        piece = count(C1, lambda match: ftfy.fixes.fix_c1_controls(match[0]), piece, "control", counts)
        piece = count(INVISIBLE, "", piece, "invisible", counts)
        if one_direction:
            piece = count(DIRECTION, "", piece, "invisible", counts)
        if not unicodedata.is_normalized("NFC", piece):
            piece = count(MARKED, lambda m: unicodedata.normalize("NFC", m[0]), piece, "composed", counts)
        if mode == "prose":
            piece = count(TYPOGRAPHIC, lambda m: LIGATURES.get(m[0], " "), piece, "typographic", counts)
    piece = count(ESCAPES, "", piece, "control", counts)
    piece = count(BREAKS, "\n", piece, "control", counts)
    return count(CONTROLS, "", piece, "control", counts)


def trim(piece: str, mode: str, after: str, counts: Counter[str]) -> str:
    """The end of a line without spaces; ``after`` is what follows the line."""
    if mode == "technical" and re.search(r"\S  \Z", piece) and after[:1].strip():
        return piece  # Markdown's hard break: two spaces, and the paragraph goes on
    return count(SPACES, "", piece, "spaces", counts)


def squeeze(text: str, blank_lines: int, counts: Counter[str]) -> str:
    """Limit blank lines outside of spans, and drop those at the ends."""
    most = "\n" * (blank_lines + 1)
    if most + "\n" in text:
        spans = delimited(text)
        starts = [start for start, _ in spans]

        def shorten(match: re.Match[str]) -> str:
            place = bisect_right(starts, match.start()) - 1
            return match[0] if place >= 0 and match.start() < spans[place][1] else most

        text = count(re.compile(most + "\n+"), shorten, text, "blank_lines", counts)
    if text.startswith("\n"):
        counts["blank_lines"] += 1
        text = text.lstrip("\n")
    if text.endswith("\n\n"):
        counts["blank_lines"] += 1
        text = text.rstrip("\n") + "\n"
    return text


def count(
    pattern: Any, replacement: str | Callable[[Any], str], text: str, name: str, counts: Counter[str]
) -> str:
    """Substitute, and count what changed under a name."""
    changed = 0

    def replace(match: Any) -> str:
        nonlocal changed
        new = replacement if isinstance(replacement, str) else replacement(match)
        changed += new != match[0]
        return new

    text = pattern.sub(replace, text)
    if changed:
        counts[name] += changed
    return text


class NormaliseText(PipelineStep):
    """Normalises each document as its domain allows; what was repaired goes to ``found``."""

    type = "🧹 - NORMALISE"
    name = "normalise"

    def __init__(self, options: Normalise) -> None:
        super().__init__()
        self.options = options

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            mode = self.options.mode
            if mode == "auto":
                mode = MODES[document.metadata["domain"]]
            document.text, repairs = normalise(document.text, mode, self.options.blank_lines)
            if repairs:
                document.metadata.setdefault("found", {})["normalise"] = repairs
                self.stat_update("repaired")
            yield document
