"""Finding functions, breaking them, and scoring repairs."""

import ast
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.base import assistant
from environments.code_repair import CodeRepair, apply_edit, edit, workspace
from environments.config import CodeRepairConfig
from environments.faults import KINDS, bounded, faults
from environments.sandbox import Sandbox
from environments.stdlib_functions import candidates, library_functions, probe

SAMPLE = '''def between(low, value, high):
    """Whether a value lies between two others.

    More text.
    """
    if low <= value and value < high:
        return True
    total = 0
    for step in range(1, 3):
        total += step
    return total > 5
'''


@pytest.fixture(scope="module")
def repair(monty: Sandbox) -> CodeRepair:
    return CodeRepair(CodeRepairConfig(), monty)


def test_faults_of_every_kind_are_found_and_compile() -> None:
    found = faults(SAMPLE + "\ndef other(a, b):\n    return max(a, b)\n")
    kinds = {fault.kind for fault in found}
    assert kinds >= {"comparison", "connective", "constant", "condition", "return", "statement", "arguments"}
    assert kinds <= KINDS.keys()
    for fault in found:
        ast.parse(fault.source)
        changed = [i for i, (a, b) in enumerate(zip(SAMPLE.split("\n"), fault.source.split("\n"))) if a != b]
        assert changed in ([fault.line], [])  # [] for the second function
        assert fault.source.split("\n")[fault.line].strip() == fault.wrong
    assert len({fault.source for fault in found}) == len(found)


def test_endless_loops_end_when_bounded() -> None:
    space: dict[str, object] = {}
    exec(bounded("def spin(n):\n    while n:\n        n += 1\n    return n\n", steps=50), space)
    assert space["spin"](0) == 0  # type: ignore[operator]
    with pytest.raises(TimeoutError):
        space["spin"](1)  # type: ignore[operator]


def test_candidates_stand_alone(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        SAMPLE
        + "\nLIMIT = 3\n\ndef needs_a_global(x):\n    y = x + LIMIT\n    return y\n"
        + "\ndef opens(path):\n    handle = open(path)\n    return handle.read()\n"
        + "\ndef annotated(x: Missing):\n    y = x + 1\n    return y\n"
    )
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "module.py").write_text(SAMPLE.replace("between", "inside"))
    (tmp_path / "broken.py").write_text("def broken(:\n    x\n")
    found = candidates(16, tmp_path)
    assert [(function.module, function.name) for function in found] == [("module", "between")]
    assert "More text" not in found[0].source
    assert '"""Whether a value lies between two others."""' in found[0].source


def test_recorded_outcomes_are_those_of_the_real_function(monty: Sandbox, bwrap: Sandbox) -> None:
    functions = [
        function
        for function in library_functions(16)
        if function.module in ("calendar", "urllib.parse", "html")
    ]
    assert len(functions) >= 3
    assert probe(functions, bwrap) == probe(functions, monty) == functions


def test_the_library_yields_enough(repair: CodeRepair) -> None:
    assert len(repair.functions) >= 50
    assert sum(len(repair.broken(number)) for number in range(20)) >= 20


def test_the_test_fails_first_and_passes_last(repair: CodeRepair, sandbox: Sandbox) -> None:
    real = CodeRepair(CodeRepairConfig(mistakes=0.5), sandbox)
    tasks = [real.draw(2, index) for index in range(25)]
    for task, episode in zip(tasks, real.experts(tasks)):
        runs = [
            message["content"]
            for message in episode
            if message["role"] == "tool" and message["name"] == "run_tests"
        ]
        assert "FAIL" in runs[0]
        assert not runs[0].endswith(" 0 failed")
        assert runs[-1].endswith(" 0 failed")
        assert all(not run.endswith(" 0 failed") for run in runs[:-1])
        assert workspace(task, episode)[task.state["path"]] == task.state["function"].source


def test_doing_nothing_or_cheating_scores_nothing(repair: CodeRepair) -> None:
    task = repair.draw(0, 0)
    assert repair.score(task, [assistant("Fixed it.")]) == 0.0
    source, path = task.state["files"][task.state["path"]], task.state["path"]
    answers = {case.arguments: case.expected for case in task.state["tests"]}
    cheat = f"def {task.state['function'].name}(*a):\n    return {answers!r}.get(repr(a))\n"
    call = ("edit_file", {"path": path, "old": source, "new": cheat})
    assert repair.score(task, [assistant("", call)]) == 0.0


def test_edits_follow_one_another(repair: CodeRepair) -> None:
    task = repair.draw(0, 1)
    path, source = task.state["path"], task.state["files"][task.state["path"]]
    first = assistant("", ("edit_file", {"path": path, "old": source, "new": "one\n"}))
    second = ("edit_file", {"path": path, "old": "one", "new": "two"})
    history = [first, {"role": "tool", "name": "edit_file", "content": "ok"}]
    assert repair.step(task, {"name": "read_file", "arguments": {"path": path}}, history) == "one"
    assert repair.step(task, {"name": second[0], "arguments": second[1]}, history) == "ok"
    assert workspace(task, [*history, assistant("", second)])[path] == "two\n"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"path": "b.py", "old": "x", "new": "y"}, "no file 'b.py'"),
        ({"path": "a.py", "old": "x", "new": "y"}, "occurs 2 times"),
        ({"path": "a.py", "old": "q", "new": "y"}, "occurs 0 times"),
        ({"path": "a.py", "old": "", "new": "y"}, "occurs 0 times"),
        ({"path": "a.py", "old": 1, "new": "y"}, "edit_file takes"),
    ],
)
def test_bad_edits_change_nothing(arguments: dict[str, object], answer: str) -> None:
    files = {"a.py": "x = x\n"}
    assert answer in apply_edit(files, arguments)
    assert files == {"a.py": "x = x\n"}


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["pass", "x = 1", "y = 2"]), min_size=1, max_size=8), st.data())
def test_an_edit_hits_its_line_even_among_equal_lines(body: list[str], data: st.DataObject) -> None:
    source = "\n".join(["def f():", *("    " + line for line in body)]) + "\n"
    line = data.draw(st.integers(1, len(body)))
    old, new = edit(source, line, "z = 3")
    files = {"f.py": source}
    assert apply_edit(files, {"path": "f.py", "old": old, "new": new}) == "ok"
    expected = source.split("\n")
    expected[line] = "    z = 3"
    assert files["f.py"] == "\n".join(expected)
