"""Maths answered with a Python tool: the model writes code, reads what it prints, and answers."""

import random
import re
from collections.abc import Sequence

from environments.base import (
    Call,
    Environment,
    Message,
    Script,
    Task,
    assistant,
    final_answer,
    function_schema,
)
from environments.config import PythonMathConfig
from environments.math_questions import TEMPLATES, Difficulty, Question
from environments.sandbox import Limits, Sandbox, SandboxResult, Snippet
from stemma.core.errors import StemmaError

TOOL = function_schema("python", "Run Python code and return what it prints.", code="")
LIMITS = Limits(timeout_s=2.0, memory_mb=256, output_limit=4096)
SHOWN = 200  # characters of output a model is shown


class PythonMath(Environment):
    """Questions from `math_questions`, a `python` tool, and the exact answer as the score."""

    name = "python_math"
    max_turns = 4

    def __init__(self, config: PythonMathConfig, sandbox: Sandbox) -> None:
        unknown = sorted(set(config.templates) - TEMPLATES.keys())
        if unknown:
            raise StemmaError(f"python_math has no templates {unknown}; it has: {', '.join(TEMPLATES)}")
        self.config = config
        self.sandbox = sandbox
        self.level = Difficulty(config.digits, config.operands)

    def task(self, seed: int, index: int) -> Task:
        """See `Environment.task`."""
        rng = random.Random(f"{self.name}:{seed}:{index}")
        template = rng.choice(self.config.templates)
        question = TEMPLATES[template](rng, self.level)
        asks = question.asks[: self.config.phrasings]
        return Task(
            id=f"{self.name}:{seed}:{index}",
            environment=self.name,
            seed=seed,
            index=index,
            messages=({"role": "user", "content": rng.choice(asks)},),
            tools=(TOOL,),
            answer=question.answer,
            meta={
                "template": template,
                "mistake": bool(question.slips) and rng.random() < self.config.mistakes,
            },
            state={"question": question},
        )

    def script(self, task: Task) -> Script:
        """See `Environment.script`: a program, or a wrong one first, then the answer as printed."""
        rng = random.Random(f"{task.id}:expert")
        question: Question = task.state["question"]
        thought = question.thought
        if task.meta["mistake"]:
            wrong, lesson = rng.choice(question.slips)
            outputs = yield assistant(think(thought), ("python", {"code": wrong}))
            if (
                outputs[0] != task.answer
            ):  # a slip may hit the right answer by chance; then there is nothing to fix
                thought = lesson
                outputs = yield assistant(think(thought), ("python", {"code": rng.choice(question.programs)}))
        else:
            content = think(thought) if self.config.thoughts else ""
            outputs = yield assistant(content, ("python", {"code": rng.choice(question.programs)}))
        yield assistant(outputs[0])

    def step_many(self, calls: Sequence[Call]) -> list[str]:
        """See `Environment.step_many`: the programs of all calls share a sandbox start."""
        contents: dict[int, str] = {}
        snippets: dict[int, Snippet] = {}
        for number, call in enumerate(calls):
            arguments = call.function.get("arguments")
            if call.function.get("name") != "python":
                contents[number] = f"error: there is no tool {call.function.get('name')!r}; use python"
            elif not isinstance(arguments, dict) or not isinstance(arguments.get("code"), str):
                contents[number] = 'error: python takes {"code": "..."}'
            else:
                snippets[number] = Snippet(arguments["code"])
        results = self.sandbox.run_many(list(snippets.values()), LIMITS)
        contents |= {number: show(result) for number, result in zip(snippets, results)}
        return [contents[number] for number in range(len(calls))]

    def score_many(self, episodes: Sequence[tuple[Task, Sequence[Message]]]) -> list[float]:
        """See `Environment.score_many`: 1 for the exact answer, 0 otherwise."""
        return [float(same_answer(final_answer(messages), task.answer)) for task, messages in episodes]


def think(thought: str) -> str:
    return f"<think>{thought}</think>"


def same_answer(given: str, gold: str) -> bool:
    """Equal texts, but for a closing period and spaces; numbers may be written with separators or `.0`."""
    given, gold = given.strip().rstrip(".").strip(), gold.strip()
    if given == gold:
        return True
    try:
        return float(given.replace(",", "")) == float(gold) and "e" not in given.lower()
    except ValueError:
        return False


def show(result: SandboxResult) -> str:
    """What a model is shown of a run: what it printed, else its last value, else why it failed.

    Short, and the same in every sandbox: no traceback, no paths, no times.
    """
    if result.timed_out:
        return "error: timed out"
    if result.truncated:
        return "error: too much output"
    if result.exit_code != 0:
        return error_line(result.stderr)
    text = result.stdout.strip() or result.value or ""
    if not text:
        return "error: nothing was printed"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def error_line(stderr: str) -> str:
    """The last line of a traceback, without the suggestions some Python versions add."""
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    last = re.sub(r"\. Did you .*$", "", lines[-1]) if lines else "error: the program was stopped"
    return last[:SHOWN]
