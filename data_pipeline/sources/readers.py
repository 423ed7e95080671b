"""Formats: how the bytes of a file become texts.

A reader yields ``Item`` values. What cannot be read (broken UTF-8, a line that is no JSON) is an item too,
with the rule it broke, so that it is counted among the rejects and not lost.
"""

import ast
import html
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.sources import wikitext
from stemma.core.errors import DamagedError

MIN_DOCSTRING = 200  # characters; shorter ones say little more than the name


@dataclass(frozen=True)
class Item:
    """One text of a file, before any filter.

    Attributes:
        row: where in the file: a row number, a title or a name.
        text: the text.
        rule: why it cannot be used, or "".
        value: what was found instead.
    """

    row: str
    text: str
    rule: str = ""
    value: str = ""


def decode(data: bytes, row: str) -> Item:
    """UTF-8 text; broken text becomes a reject that shows where it breaks."""
    try:
        return Item(row, data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return Item(row, data.decode("utf-8", errors="replace"), "not_utf8", f"byte {error.start}")


def read_text(data: bytes, name: str) -> Iterator[Item]:
    """One text per file. Python modules are read so, too."""
    yield decode(data, "0")


def read_jsonl(data: bytes, name: str, field: str = "text") -> Iterator[Item]:
    """One text per line, under a key."""
    for number, line in enumerate(data.splitlines()):
        if not line.strip():
            continue
        item = decode(line, str(number))
        if item.rule:
            yield item
            continue
        try:
            value = json.loads(item.text)
        except ValueError as error:
            yield Item(item.row, item.text, "not_json", str(error))
            continue
        text = value.get(field) if isinstance(value, dict) else None
        if isinstance(text, str):
            yield Item(item.row, text)
        else:
            yield Item(item.row, item.text, "no_text", f"no string under {field!r}")


def read_parquet(data: bytes, name: str, field: str = "text") -> Iterator[Item]:
    """One text per row, in a column.

    Raises:
        DamagedError: not readable as parquet, or without that column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        column = pq.read_table(io.BytesIO(data), columns=[field]).column(field)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DamagedError(
            f"{name} has no readable column {field!r} ({error}). It was left as it is."
        ) from error
    for number, text in enumerate(column):
        value = text.as_py()
        yield (
            Item(str(number), value)
            if value
            else Item(str(number), "", "no_text", f"no string under {field!r}")
        )


def read_mediawiki(data: bytes, name: str) -> Iterator[Item]:
    """One text per article of a MediaWiki dump, its title on top."""
    for title, markup in wikitext.pages(data, name):
        yield Item(title, f"{title}\n\n{wikitext.to_text(markup)}")


def read_factbook(data: bytes, name: str) -> Iterator[Item]:
    """A country of the CIA World Factbook (JSON): one text per section, its fields as an outline.

    Raises:
        DamagedError: not the JSON that is expected.
    """
    try:
        country = json.loads(data)
        names = country.get("Government", {}).get("Country name", {})
        short, long = (
            names.get(f"conventional {form} form", {}).get("text", "") for form in ("short", "long")
        )
        sections = [
            (section, [line for field, value in fields.items() for line in outline(value, field)])
            for section, fields in country.items()
        ]
    except (ValueError, AttributeError) as error:
        raise DamagedError(
            f"{name} is no country of the World Factbook ({error}). It was left as it is."
        ) from error
    title = plain(long if short in ("", "none") else short) or Path(name).stem.upper()
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


def read_docstrings(data: bytes, name: str) -> Iterator[Item]:
    """One text per docstring of a module: qualified name and signature, then the docstring."""
    source = decode(data, "0")
    if source.rule:
        yield source
        return
    try:
        tree = ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError) as error:
        yield Item("0", source.text, "not_python", type(error).__name__)
        return
    module = re.sub(r"(/__init__)?\.py$", "", name).replace("/", ".")
    yield from docstrings(tree, module)


def docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, path: str
) -> Iterator[Item]:
    text = ast.get_docstring(node)
    if text and len(text) >= MIN_DOCSTRING:
        signature = (
            f"({ast.unparse(node.args)})" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else ""
        )
        yield Item(path, f"{path}{signature}\n\n{text}")
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from docstrings(child, f"{path}.{child.name}")


def generate_engram(archive: Path, items: int) -> Iterator[Item]:
    """Solved problems by the generators of an ``engram-generator`` wheel: one text per generator.

    They run in a process of their own with a fixed hash seed: one of them iterates over a set of strings.

    Raises:
        DamagedError: the wheel's generators do not run.
    """
    command = [sys.executable, "-P", str(Path(__file__).with_name("engram.py")), str(archive), str(items)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode != 0:
        raise DamagedError(f"{archive.name}: its generators do not run here:\n{done.stderr.decode()[-2000:]}")
    for line in done.stdout.splitlines():
        row, text = json.loads(line)
        yield Item(row, text)


READERS: dict[str, Callable[..., Iterator[Item]]] = {
    "text": read_text,
    "python": read_text,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "mediawiki": read_mediawiki,
    "factbook": read_factbook,
    "docstrings": read_docstrings,
}
TABULAR = ("jsonl", "parquet")  # readers that take the name of the text field
