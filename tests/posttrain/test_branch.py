"""SFT and RL go on from a checkpoint of another run, with other data from there on, and account for both."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import RLConfig, RLStageConfig, SFTConfig, SFTStageConfig
from posttrain.conversations import read_conversations
from posttrain.rl import RLStage
from posttrain.sft import SFTStage
from posttrain.trace import step_rows
from pretrain.branch import BranchStage
from pretrain.checkpoint.folder import EXTRA, RECORD
from pretrain.config import BranchConfig, ModelConfig
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, read_jsonl
from stemma.core.stage import Stage, execute
from tests.in_process import Killed, in_process, train
from tests.posttrain.conftest import training_config
from tokenizer.load import load

__all__ = ["in_process"]

AT = 3  # steps taken over: of RL, in the middle of a batch of rollouts, which lasts two


def branch_of(former: Artifact, store: Store) -> Artifact:
    where = f"milestones/step-{AT:08d}"
    point = BranchConfig(
        stage=former.name,
        step=AT,
        trained_by=former.fingerprint,
        state_sha256=read_json(former.path / where / RECORD)["state_sha256"],
        receipts_sha256=read_json(former.path / where / EXTRA)["extra"]["logs"]["receipts"]["sha256"],
        run="former",
        folder=former.path.name,
    )
    return execute(BranchStage(f"branch.{former.name}", point, {}), store)


@pytest.fixture
def make(
    tokenizer_artifact: Artifact, init: Artifact, trajectories: Artifact, model_config: ModelConfig
) -> Callable[..., Stage]:
    """``make(config, **inputs)``: the stage of an SFT or RL config."""

    def stage(config: SFTConfig | RLConfig, **inputs: Artifact) -> Stage:
        given = {"tokenizer": tokenizer_artifact, "init": init, **inputs}
        if isinstance(config, SFTConfig):
            given["trajectories"] = trajectories
            return SFTStage("sft", SFTStageConfig(model=model_config, sft=config), given)
        return RLStage("rl", RLStageConfig(model=model_config, rl=config), given)

    return stage


def training(**changes: Any) -> dict[str, Any]:
    return training_config(checkpoint_every=2, keep_every=AT, **changes).model_dump()


def lines(artifact: Artifact, name: str = "receipts.jsonl") -> list[dict[str, Any]]:
    return list(read_jsonl(artifact.file(name)))


def test_sft_reads_other_conversations_from_the_seam_on_and_both_are_traced(
    make: Callable[..., Stage],
    sft_config: Callable[..., SFTConfig],
    trajectories: Artifact,
    tokenizer_artifact: Artifact,
    in_process: None,
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    same = sft_config(training=training(), families={"coins": 0.5, "maths": 0.5}, steps=6)
    former = train(store, make(same))
    branch = branch_of(former, store)
    unchanged = train(store, make(same, branch=branch))
    for name in ("receipts.jsonl", "ledger.json", "hf/model.safetensors"):
        assert unchanged.file(name).read_bytes() == former.file(name).read_bytes(), name

    path = trajectories.file("trajectories.jsonl")
    found, _ = read_conversations(path, load(tokenizer_artifact.path / "hf"), ["coins", "spell"], 512)
    shorter = max(min(len(one.ids) for one in family) for family in found.values())  # leaves most out
    # other families, other conversations of them (max_tokens), another batch, another seed, more steps
    changed = make(
        sft_config(
            training=training(global_batch_size=4, schedule={"peak_lr": 1e-3}),
            families={"spell": 0.7, "coins": 0.3},
            max_tokens=shorter,
            seed=8,
            steps=8,
        ),
        branch=branch,
    )
    with pytest.raises(Killed):
        train(store, changed, die_after=AT + 2)
    other = train(store, changed)
    assert other.summary["resumed_from"] == AT + 1
    assert lines(other)[:AT] == lines(former)[:AT]
    assert [float.fromhex(line["lr"]) for line in lines(other)[AT:]] == [1e-3] * 5
    ledger = read_json(other.file("ledger.json"))
    assert ledger["planned"] == ledger["realized"]
    assert {name: count["samples"] for name, count in ledger["realized"]["counts"].items()}.keys() == {
        "coins",
        "maths",
        "spell",
    }
    assert sum(count["samples"] for count in ledger["realized"]["counts"].values()) == AT * 8 + 5 * 4
    rows = [step_rows(other.path, tokenizer_artifact.path, path, step) for step in range(8)]
    before = [step_rows(former.path, tokenizer_artifact.path, path, step) for step in range(AT)]
    assert rows[:AT] == before
    assert [len(step) for step in rows] == [8] * AT + [4] * 5
    assert {row.source for step in rows[AT:] for row in step} == {"spell", "coins"}
    with pytest.raises(StemmaError, match="steps 0 to 7, not 8"):
        step_rows(other.path, tokenizer_artifact.path, path, 8)
    with pytest.raises(StemmaError, match="sft has 2 steps now, and is to go on from step 3 of run 'former'"):
        train(store, make(sft_config(training=training(), steps=2), branch=branch))


def test_rl_goes_on_in_the_middle_of_its_rollouts(
    make: Callable[..., Stage], rl_config: Callable[..., RLConfig], in_process: None, tmp_path: Path
) -> None:
    store, batch = Store(tmp_path), {"global_batch_size": 12}
    former = train(store, make(rl_config(training=training(**batch), rollout_batches=3)))
    branch = branch_of(former, store)
    unchanged = train(store, make(rl_config(training=training(**batch), rollout_batches=3), branch=branch))
    for name in ("receipts.jsonl", "rollouts.jsonl", "ledger.json", "hf/model.safetensors"):
        assert unchanged.file(name).read_bytes() == former.file(name).read_bytes(), name

    # one task for three, from the next batch of rollouts on: those that were begun are learned from first
    tasks = {"words": rl_config().tasks["spell"].model_copy(update={"prompts": 6})}
    changed = make(rl_config(training=training(**batch), rollout_batches=3, tasks=tasks), branch=branch)
    with pytest.raises(Killed):
        train(store, changed, die_after=AT + 2)
    other = train(store, changed)
    played = [(line["batch"], line["task"]) for line in lines(other, "rollouts.jsonl")]
    assert {task for number, task in played if number < 2} == {"coins", "spell", "maths"}
    assert {task for number, task in played if number == 2} == {"words"}
    assert lines(other)[: AT + 1] == lines(former)[: AT + 1]
    ledger = read_json(other.file("ledger.json"))
    assert ledger["planned"] == ledger["realized"]
    assert "words" in ledger["realized"]["counts"]
    one = rl_config(training=training(global_batch_size=24), rollout_batches=6, updates=1)
    with pytest.raises(StemmaError, match=r"rl\.updates is 1, and was 2 in the steps done"):
        train(store, make(one, branch=branch))
