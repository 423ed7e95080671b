"""A stage's checkpoints: their rolling hash, milestones, and what they refuse to be continued with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain import checkpoint
from pretrain.checkpoint.chain import START, check, link
from pretrain.checkpoint.retention import is_milestone, superfluous
from pretrain.loop import Stopped
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_jsonl
from tests.pretrain.conftest import LOOP_STEPS

Run = Callable[..., dict[str, Any]]


def chained(folder: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / "artifact" / "checkpoints.jsonl"))


def test_an_interrupted_run_leaves_the_same_chain_of_hashes(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "straight", checkpoint_every=2)
    for stop_after in (3, 2):  # one between two regular checkpoints, one at a regular one
        with pytest.raises(Stopped):
            run(tmp_path / "stopped", stop_after=stop_after, checkpoint_every=2, async_checkpoints=False)
    newest = checkpoint.list_checkpoints(tmp_path / "stopped" / "artifact" / ".scratch" / "checkpoint")[-1]
    (newest / "random.json").write_text("[]")  # fall back: lines of what is done again are cut off
    run(tmp_path / "stopped", checkpoint_every=2)
    lines = chained(tmp_path / "straight")
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert chained(tmp_path / "stopped") == lines
    assert check(tmp_path / "straight" / "artifact" / "checkpoints.jsonl") == 4
    assert lines[0]["chain_sha256"] == link(START, 2, lines[0]["state_sha256"])


def test_another_seed_gives_another_chain_from_its_first_line(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "one", seed=1)
    run(tmp_path / "two", seed=2)
    one, two = chained(tmp_path / "one"), chained(tmp_path / "two")
    assert all(mine["chain_sha256"] != other["chain_sha256"] for mine, other in zip(one, two, strict=True))


@given(st.lists(st.text("0123456789abcdef", min_size=4, max_size=4), min_size=2, max_size=6), st.data())
def test_a_chain_that_was_tampered_with_is_found_out(
    tmp_path_factory: pytest.TempPathFactory, states: list[str], data: st.DataObject
) -> None:
    path, previous, lines = tmp_path_factory.getbasetemp() / "checkpoints.jsonl", START, []
    for step, state in enumerate(states):
        previous = link(previous, step, state)
        lines.append({"step": step, "state_sha256": state, "chain_sha256": previous})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert check(path) == len(lines)
    at = data.draw(st.integers(0, len(lines) - 2))
    if data.draw(st.booleans()):
        del lines[at]
    else:
        lines[at]["state_sha256"] = "altered"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DamagedError, match="does not follow"):
        check(path)


def test_milestones_are_kept_beside_the_newest_and_become_part_of_the_artifact(
    run: Run, tmp_path: Path
) -> None:
    fields = {"checkpoint_every": 2, "keep_checkpoints": 1, "keep_every": 3}
    with pytest.raises(Stopped):
        run(tmp_path, stop_after=7, **fields)
    artifact = tmp_path / "artifact"
    working = checkpoint.list_checkpoints(artifact / ".scratch" / "checkpoint")
    assert [checkpoint.step_of(folder) for folder in working] == [3, 6, 7]
    run(tmp_path, **fields)
    kept = checkpoint.list_checkpoints(artifact / "milestones")
    assert [checkpoint.step_of(folder) for folder in kept] == [3, 6]
    for folder in [*kept, artifact / "checkpoint"]:
        checkpoint.verify(folder)
    assert [line["step"] for line in chained(tmp_path)] == [2, 3, 4, 6, 8]


@given(
    st.sets(st.integers(1, 200), max_size=20),
    st.integers(1, 5),
    st.integers(0, 7),
    st.integers(0, 50),
)
def test_what_may_go_is_never_new_nor_a_milestone(
    steps: set[int], keep: int, keep_every: int, reach: int
) -> None:
    there = [checkpoint.step_folder(Path("x"), step) for step in sorted(steps)]
    gone = superfluous(there, keep, keep_every, reach)
    stay = [checkpoint.step_of(folder) for folder in there if folder not in gone]
    assert set(sorted(steps)[-keep:]) <= set(stay)
    assert {step for step in steps if is_milestone(step, keep_every)} <= set(stay)
    if any(step <= max(steps) - reach for step in steps):
        assert any(step <= max(steps) - reach for step in stay)
    others = [step for step in stay if not is_milestone(step, keep_every)]
    assert len(others) <= keep + 1


def test_a_checkpoint_of_another_training_is_refused_and_says_what_differs(run: Run, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, stop_after=3)
    schedule = {"peak_lr": 1e-3, "shape": "cosine", "warmup_steps": 3, "end_lr": 3e-4}
    with pytest.raises(StemmaError, match=r"training\.schedule\.peak_lr: 0\.003 -> 0\.001"):
        run(tmp_path, schedule=schedule)
    resumed = run(tmp_path, checkpoint_every=3, keep_checkpoints=5, micro_batch_size=4)  # how, not what
    assert resumed["summary"]["resumed_from"] == 3
    assert resumed["summary"]["steps"] == LOOP_STEPS
