"""reasoning-gym as an environment: its questions, its scorers, no tools."""

import functools
from collections.abc import Sequence
from typing import Any

from environments.base import Environment, Message, Script, Task, assistant, final_answer
from environments.config import ReasoningConfig
from environments.thoughts import THOUGHTS
from stemma.core.errors import StemmaError

SIZE = 2**40  # data sets are infinite in principle; the number only bounds their own iteration


class Reasoning(Environment):
    """Questions of one reasoning-gym data set, scored by its own `score_answer`."""

    max_turns = 1

    def __init__(self, config: ReasoningConfig) -> None:
        self.config = config
        self.name = config.dataset
        self._dataset(0)  # a wrong name or parameter is an error now, not at the first task

    @functools.lru_cache(maxsize=4)  # noqa: B019 - an environment lives as long as its process
    def _dataset(self, seed: int) -> Any:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS

        if self.config.dataset not in DATASETS:
            raise StemmaError(
                f"reasoning-gym has no data set {self.config.dataset!r}; it has: "
                f"{', '.join(sorted(DATASETS))}"
            )
        try:
            return reasoning_gym.create_dataset(
                self.config.dataset, seed=seed, size=SIZE, **self.config.parameters
            )
        except (TypeError, ValueError, AssertionError) as error:
            raise StemmaError(
                f"reasoning-gym refuses the parameters of {self.config.dataset!r}: {error}"
            ) from error

    def task(self, seed: int, index: int) -> Task:
        """See `Environment.task`. The series is the data set's own: `Random(seed + index)`."""
        entry = self._dataset(seed)[index]
        question = entry["question"].strip()
        if self.config.instruction:
            question = f"{question}\n{self.config.instruction}"
        return Task(
            id=f"{self.name}:{seed}:{index}",
            environment=self.name,
            seed=seed,
            index=index,
            messages=({"role": "user", "content": question},),
            tools=(),
            answer=str(entry["answer"]),
            meta={"dataset": self.config.dataset},
            state={"entry": entry},
        )

    def script(self, task: Task) -> Script:
        """See `Environment.script`: a worked thought where the data set's facts give one, then the answer."""
        think = THOUGHTS.get(self.config.dataset)
        thought = think(task.state["entry"]["metadata"]) if think else ""
        yield assistant(f"<think>{thought}</think>{task.answer}" if thought else task.answer)

    def score_many(self, episodes: Sequence[tuple[Task, Sequence[Message]]]) -> list[float]:
        """See `Environment.score_many`. Uses each data set's own scorer."""
        rewards = []
        for task, messages in episodes:
            answer = final_answer(messages)
            score = (
                self._dataset(task.seed).score_answer(answer=answer, entry=task.state["entry"])
                if answer
                else 0.0
            )
            rewards.append(min(1.0, max(0.0, float(score))))
        return rewards
