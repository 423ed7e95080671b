"""``stemma checkpoints``: on a stage that was interrupted, and on one that is finished."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pretrain import checkpoint
from pretrain.checkpoint.chain import START, link
from stemma.cli_checkpoints import app
from stemma.core.artifact import Store
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, write_json
from stemma.core.progress import Progress
from stemma.core.stage import lock, lock_path
from tests.pretrain.helpers import build, train

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints of a stage."""
    root, engine = tmp_path_factory.mktemp("saved"), build()
    for step in (1, 2, 3):
        train(engine, step - 1, step)
        engine.save(checkpoint.step_folder(root, step), {"step": step})
    engine.close()
    return root


@pytest.fixture
def working(saved: Path, tmp_path: Path) -> Path:
    """The checkpoints of run ``tiny``, whose stage ``stem`` was interrupted; the first is a milestone."""
    store, fingerprint = Store(tmp_path), "f" * 64
    folder = store.folder("stem", fingerprint)
    shutil.copytree(saved, folder / ".scratch" / "checkpoint")
    node = {"fingerprint": fingerprint, "identity": {"inputs": {}}}
    write_json(tmp_path / "tiny" / "run.json", {"profile": "tiny", "nodes": {"stem": node}})
    write_json(folder / ".scratch" / "job.json", {"training": {"keep_every": 1_000}})
    return folder / ".scratch" / "checkpoint"


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """``call(command, *options)`` on run ``tiny``; an error is raised as ``stemma`` would see it."""

    def call(command: str, *options: str, answer: str = "") -> Result:
        arguments = [command, "tiny", "--root", str(tmp_path), *options]
        result = CliRunner().invoke(app, arguments, input=answer)
        if isinstance(result.exception, StemmaError):
            raise result.exception
        return result

    return call


def names(working: Path) -> list[str]:
    return sorted(path.name for path in working.iterdir())


def damage(folder: Path) -> None:
    (folder / "extra.json").write_text('{"extra": {"step": 0}}')


def test_the_list_says_what_is_there(working: Path, call: Call) -> None:
    (working / "step-00000002").rename(working / ".step-00000002.damaged")
    output = call("list").output
    assert [re.split(r"\s+", line.strip())[:3] for line in output.splitlines()[1:3]] == [
        ["stem", "checkpoint", "1"],
        ["stem", "checkpoint", "3"],
    ]
    assert re.search(r"stem\s+set aside\s+2 ", output)
    assert "3 checkpoints" in output
    with pytest.raises(StemmaError, match="'sft' of run 'tiny' has no checkpoint; these have: stem"):
        call("list", "--stage", "sft")


def test_verifying_names_what_is_damaged(working: Path, call: Call) -> None:
    chain = working.parent.parent / "checkpoints.jsonl"

    def chained(state: str) -> None:
        line = {"step": 1, "state_sha256": state, "chain_sha256": link(START, 1, state)}
        chain.write_text(json.dumps(line) + "\n")

    chained("a")
    with pytest.raises(DamagedError, match=r"step-00000001 holds another state of step 1 than .*jsonl"):
        call("verify")
    chained(read_json(working / "step-00000001" / "record.json")["state_sha256"])
    assert call("verify").output.count("good") == 4
    damage(working / "step-00000002")
    (working / "step-00000001" / "record.json").write_text("{")
    chain.write_text(chain.read_text().replace("chain", "chaim"))
    with pytest.raises(DamagedError) as caught:
        call("verify")
    for problem in ("step-00000002 is damaged", "  extra.json: ", "  record.json: ", "jsonl:1: the hash of"):
        assert problem in str(caught.value)
    assert "step-00000001" in call("list").output  # a list of what is there all the same


def test_pruning_asks_and_keeps_the_newest_good_one_and_milestones(working: Path, call: Call) -> None:
    everything = names(working)
    assert call("prune", answer="n\n").exit_code == 1
    assert names(working) == everything
    damage(working / "step-00000003")
    shutil.copytree(working / "step-00000001", working / ".step-00000009.tmp")
    write_json(working.parent / "job.json", {"training": {"keep_every": 1}})
    call("prune", "--yes")
    assert names(working) == everything  # all are milestones, but what a killed save left is gone
    call("prune", "--yes", "--milestones")
    assert names(working) == ["step-00000002", "step-00000003"]
    damage(working / "step-00000002")
    with pytest.raises(DamagedError, match="not one checkpoint"):
        call("prune", "--yes", "--milestones")
    assert names(working) == ["step-00000002", "step-00000003"]


def test_pruning_keeps_what_a_rewind_from_the_newest_good_one_may_go_back_to(
    working: Path, call: Call
) -> None:
    damage(working / "step-00000003")
    guards = {"loss_spike": "rewind", "rewind_steps": 2}
    write_json(working.parent / "job.json", {"training": {"keep_every": 0, "guards": guards}})
    assert "Nothing to delete" in call("prune", "--yes").output
    guards["rewind_steps"] = 1
    write_json(working.parent / "job.json", {"training": {"keep_every": 0, "guards": guards}})
    call("prune", "--yes")
    assert names(working) == ["step-00000002", "step-00000003"]


def test_a_stage_in_training_is_left_alone(working: Path, call: Call) -> None:
    stage = working.parent.parent
    with (
        lock(lock_path(stage), 0.0, Progress("stem")),
        pytest.raises(StemmaError, match="stem is being trained at this moment"),
    ):
        call("prune", "--yes")
    assert len(names(working)) == 3
