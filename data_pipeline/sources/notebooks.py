"""Jupyter notebooks (nbformat 3 and 4): cells in order, with what they printed, and no images."""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from data_pipeline.sources.item import Item, whole

MAX_OUTPUT = 2_000  # characters of a cell's output; more is a log or a table dump


def read_notebook(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per notebook: Markdown as it is, code and its text output in fences."""
    item = whole(handle)
    if item.rule:
        yield item
        return
    try:
        notebook = json.loads(item.text)
        cells = notebook["cells"] if "cells" in notebook else [
            cell for sheet in notebook["worksheets"] for cell in sheet["cells"]
        ]  # fmt: skip
        language = language_of(notebook)
        text = "\n\n".join(block for cell in cells for block in blocks(cell, language))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield Item("0", item.text, "not_notebook", f"{type(error).__name__}: {error}")
        return
    yield Item("0", text, metadata={"programming_language": language})


def language_of(notebook: dict[str, Any]) -> str:
    metadata = notebook.get("metadata", {})
    about = metadata.get("language_info") or metadata.get("kernelspec") or {}
    return str(
        about.get("name")
        if "codemirror_mode" in about
        else about.get("language", about.get("name", "python"))
    )


def blocks(cell: dict[str, Any], language: str) -> Iterator[str]:
    """A cell as Markdown blocks."""
    source = joined(cell.get("source", cell.get("input", ""))).strip("\n")
    kind = cell["cell_type"]
    if kind == "heading":  # nbformat 3
        source = f"{'#' * int(cell.get('level', 1))} {source}"
    if not source.strip():
        return
    yield fenced(source, cell.get("language", language)) if kind == "code" else source
    for output in cell.get("outputs", ()):
        text = output_text(output).strip("\n")
        if text.strip():
            cut = text if len(text) <= MAX_OUTPUT else f"{text[:MAX_OUTPUT]}\n..."
            yield fenced(cut, "text")


def fenced(text: str, language: str) -> str:
    marks = "`" * (max(map(len, re.findall("`{3,}", text)), default=2) + 1)  # longer than any in it
    return f"{marks}{language}\n{text}\n{marks}"


def output_text(output: dict[str, Any]) -> str:
    """What an output says as text, without images, HTML, widgets and errors' coloured tracebacks."""
    if output.get("output_type") == "error" or output.get("output_type") == "pyerr":
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    if "text" in output and "data" not in output:  # a stream; nbformat 3's results, too
        return joined(output["text"])
    data = output.get("data", {})
    for kind in ("text/latex", "text/markdown", "text/plain"):
        if kind in data:
            return joined(data[kind])
    return ""


def joined(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)
