"""MediaWiki markup to readable text: pages of an XML dump, without templates, tables, references and links.

A dump holds what editors typed. What a reader of the page would not read as running text goes; headings stay
as lines of their own, list items become dashes.
"""

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import IO

from stemma.core.errors import DamagedError

MAX_DEPTH = 100  # of what is nested, as MediaWiki has it (`$wgMaxTemplateDepth`)
COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
# what these hold is no running text; <math> goes with them, as its TeX would need its own rendering
BLOCK_TAGS = "ref|math|gallery|timeline|source|syntaxhighlight|imagemap|score|code|pre|hiero|graph"
BLOCK = re.compile(rf"<({BLOCK_TAGS})\b[^<>]*+(?<!/)>(?:(?!<\1\b).)*?</\1\s*+>", re.DOTALL | re.IGNORECASE)
BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
TEMPLATE = re.compile(r"\{\{(?:[^{}]|\{(?!\{)|\}(?!\}))*+\}\}")
TABLE = re.compile(r"\{\|(?:(?!\{\||\|\}).)*?\|\}", re.DOTALL)
# inline text: {{convert|5|km}}, {{lang|fr|mot}}; every other template is a box, a note or a reference
CONVERT = re.compile(r"\{\{\s*(?:convert|cvt)\s*\|\s*+([^{}|]++)\|\s*+([^{}|]++)[^{}]*+\}\}", re.IGNORECASE)
LANG = re.compile(r"\{\{\s*lang\s*\|[^{}|]++\|\s*+([^{}|]++)\}\}", re.IGNORECASE)
FILE_LINK = re.compile(
    r"\[\[\s*(?:file|image|category|media)\s*:(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", re.IGNORECASE
)
INTERWIKI = re.compile(r"\[\[\s*[a-z]{2,3}(?:-[a-z]+)?\s*:[^\[\]]*\]\]")
LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]")
EXTERNAL = re.compile(r"\[(?:https?|ftp)://[^\s\[\]]++[ \t]*+((?:[^\[\]\n]|\[(?!https?:|ftp:))*+)\]")
BARE_EXTERNAL = re.compile(r"\[\s*\]")
EMPHASIS = re.compile(r"'{2,5}")
MAGIC = re.compile(r"__[A-Z]+__")
HEADING = re.compile(r"^(={2,6})(.*?)\1[ \t]*$", re.MULTILINE)
BACK_MATTER = {
    "see also", "references", "notes", "external links", "further reading", "bibliography", "sources",
    "citations", "footnotes", "notes and references", "references and notes", "works cited", "gallery",
}  # fmt: skip
EMPTY_BRACKETS = re.compile(r"\([,;:\s]*\)")
SPACE_BEFORE = re.compile(r"(?<![ \t])[ \t]+([,.;:)])")
LEADING_SEPARATOR = re.compile(r"\(\s*[,;]\s*")
BLANKS = re.compile(r"[ \t\u00a0]{2,}")
MANY_NEWLINES = re.compile(r"\n{3,}")


def pages(handle: IO[bytes], name: str) -> Iterator[tuple[str, str]]:
    """Yield (title, markup) of the articles of a MediaWiki XML dump, redirects and other namespaces left out.

    Pages are dropped as they are read: a dump of any size is read in the memory of its largest page.

    Args:
        handle: the dump, decompressed.
        name: what to call it in an error.

    Raises:
        DamagedError: it is no well-formed dump.
    """
    try:
        events = ET.iterparse(handle, events=("start", "end"))
        root: ET.Element | None = None
        for event, element in events:
            if root is None:
                root = element
            if event == "start" or (not element.tag.endswith("}page") and element.tag != "page"):
                continue
            text = element.findtext("{*}revision/{*}text") or ""
            if element.findtext("{*}ns", "0") == "0" and element.find("{*}redirect") is None and text.strip():
                yield element.findtext("{*}title") or "", text
            root.clear()
    except ET.ParseError as error:
        raise DamagedError(
            f"{name} is not a readable MediaWiki dump ({error}). It was left as it is."
        ) from error


def remove_nested(pattern: re.Pattern[str], text: str) -> str:
    """Remove matches from the innermost outwards, to a depth of ``MAX_DEPTH``."""
    for _ in range(MAX_DEPTH):
        text, count = pattern.subn("", text)
        if count == 0:
            break
    return text


def to_text(markup: str) -> str:
    """Readable text of a page's markup. Paragraphs are separated by blank lines, headings stand alone."""
    text = COMMENT.sub("", markup)
    text = BLOCK.sub("", re.sub(r"<ref\b[^<>]*/>", "", text, flags=re.IGNORECASE))
    text = CONVERT.sub(r"\1 \2", text)
    text = LANG.sub(r"\1", text)
    text = remove_nested(TEMPLATE, text)
    text = remove_nested(TABLE, text)
    text = BREAK.sub("\n", text)
    text = TAG.sub("", text)
    text = remove_nested(FILE_LINK, text)
    text = INTERWIKI.sub("", text)
    text = LINK.sub(r"\1", text)
    text = EXTERNAL.sub(r"\1", text)
    text = BARE_EXTERNAL.sub("", text)
    text = MAGIC.sub("", EMPHASIS.sub("", text))
    text = html.unescape(text)
    return tidy(cut_back_matter(text))


def cut_back_matter(text: str) -> str:
    """Drop sections that hold references and links, and empty sections; headings lose their equals signs."""
    kept: list[str] = []
    pieces = HEADING.split(text)  # lead, then (marks, title, body) for each section
    lead, sections = pieces[0], list(zip(pieces[1::3], pieces[2::3], pieces[3::3]))
    kept.append(lead)
    skip_below = 0  # level of the dropped section, whose subsections go with it
    for index, (marks, title, body) in enumerate(sections):
        level, title = len(marks), title.strip()
        if skip_below and level > skip_below:
            continue
        skip_below = level if title.lower() in BACK_MATTER else 0
        has_children = index + 1 < len(sections) and len(sections[index + 1][0]) > level
        if not skip_below and (body.strip() or has_children):
            kept.append(f"\n\n{title}\n\n{body.strip()}")
    return "".join(kept)


def tidy(text: str) -> str:
    """Mend the gaps that removals leave, and turn list markers into dashes."""
    text = LEADING_SEPARATOR.sub("(", text)
    text = SPACE_BEFORE.sub(r"\1", EMPTY_BRACKETS.sub("", text))
    lines = []
    for line in text.split("\n"):
        stripped = line.strip()
        if stripped[:1] in ("*", "#", ":", ";"):
            stripped = stripped.lstrip("*#:; ")
            stripped = f"- {stripped}" if stripped else ""
        if stripped.startswith(("|", "!", "{|", "|}")):  # the rest of a table that was not closed
            continue
        lines.append(BLANKS.sub(" ", stripped))
    return MANY_NEWLINES.sub("\n\n", "\n".join(lines)).strip()
