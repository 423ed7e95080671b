"""Repairing real functions: one injected fault, a test that fails, and tools to read, edit and test."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from environments.base import Call, Environment, Message, Script, Task, assistant, function_schema
from environments.config import CodeRepairConfig
from environments.faults import KINDS, Fault, bounded, faults
from environments.python_math import error_line, think
from environments.sandbox import Limits, Sandbox, SandboxResult, SandboxUnavailable, Snippet, open_sandbox
from environments.stdlib_functions import HARNESS, Case, Function, library_functions, spread

TOOLS = (
    function_schema("run_tests", "Run the tests."),
    function_schema("read_file", "Read a file.", path=""),
    function_schema("edit_file", "Replace a text that occurs once in a file.", path="", old="", new=""),
)
LIMITS = Limits(timeout_s=2.0, memory_mb=256, output_limit=8192)
HIDDEN = 12  # further cases an episode is scored on

RUN_TESTS = """
failed = 0
for arguments, expected in {cases}:
    got = outcome(eval(arguments))
    if got != expected:
        failed += 1
        print("FAIL {name}" + arguments.replace(",)", ")") + ": expected " + expected + ", got " + got[:80])
print(str({count} - failed) + " passed, " + str(failed) + " failed")
"""


@dataclass(frozen=True)
class Broken:
    """A fault and the cases that show it."""

    fault: Fault
    shown_by: tuple[Case, ...]


class CodeRepair(Environment):
    """Functions of the running standard library, each in its own file, with one fault that tests detect."""

    name = "code_repair"
    max_turns = 8
    licence = "PSF-2.0"

    def __init__(self, config: CodeRepairConfig, sandbox: Sandbox) -> None:
        self.config = config
        self.sandbox = sandbox
        self.finder = open_sandbox("monty")  # see library_functions
        self.functions = library_functions(config.max_lines)
        if not self.functions:
            raise SandboxUnavailable(
                "no function of this Python's standard library could be tested in the sandbox"
            )
        self._broken: dict[int, tuple[Broken, ...]] = {}

    def broken(self, number: int) -> tuple[Broken, ...]:
        """The faults of a function that its cases detect and that end; found once, by running each."""
        if number not in self._broken:
            function = self.functions[number]
            options = faults(function.source)
            calls = ", ".join(case.arguments for case in function.cases)
            report = f"import json\nprint(json.dumps([outcome(a) for a in [{calls}]]))\n"
            snippets = [
                Snippet(bounded(option.source) + HARNESS.format(name=function.name) + report)
                for option in options
            ]
            results = self.finder.run_many(snippets, Limits(timeout_s=5.0, output_limit=200_000))
            found = []
            for option, result in zip(options, results):
                got = json.loads(result.stdout) if result.ok else []
                shown_by = tuple(case for case, text in zip(function.cases, got) if text != case.expected)
                # a text that names an object's address could differ between runs
                if shown_by and "TimeoutError" not in got and not any("<" in text for text in got):
                    found.append(Broken(option, shown_by))
            self._broken[number] = tuple(found)
        return self._broken[number]

    def task(self, seed: int, index: int) -> Task:
        """See `Environment.task`. Depends on the running Python's standard library besides."""
        rng = random.Random(f"{self.name}:{seed}:{index}")
        options: tuple[Broken, ...] = ()
        while not options:
            number = rng.randrange(len(self.functions))
            options = self.broken(number)
        function = self.functions[number]
        kinds = sorted({option.fault.kind for option in options})
        # every function has a return to lose: taken often, it would drown the rest
        kind = rng.choice([kind for kind in kinds if kind != "return"] or kinds)
        chosen = rng.choice([option for option in options if option.fault.kind == kind])
        # every test file has a failing case and, where there is one, a passing one
        failing = spread(list(chosen.shown_by), rng)[: rng.randint(1, max(1, self.config.tests // 2))]
        passing = spread([case for case in function.cases if case not in chosen.shown_by], rng)
        tests = (failing + passing)[: self.config.tests]
        rng.shuffle(tests)
        rest = [case for case in function.cases if case not in tests]
        hidden = rng.sample(rest, min(HIDDEN, len(rest)))
        path = f"{function.module.rpartition('.')[2]}.py"
        ask = rng.choice(
            (
                "The tests of {name} in {path} fail. Fix it.",
                "Something is wrong with {name} in {path}. Repair it so that the tests pass.",
                "{path}: {name} gives wrong results. Find the fault and fix it.",
            )
        ).format(name=function.name, path=path)
        return Task(
            id=f"{self.name}:{seed}:{index}",
            environment=self.name,
            seed=seed,
            index=index,
            messages=({"role": "user", "content": ask},),
            tools=TOOLS,
            answer="",
            meta={
                "function": f"{function.module}.{function.name}",
                "fault": kind,
                "mistake": rng.random() < self.config.mistakes,
            },
            state={
                "function": function,
                "fault": chosen.fault,
                "path": path,
                "files": {path: chosen.fault.source},
                "tests": tests,
                "hidden": hidden,
                "others": [
                    option.fault
                    for option in options
                    if option.fault.line == chosen.fault.line
                    and option is not chosen
                    and not set(tests).isdisjoint(option.shown_by)
                ],
            },
            key=function.source,
        )

    def script(self, task: Task) -> Script:
        """See `Environment.script`: test, read, edit (perhaps wrongly first), test, sum up."""
        rng = random.Random(f"{task.id}:expert")
        fault: Fault = task.state["fault"]
        function: Function = task.state["function"]
        path = task.state["path"]
        outputs = yield assistant(think("First I see what fails."), ("run_tests", {}))
        failure = outputs[0].splitlines()[0].removeprefix("FAIL ")
        yield assistant(think(f"{failure}. I read the code."), ("read_file", {"path": path}))
        if task.meta["mistake"] and task.state["others"]:
            wrong: Fault = rng.choice(task.state["others"])
            old, new = edit(fault.source, fault.line, wrong.wrong)
            yield assistant(
                think(f"I suspect `{fault.wrong}`."), ("edit_file", {"path": path, "old": old, "new": new})
            )
            yield assistant("", ("run_tests", {}))
            old, new = edit(wrong.source, fault.line, fault.right)
            thought = f"Still failing, so that was not it. It must be `{fault.right}`."
            yield assistant(think(thought), ("edit_file", {"path": path, "old": old, "new": new}))
            yield assistant("", ("run_tests", {}))
        else:
            old, new = edit(fault.source, fault.line, fault.right)
            thought = f"In `{fault.wrong}` {KINDS[fault.kind]}. It must be `{fault.right}`."
            yield assistant(think(thought), ("edit_file", {"path": path, "old": old, "new": new}))
            yield assistant("", ("run_tests", {}))
        yield assistant(f"Fixed {function.name}: {KINDS[fault.kind]} in `{fault.wrong}`. All tests pass.")

    def step_many(self, calls: Sequence[Call]) -> list[str]:
        """See `Environment.step_many`. The files are what the edits in a call's history made of them."""
        contents: dict[int, str] = {}
        runs: dict[int, Snippet] = {}
        for number, call in enumerate(calls):
            files = workspace(call.task, call.history)
            name, arguments = call.function.get("name"), call.function.get("arguments")
            if not isinstance(arguments, dict):
                contents[number] = "error: arguments must be an object"
            elif name == "run_tests":
                runs[number] = self.test_snippet(call.task, files, call.task.state["tests"])
            elif name == "read_file":
                contents[number] = files.get(
                    str(arguments.get("path")), f"error: no file {arguments.get('path')!r}"
                )
            elif name == "edit_file":
                contents[number] = apply_edit(files, arguments)
            else:
                contents[number] = f"error: there is no tool {name!r}; use run_tests, read_file or edit_file"
        results = self.sandbox.run_many(list(runs.values()), LIMITS)
        contents |= {number: report(result) for number, result in zip(runs, results)}
        return [contents[number].rstrip("\n") for number in range(len(calls))]

    def test_snippet(self, task: Task, files: Mapping[str, str], cases: Sequence[Case]) -> Snippet:
        """A program that runs cases against the file as it is now."""
        name = task.state["function"].name
        pairs = repr([(case.arguments, case.expected) for case in cases])
        harness = HARNESS.format(name=name) + RUN_TESTS.format(cases=pairs, count=len(cases), name=name)
        return Snippet(files[task.state["path"]] + harness)

    def score_many(self, episodes: Sequence[tuple[Task, Sequence[Message]]]) -> list[float]:
        """See `Environment.score_many`: 1 if the files as left pass the shown tests and more, else 0."""
        snippets = [
            self.test_snippet(task, workspace(task, messages), [*task.state["tests"], *task.state["hidden"]])
            for task, messages in episodes
        ]
        results = self.sandbox.run_many(snippets, LIMITS)
        return [float(result.ok and result.stdout.rstrip().endswith(" 0 failed")) for result in results]


def edit(source: str, line: int, new: str) -> tuple[str, str]:
    """The shortest `(old, new)` of whole lines ending in `line` whose old text occurs once."""
    lines = source.split("\n")
    for first in range(line, -1, -1):
        old = "\n".join(lines[first : line + 1]).lstrip()
        if occurrences(source, old) == 1:
            indent = lines[line][: len(lines[line]) - len(lines[line].lstrip())]
            return old, "\n".join([*lines[first:line], indent + new]).lstrip()
    raise ValueError("a source that repeats itself from its first line on")


def occurrences(text: str, part: str) -> int:
    """How often a part occurs, overlapping occurrences included (`str.count` leaves those out)."""
    return sum(text.startswith(part, place) for place in range(len(text))) if part else 0


def apply_edit(files: dict[str, str], arguments: Mapping[str, object]) -> str:
    """Carry out an `edit_file` call on the files; returns what the model is told."""
    path, old, new = (arguments.get(key) for key in ("path", "old", "new"))
    if not (isinstance(path, str) and isinstance(old, str) and isinstance(new, str)):
        return 'error: edit_file takes {"path": "...", "old": "...", "new": "..."}'
    if path not in files:
        return f"error: no file {path!r}"
    if (times := occurrences(files[path], old)) != 1:
        return f"error: old occurs {times} times, not once"
    files[path] = files[path].replace(old, new)
    return "ok"


def workspace(task: Task, messages: Sequence[Message]) -> dict[str, str]:
    """The task's files after every edit in an episode so far."""
    files = dict(task.state["files"])
    for message in messages:
        for call in message.get("tool_calls") or ():
            arguments = call["function"].get("arguments")
            if call["function"].get("name") == "edit_file" and isinstance(arguments, dict):
                apply_edit(files, arguments)
    return files


def report(result: SandboxResult) -> str:
    """What a model is shown of a test run."""
    if result.timed_out:
        return "error: the tests timed out"
    if result.truncated:
        return "error: the tests printed too much"
    if result.exit_code != 0:
        return error_line(result.stderr)
    return re.sub(r" at 0x[0-9a-f]+", "", result.stdout).strip()
