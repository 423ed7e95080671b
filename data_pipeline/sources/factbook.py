"""The CIA World Factbook (JSON, one file per country): sections become outlines."""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_pipeline.sources.item import Item, whole
from stemma.core.errors import DamagedError


def read_factbook(handle: IO[bytes], name: str) -> Iterator[Item]:
    """A country of the CIA World Factbook (JSON): one text per section, its fields as an outline.

    Raises:
        DamagedError: not the JSON that is expected.
    """
    item = whole(handle)
    if item.rule:
        yield item
        return
    try:
        country = json.loads(item.text)
        names = country.get("Government", {}).get("Country name", {})
        short, long = (
            names.get(f"conventional {form} form", {}).get("text", "") for form in ("short", "long")
        )
        sections = [
            (section, [line for field, value in fields.items() for line in outline(value, field)])
            for section, fields in country.items()
        ]
        title = plain(long if short in ("", "none") else short) or Path(name).stem.upper()
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"{name} is no country of the World Factbook ({error}). It was left as it is."
        ) from error
    for section, lines in sections:
        yield Item(section, f"{title}: {section}\n\n" + "\n".join(lines))


def outline(value: Any, label: str, depth: int = 0) -> Iterator[str]:
    """Lines of a nested object: ``label: text``, or the label as a heading with its parts indented below.

    ``text`` and ``note`` are an object's own words; its other keys are parts.
    """
    indent = "  " * depth
    if isinstance(value, dict):
        own = [plain(value[key]) for key in ("text", "note") if isinstance(value.get(key), str)]
        yield f"{indent}{label.strip()}: {' '.join(filter(None, own))}".rstrip()
        for key, inner in value.items():
            if key not in ("text", "note"):
                yield from outline(inner, key, depth + 1)
    elif isinstance(value, str) and plain(value):
        yield f"{indent}{label.strip()}: {plain(value)}"


def plain(markup: str) -> str:
    """HTML snippet to text: breaks become new lines, tags go, entities are resolved."""
    text = re.sub(r"(?:<br\s*/?>|</p>)+", "\n", markup, flags=re.IGNORECASE)
    text = html.unescape(re.sub(r"<[^<>]+>", "", text))
    return "\n".join(
        line for line in (re.sub(r"[ \t\u00a0]+", " ", row).strip() for row in text.split("\n")) if line
    )
