"""HTML to text: the page's own content, with code, tables and formulas as they were.

inscriptis lays the text out; trafilatura was tried first and not taken. On Debian's copies of the Python and
SymPy manuals it strips the indentation of code (a Python example no longer runs), breaks sentences at inline
code, and drops formulas that are images with their TeX in `alt`; it also takes about seven times as long.
What inscriptis has no notion of, what belongs to the page rather than to its text, is taken out first.
"""

import codecs
import re
from collections.abc import Iterator
from typing import IO, Any

from data_pipeline.sources.item import MAX_FILE_BYTES, SHOWN_BYTES, Item, decode

CHARSET = re.compile(r"charset\s*=\s*(?:[\"']\s*)?([\w.:-]+)", re.IGNORECASE)
META = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*(?:[\"']\s*)?([\w.:-]+)", re.IGNORECASE)
META_BYTES = 4_096  # of a page in which its encoding is declared
XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")

CONTENT = (  # where a page keeps its own text; the first of these that is there
    "//main", "//*[@role='main']", "//article", "//*[@id='mw-content-text']",
    "//div[contains(@class, 'body')]",
)  # fmt: skip
DROPPED_TAGS = (
    "script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "audio", "video",
    "button", "select", "input", "textarea", "nav", "aside", "head",
)  # fmt: skip
DROPPED_ROLES = {"navigation", "banner", "contentinfo", "search", "complementary", "menu", "dialog"}
DROPPED_CLASSES = {  # of Sphinx, DocBook, MediaWiki, man-page converters, KaTeX and common web sites
    "headerlink", "linenos", "linenodiv", "sphinxsidebar", "related", "toctree-wrapper", "contents",
    "navheader", "navfooter", "toc", "mw-editsection", "navbox", "breadcrumb", "breadcrumbs", "sidebar",
    "cookie-banner", "katex-html", "viewcode-link", "viewcode-back", "site-footer", "site-header",
    "share-buttons", "skip-link",
}  # fmt: skip
MAX_DEPTH = 500  # levels; inscriptis goes down by recursion, and Python ends that at 1,000
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")


class TooDeep(ValueError):
    """A page cannot be laid out because its elements are nested too deep."""


def read_html(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per page."""
    data = handle.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        shown = data[:SHOWN_BYTES].decode("utf-8", errors="replace")
        yield Item("0", shown, "file_too_large", f"over {MAX_FILE_BYTES} bytes")
        return
    item = decode_html(data, "0")
    yield item if item.rule else page_item(item.text, "0")


def page_item(page: str, row: str) -> Item:
    """The readable text of a page; one that is nested too deep is a reject."""
    try:
        return Item(row, html_to_text(page))
    except TooDeep as error:
        return Item(row, page[:SHOWN_BYTES], "too_deep", str(error))


def charset_of(content_type: str) -> str:
    """The encoding that a media type names, or ""."""
    found = CHARSET.search(content_type)
    return found[1] if found else ""


def decode_html(data: bytes, row: str, charset: str = "") -> Item:
    """Text in the encoding that HTTP, the page's mark or its ``meta`` element says, or in UTF-8.

    Text that is in none of them is a reject.
    """
    item = decode(data, row)
    if not item.rule:  # UTF-8 by mistake is practically impossible, a wrong declaration is not
        return item
    declared = META.search(data[:META_BYTES])
    for encoding in (charset, declared[1].decode() if declared else ""):
        if encoding.lower() in ("iso-8859-1", "latin1", "latin-1", "us-ascii", "ascii"):
            encoding = "windows-1252"  # what browsers take these for (WHATWG Encoding, 4.2)
        try:
            return Item(row, codecs.decode(data, encoding))
        except (LookupError, UnicodeDecodeError):  # "" is no encoding, either
            continue
    return item


def html_to_text(page: str) -> str:
    """Readable text of a page: paragraphs apart, code as written, tables in columns, formulas as TeX.

    Raises:
        TooDeep: its elements are nested deeper than ``MAX_DEPTH``.
    """
    import lxml.etree
    import lxml.html
    from inscriptis.css_profiles import CSS_PROFILES
    from inscriptis.html_engine import Inscriptis
    from inscriptis.model.config import ParserConfig

    page = XML_DECLARATION.sub("", page).replace("\x00", "\ufffd")
    try:
        # without `huge_tree`, all that comes after the 256th level would go without a word
        tree = lxml.html.document_fromstring(page, parser=lxml.html.HTMLParser(huge_tree=True))
    except (lxml.etree.ParserError, lxml.etree.XMLSyntaxError):
        return ""  # nothing in it but markup
    if tree.xpath("/*" * MAX_DEPTH):
        raise TooDeep(f"more than {MAX_DEPTH - 1} levels of elements")
    spell_formulas(tree)
    content = content_of(tree)
    drop_furniture(content)
    flatten_code(content)
    text = str(Inscriptis(content, ParserConfig(css=CSS_PROFILES["strict"])).get_text())
    lines = (line.rstrip() for line in text.split("\n"))
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip("\n")


def content_of(tree: Any) -> Any:
    """The element that holds the page's own text."""
    for path in CONTENT:
        found = tree.xpath(path)
        if len(found) == 1:  # several articles are a list of teasers
            return found[0]
    body = tree.find("body")
    return tree if body is None else body


def drop_furniture(content: Any) -> None:
    """Remove what belongs to the page or the site; text that follows an element stays."""
    for element in list(content.iter(*DROPPED_TAGS)):
        element.drop_tree()
    for element in list(content.xpath(".//*[@class or @role]")):
        classes = set(element.get("class", "").lower().split())
        if classes & DROPPED_CLASSES or element.get("role", "").lower() in DROPPED_ROLES:
            element.drop_tree()


def flatten_code(content: Any) -> None:
    """Leave only text in preformatted blocks: blanks at the edge of a highlighted word would be lost."""
    for block in list(content.iter("pre")):
        for line_break in list(block.iter("br")):
            line_break.tail = f"\n{line_break.tail or ''}"
        text, tail = block.text_content(), block.tail
        attributes = dict(block.attrib)
        block.clear()
        block.attrib.update(attributes)
        block.text, block.tail = text, tail


def spell_formulas(tree: Any) -> None:
    """Replace formulas by their TeX between dollars; formulas that are TeX in the page stay as they are."""
    for script in list(tree.xpath("//script[starts-with(@type, 'math/tex')]")):
        replace(script, script.text or "", "display" in script.get("type", ""))
    for formula in list(tree.iter("math")):
        notes = formula.xpath(".//*[local-name()='annotation'][contains(@encoding, 'tex')]")
        tex = notes[0].text_content() if notes else formula.get("alttext", "")
        if tex.strip():
            replace(formula, tex, formula.get("display") == "block")
    for image in list(tree.iter("img")):
        classes = image.get("class", "")
        above = [parent.get("class", "") for parent in image.iterancestors("div")][:1]
        if "mwe-math-fallback" in classes:  # the formula itself is beside it
            image.drop_tree()
        elif "math" in classes.split() or "tex" in classes.split() or "math" in " ".join(above).split():
            replace(image, image.get("alt", ""), "math" in " ".join(above).split())


def replace(element: Any, tex: str, display: bool) -> None:
    """Put TeX where an element was."""
    import lxml.html

    tex = re.sub(r"^\{\\displaystyle\s?(.*)\}$", r"\1", re.sub(r"\s+", " ", tex.strip()))
    marks = "$$" if display else "$"
    formula = lxml.html.Element("span")
    formula.text = f"{marks}{tex}{marks}" if tex else ""
    formula.tail = element.tail
    element.getparent().replace(element, formula)
