"""A few decoded texts of what a node made, or learned from, for its report."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from data_pipeline.inspection.samples import SampleView, draw_samples
from stemma.core.artifact import Artifact
from stemma.core.files import read_jsonl


def samples(artifacts: Mapping[str, Artifact], node: str, most: int) -> list[tuple[str, str]]:
    """What each is, in words, and its text; none for what is no text.

    Args:
        artifacts: the run's so far, by node name.
        node: one of them.
        most: how many at most.
    """
    artifact = artifacts[node]
    if artifact.kind == "plan":
        return _planned(artifacts, node.removeprefix("plan."), most)
    if f"plan.{node}" in artifacts:
        return _planned(artifacts, node, most)
    if artifact.kind in ("sft", "rl"):
        return _trained(artifacts, artifact, most)
    if artifact.kind == "evaluation":
        return _answers(artifact, most)
    return []


def _planned(artifacts: Mapping[str, Artifact], stage: str, most: int) -> list[tuple[str, str]]:
    return [(_about(view), _text(view)) for view in draw_samples(artifacts, stage, most)]


def _about(view: SampleView) -> str:
    return (
        f"sample {view.sample:,} of {view.stage}: {view.source} ({view.domain}), step {view.step:,}, row "
        f"{view.row}, {view.sequence_length:,} tokens"
    )


def _text(view: SampleView) -> str:
    return "".join(piece.text for piece in view.pieces)


def _trained(artifacts: Mapping[str, Artifact], artifact: Artifact, most: int) -> list[tuple[str, str]]:
    """Rows of the last step."""
    from posttrain.trace import step_rows

    step = int(artifact.summary["steps"]) - 1
    trajectories = artifacts["trajectories"].file("trajectories.jsonl")
    rows = step_rows(artifact.path, artifacts["tokenizer"].path, trajectories, step)
    return [(f"{row.source}, step {step:,}, row {row.row}: {row.about}", row.text) for row in rows[:most]]


def _answers(artifact: Artifact, most: int) -> list[tuple[str, str]]:
    """The first answer to an item of each task."""
    by_task: dict[str, dict[str, Any]] = {}
    for line in islice(read_jsonl(artifact.file("samples.jsonl")), 2000):
        by_task.setdefault(line["task"], line)
    return [
        (
            f"{task}: reward {line['reward']:g}, expected {line['answer']}",
            "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in line["messages"]),
        )
        for task, line in islice(by_task.items(), most)
    ]
