"""Docstrings of Python modules: technical prose with the signature it explains."""

import ast
import gc
import re
from collections.abc import Iterator
from typing import IO

from data_pipeline.sources.item import Item, whole

MIN_DOCSTRING = 200  # characters; shorter ones say little more than the name


def read_docstrings(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per docstring of a module, its classes and functions: name and signature, then docstring."""
    source = whole(handle)
    if source.rule:
        yield source
        return
    module = re.sub(r"(/__init__)?\.py$", "", name).replace("/", ".")
    gc.disable()  # a syntax tree has no cycles, and looking for them takes a third of the time
    try:
        found = list(docstrings(ast.parse(source.text), module))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the parser's stack, mostly
        yield Item("0", source.text, "not_python", type(error).__name__)
        return
    finally:
        gc.enable()
    yield from found


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
