"""Evaluation: what a model of any training stage can do, measured on held-out tasks by playing them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from environments.base import FIRST_INDEX, Environment, Task, final_answer
from environments.catalog import make_environments
from evaluation.config import EvaluationConfig
from posttrain.config import SamplingConfig
from posttrain.rollouts import Request, Rollout, play
from stemma.core.files import write_atomic, write_json
from stemma.core.stage import Stage, Workspace

RESULTS, SAMPLES = "results.json", "samples.jsonl"
PATIENCE = 8  # draws per item that is asked for, until an environment counts as having no more questions


class EvaluationStage(Stage):
    """Plays held-out items and scores them.

    Inputs: ``model`` (a training stage, with ``hf/``) and ``tokenizer``. Writes ``results.json`` and, to
    read, ``samples.jsonl``. The items depend on the config alone: every stage of a run answers the same ones.
    """

    kind: ClassVar[str] = "evaluation"
    recipe: ClassVar[int] = 1

    def run(self, work: Workspace) -> dict[str, Any]:
        from posttrain.load import load_model
        from tokenizer.load import load

        config = cast(EvaluationConfig, self.config)
        model = load_model(self.inputs["model"].path / "hf")
        tokenizer = load(self.inputs["tokenizer"].path / "hf")
        items = requests(config, work.execution.sandbox)
        every = [request for task in items.values() for request in task]
        sampling = SamplingConfig(temperature=config.temperature)
        played: list[Rollout] = []
        for start in range(0, len(every), config.batch_size):
            played += play(model, tokenizer, every[start : start + config.batch_size], sampling)
            work.progress.step(len(played), len(every), "items")
        results: dict[str, dict[str, Any]] = {}
        transcripts: list[dict[str, Any]] = []
        for name, task in items.items():
            mine, played = played[: len(task)], played[len(task) :]
            results[name] = score(mine)
            transcripts += [{"task": name, **transcript(episode)} for episode in mine[: config.samples]]
        write_json(work.path / RESULTS, {"model": self.inputs["model"].fingerprint, "tasks": results})
        write_samples(work.path / SAMPLES, transcripts)
        return {
            "scores": {name: result["reward"] for name, result in results.items()},
            "standard_errors": {name: result["standard_error"] for name, result in results.items()},
            "items": len(every),
        }


def requests(config: EvaluationConfig, sandbox: str = "auto") -> dict[str, list[Request]]:
    """The held-out episodes of every task: a pure function of the config.

    Args:
        config: tasks, items, seed.
        sandbox: name of the backend for model-written code.

    Raises:
        SandboxUnavailable: a task needs a sandbox and none works here.
    """
    environments = make_environments({name: task.environment for name, task in config.tasks.items()}, sandbox)
    return {
        name: [
            Request(drawn, environments[name], config.seed + number, task.max_new_tokens, task.max_turns)
            for number, drawn in enumerate(distinct(environments[name], config.seed, task.items))
        ]
        for name, task in config.tasks.items()
    }


def distinct(environment: Environment, seed: int, count: int) -> list[Task]:
    """Up to ``count`` held-out tasks with different questions; fewer where an environment has fewer.

    A question asked twice would be answered twice alike and make the standard error look smaller than it is.
    """
    found: dict[str, Task] = {}
    for index in range(PATIENCE * count):
        task = environment.draw(seed, FIRST_INDEX["evaluation"] + index, held_out=True)
        found.setdefault(json.dumps(task.messages), task)
        if len(found) == count:
            break
    return list(found.values())


def score(episodes: Sequence[Rollout]) -> dict[str, Any]:
    """Figures of one task.

    Returns:
        ``items``, ``reward`` (mean, 0 to 1), ``standard_error`` of that mean (0 for a single item),
        ``format_rate`` (share that ended by themselves with an answer) and ``tokens`` (mean, written by the
        model).
    """
    rewards = [episode.score for episode in episodes]
    count = len(rewards)
    mean = math.fsum(rewards) / count
    spread = math.fsum((reward - mean) ** 2 for reward in rewards)
    return {
        "items": count,
        "reward": mean,
        "standard_error": math.sqrt(spread / (count - 1) / count) if count > 1 else 0.0,
        "format_rate": sum(answered(episode) for episode in episodes) / count,
        "tokens": sum(sum(episode.mask) for episode in episodes) / count,
    }


def answered(episode: Rollout) -> bool:
    """Whether an episode ended by itself and said something after thinking and calling tools."""
    return not episode.truncated and final_answer(episode.messages) != ""


def transcript(episode: Rollout) -> dict[str, Any]:
    """What a person wants to read of an episode."""
    return {
        "id": episode.task.id,
        "messages": [*episode.task.messages, *episode.messages],
        "answer": episode.task.answer,
        "reward": episode.score,
        "truncated": episode.truncated,
    }


def write_samples(path: Path, transcripts: Sequence[dict[str, Any]]) -> None:
    lines = (json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n" for value in transcripts)
    write_atomic(path, "".join(lines))
