"""Docstrings of Python modules: technical prose with the signature it explains."""

import ast
import re
from collections.abc import Iterator
from typing import IO

from data_pipeline.sources.item import Item, whole

MIN_DOCSTRING = 200  # characters; shorter ones say little more than the name


def read_docstrings(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per docstring of a module: qualified name and signature, then the docstring."""
    source = whole(handle)
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
