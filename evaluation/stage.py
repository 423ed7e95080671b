"""Evaluation: what a model of any training stage can do, measured on held-out tasks by playing them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from environments.base import FIRST_INDEX, final_answer
from environments.catalog import make_environment
from environments.sandbox import open_sandbox
from evaluation.config import EvaluationConfig
from posttrain.config import SamplingConfig
from posttrain.rollouts import Request, Rollout, play
from stemma.core.files import write_atomic, write_json
from stemma.core.stage import Stage, Workspace

RESULTS, SAMPLES = "results.json", "samples.jsonl"


class EvaluationStage(Stage):
    """Plays held-out items and scores them.

    Inputs: ``model`` (a training stage, with ``hf/``) and ``tokenizer``. Writes ``results.json`` and, to
    read, ``samples.jsonl``. The items depend on the config alone: every stage of a run answers the same ones.
    """

    kind: ClassVar[str] = "evaluation"
    recipe: ClassVar[int] = 1

    def run(self, work: Workspace) -> dict[str, Any]:
        from transformers import AutoModelForCausalLM

        from tokenizer.load import load

        config = cast(EvaluationConfig, self.config)
        model = AutoModelForCausalLM.from_pretrained(self.inputs["model"].path / "hf").eval()
        tokenizer = load(self.inputs["tokenizer"].path / "hf")
        items = requests(config, work.execution.sandbox)
        sampling = SamplingConfig(temperature=config.temperature)
        played: list[Rollout] = []
        for start in range(0, len(items), config.batch_size):
            played += play(model, tokenizer, items[start : start + config.batch_size], sampling)
            work.progress.step(len(played), len(items), "items")
        results: dict[str, dict[str, Any]] = {}
        transcripts: list[dict[str, Any]] = []
        first = 0
        for name, task in config.tasks.items():
            mine = played[first : first + task.items]
            results[name] = score(mine)
            transcripts += [{"task": name, **transcript(episode)} for episode in mine[: config.samples]]
            first += task.items
        write_json(work.path / RESULTS, {"model": self.inputs["model"].fingerprint, "tasks": results})
        write_samples(work.path / SAMPLES, transcripts)
        return {
            "scores": {name: result["reward"] for name, result in results.items()},
            "standard_errors": {name: result["standard_error"] for name, result in results.items()},
            "items": len(items),
        }


def requests(config: EvaluationConfig, sandbox: str = "auto") -> list[Request]:
    """The held-out episodes of every task, in the config's order: a pure function of the config.

    Args:
        config: tasks, items, seed.
        sandbox: name of the backend for model-written code.

    Raises:
        SandboxUnavailable: a task needs a sandbox and none works here.
    """
    needed = any(task.environment.kind != "reasoning" for task in config.tasks.values())
    shared = open_sandbox(sandbox) if needed else None
    made = []
    for task in config.tasks.values():
        environment = make_environment(task.environment, shared)
        for item in range(task.items):
            drawn = environment.draw(config.seed, FIRST_INDEX["evaluation"] + item, held_out=True)
            made.append(Request(drawn, environment, config.seed + item, task.max_new_tokens, task.max_turns))
    return made


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
