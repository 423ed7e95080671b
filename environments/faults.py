"""Injecting one small fault into a function's text, the way people make them."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mod, ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
KINDS = {
    "comparison": "the comparison is wrong",
    "operator": "the operator is wrong",
    "constant": "the number is wrong",
    "condition": "the condition is the wrong way round",
    "connective": "and and or are mixed up",
    "arguments": "the arguments are swapped",
    "return": "the result is not returned",
    "statement": "a statement is missing",
}
"""Sorts of fault, and what a reader would say of each."""


@dataclass(frozen=True)
class Fault:
    """One faulty version of a function.

    Attributes:
        kind: a key of `KINDS`.
        line: index of the changed line.
        wrong: that line with the fault, without indentation.
        right: that line as it was.
        source: the whole faulty text.
    """

    kind: str
    line: int
    wrong: str
    right: str
    source: str


def faults(source: str) -> list[Fault]:
    """Every single-line fault of the sorts in `KINDS`; all of them compile and differ."""
    lines = source.split("\n")
    found: dict[str, Fault] = {}
    for node, kind, replacement in mutations(ast.parse(source)):
        if node.lineno != node.end_lineno:
            continue
        index = node.lineno - 1
        # columns are in bytes; candidates are ASCII
        changed = (
            lines[index][: node.col_offset] + ast.unparse(replacement) + lines[index][node.end_col_offset :]
        )
        text = "\n".join([*lines[:index], changed, *lines[index + 1 :]])
        try:
            same = ast.dump(ast.parse(text)) == ast.dump(ast.parse(source))
        except SyntaxError:
            continue
        if not same:
            found.setdefault(text, Fault(kind, index, changed.strip(), lines[index].strip(), text))
    return list(found.values())


def mutations(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, str, ast.AST]]:
    """Yield `(node, kind, what to put in its place)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            yield node, "comparison", changed(node, ops=[COMPARISONS[type(node.ops[0])]()])
        elif (
            isinstance(node, ast.BinOp)
            and type(node.op) in OPERATORS
            and not isinstance(node.left, ast.Constant | ast.JoinedStr)
        ):
            yield node, "operator", changed(node, op=OPERATORS[type(node.op)]())
        elif isinstance(node, ast.BoolOp):
            yield (
                node,
                "connective",
                changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And()),
            )
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            for value in (node.value + 1, node.value - 1):
                yield node, "constant", ast.Constant(value)
        elif isinstance(node, ast.If | ast.While | ast.IfExp):
            test = node.test
            turned = (
                test.operand
                if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
                else ast.UnaryOp(ast.Not(), test)
            )
            yield test, "condition", turned
        elif isinstance(node, ast.Call) and len(node.args) == 2 and not node.keywords:
            yield node, "arguments", changed(node, args=node.args[::-1])
        elif isinstance(node, ast.Return) and node.value is not None:
            yield node, "return", node.value
        elif isinstance(node, ast.AugAssign) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            yield node, "statement", ast.Pass()


def changed(node: ast.AST, **fields: object) -> ast.AST:
    """A copy of a node with some fields replaced."""
    twin = copy.copy(node)
    for name, value in fields.items():
        setattr(twin, name, value)
    return twin


def bounded(source: str, steps: int = 20_000) -> str:
    """The same function with counted loops: `TimeoutError` after `steps` rounds, on any machine alike."""
    tree = ast.parse(source)
    tick = ast.parse("tick()").body
    for node in ast.walk(tree):
        if isinstance(node, ast.For | ast.While):
            node.body = tick + node.body
    count = "rounds = [0]\ndef tick():\n    rounds[0] += 1\n"
    counter = f"{count}    if rounds[0] > {steps}:\n        raise TimeoutError\n"
    return counter + ast.unparse(ast.fix_missing_locations(tree)) + "\n"
