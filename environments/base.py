"""What every environment is: tasks that are pure functions of (seed, index), tools that really run, and a
scorer.

Which tasks are for what: a question whose hash says so is *held out* (one in eight). Trajectories and RL draw
only from the others, evaluation only from these, so that no question is trained on and measured. Index ranges
(`FIRST_INDEX`) keep the three uses apart besides.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stemma.core.errors import StemmaError

Message = dict[str, Any]
Script = Generator[Message, list[str], None]

FIRST_INDEX = {"trajectories": 0, "rl": 1_000_000, "evaluation": 2_000_000}
HELD_OUT_ONE_IN = 8
DRAWS = 128  # raw tasks looked at per drawn task: all on the wrong side with probability (7/8)^128 < 1e-7


class InvalidTask(StemmaError):
    """A task whose own expert does not solve it."""


@dataclass(frozen=True)
class Task:
    """One problem.

    Attributes:
        id: `environment:seed:index`.
        environment: its environment's name.
        seed: of the series it belongs to.
        index: its place in that series.
        messages: what the model sees first: a user message, perhaps a system message before it.
        tools: OpenAI function schemas; empty for tasks without tools.
        answer: the gold answer; empty where success is a state and not a text.
        meta: small JSON facts about it, for records.
        state: what the environment needs to act and to score; not for records.
        key: what decides whether it is held out; the user's words unless the environment says otherwise.
    """

    id: str
    environment: str
    seed: int
    index: int
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    key: str = ""


@dataclass(frozen=True)
class Call:
    """A tool call to carry out: `function` is `{"name":, "arguments": {...}}`, `history` what came before."""

    task: Task
    function: Mapping[str, Any]
    history: Sequence[Message] = ()


class Environment(ABC):
    """Tasks of one sort.

    Attributes:
        name: in a profile, and in records.
        max_turns: assistant messages after which an episode ends.
        licence: of the text of its tasks.
    """

    name: str
    max_turns: int = 1
    licence: str = "Apache-2.0"

    @abstractmethod
    def task(self, seed: int, index: int) -> Task:
        """The task at `index` of series `seed`: a pure function of both, whatever was asked for before."""

    @abstractmethod
    def script(self, task: Task) -> Script:
        """The scripted expert: yields assistant messages, and is sent the outputs of their tool calls."""

    @abstractmethod
    def score_many(self, episodes: Sequence[tuple[Task, Sequence[Message]]]) -> list[float]:
        """Rewards in [0, 1] of finished episodes, each a task and all messages after its own."""

    def step_many(self, calls: Sequence[Call]) -> list[str]:
        """Carry out tool calls and return the contents of the tool messages, in order.

        A call a model got wrong (unknown tool, bad arguments) is answered with an `error: ...` text, not
        raised.
        """
        return [f"error: there is no tool {call.function.get('name')!r}" for call in calls]

    def step(self, task: Task, tool_call: Mapping[str, Any], history: Sequence[Message] = ()) -> str:
        """Carry out one tool call: `{"name":, "arguments":}`, or that inside `{"function": ...}`."""
        return self.step_many([Call(task, tool_call.get("function", tool_call), history)])[0]

    def score(self, task: Task, messages: Sequence[Message]) -> float:
        """Reward in [0, 1] of one finished episode."""
        return self.score_many([(task, messages)])[0]

    def draw(self, seed: int, index: int, held_out: bool = False) -> Task:
        """The `index`-th task of a series that is (or is not) held out; a pure function of its arguments."""
        for raw in range(index * DRAWS, (index + 1) * DRAWS):
            task = self.task(seed, raw)
            if is_held_out(task) == held_out:
                return task
        side = "held-out" if held_out else "training"
        raise InvalidTask(
            f"{self.name}: no {side} task among {DRAWS} draws: its questions hardly vary; widen its config"
        )

    def experts(self, tasks: Sequence[Task]) -> list[list[Message]]:
        """Run the experts of many tasks side by side, so that their tool calls share sandboxes."""
        scripts = [self.script(task) for task in tasks]
        episodes: list[list[Message]] = [[] for _ in tasks]
        outputs: dict[int, list[str]] = {}
        running = set(range(len(tasks)))
        while running:
            calls: list[Call] = []
            owners: list[int] = []
            for number in sorted(running):
                try:
                    message = (
                        scripts[number].send(outputs[number]) if number in outputs else next(scripts[number])
                    )
                except StopIteration:
                    running.discard(number)
                    continue
                episodes[number].append(message)
                made = [call["function"] for call in message.get("tool_calls", ())]
                calls += [Call(tasks[number], function, tuple(episodes[number][:-1])) for function in made]
                owners += [number] * len(made)
                outputs[number] = []
            for number, call, content in zip(owners, calls, self.step_many(calls)):
                outputs[number].append(content)
                episodes[number].append({"role": "tool", "name": call.function["name"], "content": content})
        return episodes

    def expert(self, task: Task) -> list[Message]:
        """The expert's episode: assistant messages, and tool messages from really running its calls."""
        return self.experts([task])[0]

    def validate(self, task: Task) -> None:
        """Require that the expert solves the task.

        Raises:
            InvalidTask: it scores less than 1.
        """
        reward = self.score(task, self.expert(task))
        if reward != 1.0:
            raise InvalidTask(f"task {task.id}: its expert scores {reward}, expected 1.0")


def is_held_out(task: Task) -> bool:
    """Whether a task is kept for evaluation: a property of its question, not of its place in a series."""
    text = task.key or "\n".join(message["content"] for message in task.messages if message["role"] == "user")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % HELD_OUT_ONE_IN == 0


def assistant(content: str, *calls: tuple[str, dict[str, Any]]) -> Message:
    """An assistant message, with tool calls `(name, arguments)` if any."""
    message: Message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [
            {"type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in calls
        ]
    return message


def function_schema(name: str, description: str, **parameters: str) -> dict[str, Any]:
    """An OpenAI function schema whose parameters are all required strings, given as name=description."""
    properties = {
        key: {"type": "string", **({"description": text} if text else {})} for key, text in parameters.items()
    }
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": list(parameters)},
        },
    }


def final_answer(messages: Sequence[Message]) -> str:
    """The last assistant message after its thinking; empty if it calls tools or never stops thinking."""
    for message in reversed(messages):
        if message["role"] == "assistant":
            content = message.get("content") or ""
            if message.get("tool_calls") or ("<think>" in content and "</think>" not in content):
                return ""
            return content.rpartition("</think>")[2].strip()
    return ""
