"""Finding functions of the running standard library that can be lifted out and tested alone.

A candidate is a short top-level function that uses nothing but builtins, its parameters and itself. Which
values it accepts is found out by trying a pool of values in a sandbox; outcomes that raise, or that depend on
the process, are dropped. Nothing of the standard library is imported or called outside a sandbox.
"""

import ast
import builtins
import functools
import itertools
import json
import os
import random
import re
import symtable
from dataclasses import dataclass
from pathlib import Path

from environments.sandbox import Limits, Sandbox, Snippet

SKIPPED_FOLDERS = {
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "turtledemo",
    "__pycache__",
}
UNSAFE = {
    "open", "print", "input", "exec", "eval", "compile", "__import__", "globals", "locals", "vars",
    "id", "hash", "setattr", "delattr", "getattr", "hasattr", "help", "breakpoint", "exit", "quit",
    "memoryview", "super", "object", "type", "dir", "callable", "classmethod", "staticmethod",
    "property",
}  # fmt: skip
VALUES = (
    "0", "1", "2", "3", "7", "10", "12", "-4", "100", "2024", "0.25", "0.5", "1.0", "''", "'a'", "'abc'",
    "'Hello World'", "'a/b/c.txt'", "'x=1;y=2'", "'user@host:80'", "'<a & b>'", "'  two  words '",
    "'a,b,,c'", "'http://a.b/c?d=e#f'", "'-'", "'/'", "'.'", "[]", "[1]", "[3, 1, 2]", "[1, 2, 2, 5]",
    "[0, 1, 0, 4, 4]", "['b', 'a', 'c']", "('a', 'b')", "(1, 2, 3)", "{}", "{'a': 1, 'b': 2}",
    "{1: 'x', 2: 'y'}", "b''", "b'abc'", "b'a=3D b'", "None",
)  # fmt: skip
EXCLUDED = {("ipaddress", "_count_righthand_zero_bits"), ("email.utils", "_sanitize")}
"""Functions whose faulty versions fail in other ways in one sandbox than in the other."""
COMBINATIONS = 400  # argument tuples tried per function
MOST_CASES = 40  # argument tuples kept per function


@dataclass(frozen=True)
class Case:
    """One call and what it gives. `arguments` and `expected` are Python source, as `repr` writes it."""

    arguments: str
    expected: str


@dataclass(frozen=True)
class Function:
    """A standard library function that stands alone.

    Attributes:
        module: dotted name.
        name: of the function.
        source: its text, with the docstring cut to its first line.
        cases: calls and their outcomes.
    """

    module: str
    name: str
    source: str
    cases: tuple[Case, ...] = ()


BLOCK = re.compile(r"^def \w+\(.*\n(?:[ \t)].*\n|\n)*", re.MULTILINE)
"""A top-level function's text: parsing only these is ten times quicker than parsing every file."""

OBVIOUS = re.compile(r"\b(yield|import|with|self|cls|super|open|print|isinstance\(self)\b|\*\*\w+\)|@")
"""What shows without parsing that a function cannot stand alone, or is not worth a try."""

HARNESS = """
def outcome(arguments):
    before = repr(arguments)
    try:
        result = {name}(*arguments)
    except Exception as error:
        return type(error).__name__
    if result is None and repr(arguments) != before:
        return repr(arguments)
    return repr(result)
"""
"""A call's outcome as text. A function that returns nothing is judged by what it did to its arguments."""


def candidates(max_lines: int, library: Path | None = None) -> list[Function]:
    """List functions that look liftable, from source text alone, sorted by module and name.

    Args:
        max_lines: longest function taken, without its docstring.
        library: folder of the standard library; the running interpreter's by default.
    """
    root = library or Path(os.__file__).parent
    found: dict[str, Function] = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS & set(relative.parts) or relative.name.startswith("_sysconfigdata"):
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        text = path.read_bytes().decode(errors="replace")
        for block in BLOCK.findall(text):
            if block.count("\n") > 3 * max_lines or OBVIOUS.search(block):
                continue
            try:
                node = ast.parse(block).body[0]
            except (SyntaxError, ValueError):
                continue  # the block was cut inside a text literal
            if not isinstance(node, ast.FunctionDef) or (module, node.name) in EXCLUDED:
                continue
            if source := liftable(node, block, max_lines):
                found.setdefault(source, Function(module, node.name, source))
    return sorted(found.values(), key=lambda function: (function.module, function.name))


