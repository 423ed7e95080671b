"""A stage that goes on from a checkpoint of another run: exact where nothing changed, honest where it did."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import PlanConfig, PlanEdit
from data_pipeline.curriculum.branched import branched_plan
from data_pipeline.curriculum.build import PlanError
from data_pipeline.curriculum.plan import Plan
from data_pipeline.curriculum.stage import PlanStage
from pretrain.branch import BranchStage, history, link
from pretrain.checkpoint.chain import check
from pretrain.checkpoint.folder import EXTRA, RECORD
from pretrain.config import BranchConfig, ModelConfig, PretrainConfig, TrainingConfig
from pretrain.stage import PretrainStage
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, read_jsonl
from stemma.core.progress import SAY
from stemma.core.stage import execute
from tests.in_process import Killed, in_process, train
from tests.pretrain.conftest import plan_config

__all__ = ["in_process"]

STEPS, AT, EVERY, BATCH = 24, 12, 4, 4
RECORDS = ("receipts.jsonl", "monitors.jsonl", "checkpoints.jsonl", "ledger.json", "evaluation.json")
SAME = (*RECORDS, "hf/model.safetensors")
OTHER_MIX = [
    {"name": "at_32", "tokens": 14 * BATCH * 32, "sequence_length": 32, "weights": {"code": 1.0}},
    {"name": "long", "tokens": 12 * BATCH * 32, "sequence_length": 64, "weights": {"code": 1.0, "web": 1.0}},
]


class Lab:
    """A store with a finished training of 24 steps, and what branches of it."""

    def __init__(self, inputs: dict[str, Artifact], model: ModelConfig, make: Any, root: Path) -> None:
        self.inputs, self.model, self.make_training, self.store = inputs, model, make, Store(root)
        self.config = plan_config(STEPS, BATCH)

    def plan(self, config: PlanConfig, **inputs: Artifact) -> Artifact:
        stage = PlanStage("plan.stem", config, {"tokens": self.inputs["tokens"], **inputs})
        return execute(stage, self.store)

    def stage(self, config: PlanConfig, branch: Artifact | None = None, **training: Any) -> PretrainStage:
        role = {"branch": branch} if branch else {}
        fields = {"checkpoint_every": EVERY, "keep_every": 6, "monitor": {"positions_every": 5}, **training}
        fields.setdefault("global_batch_size", config.global_batch_size)
        settings = PretrainConfig(model=self.model, training=self.make_training(**fields))
        return PretrainStage("stem", settings, {**self.inputs, "plan": self.plan(config, **role), **role})

    def point(self, former: Artifact, at: int, **changes: Any) -> BranchStage:
        where = "checkpoint" if at == former.summary["steps"] else f"milestones/step-{at:08d}"
        receipts = read_json(former.path / where / EXTRA)["extra"]["logs"]["receipts"]
        fields = {
            "stage": "stem",
            "step": at,
            "trained_by": former.fingerprint,
            "state_sha256": read_json(former.path / where / RECORD)["state_sha256"],
            "receipts_sha256": receipts["sha256"],
            "run": "former",
            "folder": former.path.name,
        }
        return BranchStage("branch.stem", BranchConfig.model_validate(fields | changes), {})


@pytest.fixture
def lab(
    inputs: dict[str, Artifact],
    tiny_model: ModelConfig,
    make_training: Callable[..., TrainingConfig],
    tmp_path: Path,
    in_process: None,
) -> Lab:
    return Lab(inputs, tiny_model, make_training, tmp_path / "runs")


def lines(artifact: Artifact, name: str = "receipts.jsonl") -> list[dict[str, Any]]:
    return list(read_jsonl(artifact.file(name)))


def test_where_nothing_is_changed_the_branch_ends_as_the_run_it_came_from(lab: Lab) -> None:
    former = train(lab.store, lab.stage(lab.config))
    before = {path: path.read_bytes() for path in former.path.rglob("*") if path.is_file()}
    branch = execute(lab.point(former, AT), lab.store)
    stage = lab.stage(lab.config, branch)
    assert (stage.inputs["plan"].path / "plan.json").read_bytes() == branch.file("plan.json").read_bytes()
    said: list[str] = []
    with pytest.raises(Killed):
        train(lab.store, stage, die_after=AT + EVERY + 2)
    same = train(lab.store, stage, lambda event: said.append(event.text) if event.kind == SAY else None)
    assert same.fingerprint != former.fingerprint
    for name in SAME:
        assert same.file(name).read_bytes() == former.file(name).read_bytes(), name
    assert f"continuing stem from step {AT + EVERY} " in " ".join(said)
    assert before == {path: path.read_bytes() for path in former.path.rglob("*") if path.is_file()}
    # milestones and the end can be branched from as well; the end has nothing left and says the same
    end = execute(lab.point(former, STEPS), lab.store)
    assert (
        train(lab.store, lab.stage(lab.config, end)).file("receipts.jsonl").read_bytes()
        == before[former.path / "receipts.jsonl"]
    )


def test_another_rate_batch_and_mix_hold_from_the_seam_on_and_it_resumes_exactly(lab: Lab) -> None:
    former = train(lab.store, lab.stage(lab.config))
    branch = execute(lab.point(former, AT), lab.store)
    config = PlanConfig.model_validate(
        {"curriculum": {"phases": OTHER_MIX, "seed": 99}, "global_batch_size": 2 * BATCH}
    )
    changed = {"schedule": {"peak_lr": 1e-3}, "seed": 5}
    straight = train(lab.store, lab.stage(config, branch, **changed))

    # 24 steps' worth of tokens but for the 12 done: 2 of the first phase, 12 of the second, two to a step
    stage = lab.stage(config, branch, **changed)
    plan = Plan.load(stage.inputs["plan"].path)
    assert [(phase.name, phase.steps, phase.batch_samples) for phase in plan.phases] == [
        ("at_32", AT, BATCH),
        ("at_32_12", 1, 2 * BATCH),
        ("long", 6, BATCH),
    ]
    receipts = lines(straight)
    assert [line["step"] for line in receipts] == list(range(AT + 7))
    assert receipts[:AT] == lines(former)[:AT]
    assert {float.fromhex(line["lr"]) for line in receipts[AT:]} == {1e-3}
    assert check(straight.file("checkpoints.jsonl")) == len(lines(straight, "checkpoints.jsonl"))
    assert [line["step"] for line in lines(straight, "checkpoints.jsonl")] == [4, 6, 8, 12, 16, 18, 19]
    ledger = read_json(straight.file("ledger.json"))
    assert ledger["planned"] == ledger["realized"]
    tokens = {name: count["tokens"] for name, count in ledger["realized"]["counts"].items()}
    assert sum(tokens.values()) == AT * BATCH * 32 + 7 * 2 * BATCH * 32
    assert straight.summary["tokens"] == sum(tokens.values())
    read = [plan.locate(sample) for sample in range(plan.total_samples)]
    spans = [
        (at.source, at.epoch, token)
        for at in read
        for token in range(at.start_token, at.start_token + at.sequence_length)
    ]
    assert len(spans) == len(set(spans)), "nothing is read twice over the seam"
    assert all(at.source in ("json", "logging") for at in read[AT * BATCH : AT * BATCH + 2 * BATCH])
    (stretch,) = history(straight.path)
    assert (stretch.until, stretch.config["training"]["global_batch_size"]) == (AT, BATCH)
    assert read_json(straight.file("branch.json"))["state_sha256"] == branch.summary["state_sha256"]

    # killed before its first own checkpoint, and after, it ends the same
    again = Lab(lab.inputs, lab.model, lab.make_training, lab.store.root.with_name("again"))
    copy_in(former, again.store)
    assert execute(lab.point(former, AT), again.store).fingerprint == branch.fingerprint
    stage = again.stage(config, execute(lab.point(former, AT), again.store), **changed)
    for last in (AT + 1, AT + EVERY + 1):
        with pytest.raises(Killed):
            train(again.store, stage, die_after=last)
    killed = train(again.store, stage)
    assert killed.fingerprint == straight.fingerprint
    for name in SAME:
        assert killed.file(name).read_bytes() == straight.file(name).read_bytes(), name

    # a branch of the branch knows the configs of both stretches; of the lengths it now asks for, the first,
    # by which a step's sequences are counted, is one that nothing is left of
    second = execute(lab.point(straight, AT + 6), lab.store)
    read = {"name": "short", "tokens": 8 * BATCH * 32, "sequence_length": 16, "weights": {"code": 1.0}}
    phases = [read, OTHER_MIX[1] | {"tokens": 18 * BATCH * 32}]
    config = PlanConfig.model_validate({"curriculum": {"phases": phases}, "global_batch_size": 4 * BATCH})
    last = train(lab.store, lab.stage(config, second, schedule={"peak_lr": 5e-4}))
    assert [stretch.until for stretch in history(last.path)] == [AT, AT + 6]
    assert lines(last)[: AT + 6] == receipts[: AT + 6]
    assert [float.fromhex(line["lr"]) for line in lines(last)[AT + 6 :]] == [5e-4]


def copy_in(artifact: Artifact, store: Store) -> None:
    """An artifact, and the plan it was made from, in another store."""
    plan = artifact.path.parent / f"plan.stem-{artifact.manifest['inputs']['plan']['fingerprint'][:12]}"
    for folder in (artifact.path, plan):
        shutil.copytree(folder, store.artifacts / folder.name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"optimizer": {"name": "muon"}},
            'optimizer.name: "adamw" -> "muon". Leave these as they were, or branch',
        ),
        ({"precision": "bf16"}, 'precision: "fp32" -> "bf16"'),
    ],
)
def test_what_a_checkpoint_cannot_go_on_with_is_refused_before_anything_starts(
    lab: Lab, changes: dict[str, Any], said: str
) -> None:
    former = train(lab.store, lab.stage(plan_config(6, BATCH), keep_every=6))
    branch = execute(lab.point(former, 6), lab.store)
    with pytest.raises(StemmaError, match=said):
        train(lab.store, lab.stage(plan_config(8, BATCH), branch, **changes))
    model = lab.model.model_copy(update={"hidden_size": 48})
    other = Lab(lab.inputs, model, lab.make_training, lab.store.root)
    with pytest.raises(StemmaError, match=r"model\.hidden_size: 32 -> 48"):
        train(lab.store, other.stage(plan_config(8, BATCH), branch))


def test_what_is_gone_or_altered_is_not_taken(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    former = train(lab.store, lab.stage(plan_config(12, BATCH)))
    with pytest.raises(StemmaError, match="step 9 of stem is no longer kept by run 'former'"):
        execute(lab.point(former, 6, step=9), lab.store)
    with pytest.raises(StemmaError, match="step 6 of stem is no longer kept by run 'former'"):
        execute(lab.point(former, 6, state_sha256="0" * 64), lab.store)
    with pytest.raises(DamagedError, match="is not step 6 of stem-"):
        execute(lab.point(former, 6, trained_by="0" * 64), lab.store)
    receipts = former.path / "receipts.jsonl"
    whole = receipts.read_bytes()
    receipts.write_bytes(whole.replace(b'"step":2', b'"step":7'))
    with pytest.raises(DamagedError, match=r"receipts.jsonl: its first \d+ bytes are not those recorded"):
        execute(lab.point(former, 6), lab.store)
    receipts.write_bytes(whole)

    def meanwhile(source: Path, target: Path) -> None:
        """The run it is taken from deletes it, which begins with its name."""
        milestone = former.path / "milestones" / "step-00000006"
        milestone.rename(milestone.with_name(".step-00000006.old"))
        link(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("pretrain.branch.link", meanwhile)
        with pytest.raises(StemmaError, match="step 6 of stem is no longer kept"):
            execute(lab.point(former, 6), lab.store)
    (former.path / "milestones" / ".step-00000006.old").rename(former.path / "milestones" / "step-00000006")
    branch = execute(lab.point(former, 6), lab.store)
    assert len(list(read_jsonl(branch.path / "taken" / "receipts.jsonl"))) == 6


# --- the plan of a branched stage --------------------------------------------------------------------------

EDIT = PlanEdit.model_validate({"at_step": 8, "phases": [OTHER_MIX[1] | {"tokens": 4 * BATCH * 32}]})


@pytest.fixture
def planned(lab: Lab) -> Callable[..., Plan]:
    """``planned(former, step, config)``: the plan of a stage that goes on from a step of another plan."""

    def make(former: PlanConfig, step: int, config: PlanConfig) -> Plan:
        plan = lab.plan(former)
        told = {"plan_config": plan.manifest["config"], "step": step, "run": "former"}
        folder = lab.store.root / "branch"
        folder.mkdir(exist_ok=True)
        (folder / "branch.json").write_text(json.dumps(told))
        (folder / "plan.json").write_bytes(plan.file("plan.json").read_bytes())
        files = {"branch.json": {}, "plan.json": {}}
        branch = Artifact("branch.stem", "branch", f"{step}", folder, {"files": files})
        return branched_plan(config, config, branch)

    return make


def test_a_plan_that_nobody_changed_stays_and_edits_come_on_top(
    planned: Callable[..., Plan], lab: Lab
) -> None:
    whole = Plan.load(lab.plan(lab.config).path)
    assert planned(lab.config, 6, lab.config) == whole
    edited = Plan.load(lab.plan(lab.config.edited(EDIT)).path)
    assert planned(lab.config, 6, lab.config.edited(EDIT)) == edited
    assert planned(lab.config.edited(EDIT), 6, lab.config.edited(EDIT)) == edited
    # an edit of the other run that this one does not have is not carried out
    back = planned(lab.config.edited(EDIT), 6, lab.config)
    assert [(phase.name, phase.steps) for phase in back.phases] == [("at_32", 6), ("at_32_6", 18)]
    with pytest.raises(PlanError, match="cannot be changed at step 8: this run goes on from step 9"):
        planned(lab.config, 9, lab.config.edited(EDIT))


def test_a_curriculum_that_asks_for_no_more_than_was_read_is_refused(
    planned: Callable[..., Plan], lab: Lab
) -> None:
    with pytest.raises(PlanError, match="nothing is left to train: step 12 has read 1,536 tokens"):
        planned(lab.config, 12, plan_config(12, BATCH))
    assert planned(lab.config, 12, plan_config(13, BATCH)).total_steps == 13