def liftable(node: ast.FunctionDef, text: str, max_lines: int) -> str:
    """The function's own source if it can stand alone, else an empty string."""
    arguments = node.args
    required = len(arguments.args) - len(arguments.defaults)
    if (
        node.decorator_list
        or arguments.vararg
        or arguments.kwarg
        or arguments.kwonlyargs
        or not 1 <= required <= 3
    ):
        return ""
    if any(
        isinstance(part, ast.Yield | ast.YieldFrom | ast.Import | ast.ImportFrom | ast.With)
        for part in ast.walk(node)
    ):
        return ""
    source = shorten_docstring(node, ast.get_source_segment(text, node) or "")
    lines = [line for line in source.splitlines() if line.strip()]
    if (
        not 3 <= len(lines) <= max_lines
        or max(map(len, lines)) > 100
        or "\t" in source
        or not source.isascii()
    ):
        return ""
    names = free_names(source) - {node.name}
    return source + "\n" if names <= set(dir(builtins)) - UNSAFE else ""


def shorten_docstring(node: ast.FunctionDef, source: str) -> str:
    """Keep the first line of a docstring."""
    text = ast.get_docstring(node)
    if text is None or len(node.body) < 2:
        return source
    lines = source.splitlines()
    first, last = (node.body[0].lineno - node.lineno, (node.body[0].end_lineno or 0) - node.lineno)
    indent = " " * node.body[0].col_offset
    summary = text.split("\n")[0].replace("\\", "").replace('"', "'")
    return "\n".join([*lines[:first], f'{indent}"""{summary}"""', *lines[last + 1 :]])


def free_names(source: str) -> set[str]:
    """Names a function's source takes from outside itself."""

    def collect(table: symtable.SymbolTable) -> set[str]:
        own = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        return own.union(*(collect(child) for child in table.get_children()))

    module = symtable.symtable(source, "function", "exec")
    around = {
        symbol.get_name() for symbol in module.get_symbols() if symbol.is_referenced()
    }  # defaults, annotations
    return around.union(*(collect(child) for child in module.get_children()))


def argument_tuples(function: Function) -> list[str]:
    """Argument tuples to try, as source; the same for the same function everywhere."""
    node = ast.parse(function.source).body[0]
    assert isinstance(node, ast.FunctionDef)
    count = len(node.args.args) - len(node.args.defaults)
    rng = random.Random(f"{function.module}.{function.name}")
    if count == 1:
        chosen = [(value,) for value in VALUES]
    else:
        every = list(itertools.product(VALUES, repeat=count)) if count == 2 else None
        pick = rng.sample(every, min(len(every), COMBINATIONS)) if every else None
        chosen = pick or [tuple(rng.choices(VALUES, k=count)) for _ in range(COMBINATIONS)]
    return [f"({', '.join(values)},)" for values in chosen]


def probe(functions: list[Function], sandbox: Sandbox) -> list[Function]:
    """Try each candidate on many values; returns those with enough telling cases, with their cases."""
    calls = [argument_tuples(function) for function in functions]
    snippets = [
        Snippet(
            function.source
            + HARNESS.format(name=function.name)
            + f"import json\nprint(json.dumps([outcome(a) for a in [{', '.join(tuples)}]]))\n"
        )
        for function, tuples in zip(functions, calls)
    ]
    results = sandbox.run_many(snippets, Limits(timeout_s=2.0, output_limit=200_000))
    kept = []
    for function, tuples, result in zip(functions, calls, results):
        if not result.ok:
            continue
        cases = [
            Case(arguments, expected)
            for arguments, expected in zip(tuples, json.loads(result.stdout))
            if usable(expected, arguments)
        ]
        rng = random.Random(f"{function.module}.{function.name}.cases")
        cases = spread(cases, rng)[:MOST_CASES]
        if len({case.expected for case in cases}) >= 3:
            kept.append(Function(function.module, function.name, function.source, tuple(cases)))
    return kept


def usable(expected: str, arguments: str) -> bool:
    """Whether an outcome may serve as a test: short, a value and no error, the same in every process."""
    if re.fullmatch(r"[A-Z]\w*(Error|Exception|Iteration|Exit|Interrupt)", expected) or len(expected) > 60:
        return False
    return "<" not in expected.replace("'<a & b>'", "") and not expected.startswith(("{1", "{2"))


def spread(cases: list[Case], rng: random.Random) -> list[Case]:
    """Order cases so that different outcomes come first: a handful then tells more."""
    by_outcome: dict[str, list[Case]] = {}
    for case in rng.sample(cases, len(cases)):
        by_outcome.setdefault(case.expected, []).append(case)
    rounds = itertools.zip_longest(*by_outcome.values())
    return [case for cases in rounds for case in cases if case is not None]


@functools.cache
def library_functions(max_lines: int) -> tuple[Function, ...]:
    """Every testable function of the running standard library. Probed in the quickest sandbox there is.

    The interpreter in Rust is used here whatever sandbox will run the tests later: it makes thousands of
    small runs cheap, and the choice of functions is then the same on every machine with this Python.
    """
    from environments.sandbox import open_sandbox

    return tuple(probe(candidates(max_lines), open_sandbox("monty")))
