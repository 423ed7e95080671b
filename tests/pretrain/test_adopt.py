"""A mix changed in the middle of a stage: what was trained before the change is taken over, not repeated."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.config import PlanConfig, PlanEdit
from data_pipeline.curriculum.common import common_steps
from data_pipeline.curriculum.plan import Plan
from data_pipeline.curriculum.stage import PlanStage
from pretrain.adopt import newest_checkpoint, same_rates
from pretrain.config import ModelConfig, PretrainConfig, ScheduleConfig, TrainingConfig
from pretrain.stage import PretrainStage
from stemma.core.artifact import Artifact, Store
from stemma.core.files import read_jsonl
from stemma.core.progress import SAY, STEP, Event
from stemma.core.stage import execute
from tests.in_process import Killed, in_process, train
from tests.pretrain.conftest import plan_config

__all__ = ["in_process"]

STEPS, AT, EVERY, BATCH = 24, 12, 6, 32  # a checkpoint where the edit begins, and a phase ends by it
SAME = ("receipts.jsonl", "monitors.jsonl", "ledger.json", "evaluation.json", "hf/model.safetensors")
EDIT = PlanEdit.model_validate(
    {
        "at_step": AT,
        "phases": [
            {
                "name": "code_alone",
                "tokens": (STEPS - AT) * BATCH * 32,
                "sequence_length": 32,
                "weights": {"code": 1.0},
            }
        ],
    }
)


@pytest.fixture
def make_stage(
    inputs: dict[str, Artifact], tiny_model: ModelConfig, make_training: Callable[..., TrainingConfig]
) -> Callable[..., PretrainStage]:
    """``make_stage(store, plan config)``: the stage over a plan in that store."""

    def make(store: Store, config: PlanConfig, **training: Any) -> PretrainStage:
        plan = execute(PlanStage("plan.stem", config, {"tokens": inputs["tokens"]}), store)
        fields = {"global_batch_size": BATCH, "checkpoint_every": EVERY, "keep_checkpoints": 9, **training}
        fields["monitor"] = {"positions_every": 5}
        settings = PretrainConfig(model=tiny_model, training=make_training(**fields))
        return PretrainStage("stem", settings, {**inputs, "plan": plan})

    return make


def test_an_edited_stage_goes_on_from_before_the_edit_and_ends_as_if_it_had_always_been(
    make_stage: Callable[..., PretrainStage], in_process: None, tmp_path: Path
) -> None:
    one = Store(tmp_path / "edited")
    before, after = plan_config(STEPS, BATCH), plan_config(STEPS, BATCH).edited(EDIT)
    former = make_stage(one, before)
    with pytest.raises(Killed):
        train(one, former, die_after=AT + 2)
    folder = one.folder("stem", former.fingerprint)
    untouched = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    events: list[Event] = []
    edited = train(one, make_stage(one, after), events.append)
    straight = train(Store(tmp_path / "straight"), make_stage(Store(tmp_path / "straight"), after))

    for name in SAME:
        assert edited.file(name).read_bytes() == straight.file(name).read_bytes(), name
    assert edited.summary["resumed_from"] == AT // EVERY * EVERY
    assert min(event.step for event in events if event.kind == STEP) == AT // EVERY * EVERY + 1
    said = [event.text for event in events if event.kind == SAY]
    assert f"its first {AT} steps are those of {folder.name}: taken over up to step {AT}" in said
    shared = [list(read_jsonl(place / "receipts.jsonl"))[:AT] for place in (folder, edited.path)]
    assert shared[0] == shared[1]
    assert len(shared[0]) == AT
    assert {path: path.read_bytes() for path in untouched} == untouched

    # A sealed stage keeps its last checkpoint alone: one longer than it is takes all of it over.
    longer = (
        plan_config(STEPS, BATCH)
        .edited(EDIT)
        .edited(
            EDIT.model_copy(
                update={
                    "at_step": STEPS,
                    "phases": (EDIT.phases[0].model_copy(update={"name": "more", "tokens": 2 * BATCH * 32}),),
                }
            )
        )
    )
    assert newest_checkpoint(edited.path, STEPS) == (edited.path / "checkpoint", STEPS)
    assert newest_checkpoint(edited.path, STEPS - 1) == (None, 0)
    schedule = {"peak_lr": 3e-3, "shape": "cosine", "warmup_steps": 3, "end_lr": 3e-4}
    stage = make_stage(one, longer, schedule=schedule)
    again: list[Event] = []
    with pytest.raises(Killed):
        train(one, stage, again.append, die_after=1)
    # the cosine's rates follow from the stage's length: only its warm-up is the same, and no checkpoint is
    assert any("they are trained again" in event.text for event in again if event.kind == SAY)


def test_plans_are_the_same_up_to_the_edit_and_not_beyond(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    def plan(config: PlanConfig) -> Plan:
        return Plan.load(
            execute(PlanStage("plan", config, {"tokens": inputs["tokens"]}), Store(tmp_path)).path
        )

    config = plan_config(STEPS, BATCH, (32, 64))
    whole, edited = plan(config), plan(config.edited(EDIT))
    samples = AT * BATCH
    assert common_steps(whole, edited) == AT
    assert whole.locate_range(0, samples) == edited.locate_range(0, samples)
    assert whole.locate(samples) != edited.locate(samples)
    assert common_steps(whole, whole) == STEPS
    other_seed = config.model_copy(update={"curriculum": config.curriculum.model_copy(update={"seed": 4321})})
    assert common_steps(whole, plan(other_seed)) == 0
    assert common_steps(whole, plan(plan_config(STEPS, BATCH // 2, (32, 64)))) == 0


def test_a_rate_that_depends_on_the_stages_length_ends_what_is_common() -> None:
    wsd = ScheduleConfig(peak_lr=1.0, shape="wsd", warmup_steps=2, decay_fraction=0.25)
    assert same_rates(wsd, 100, 120, 90) == 75  # the shorter one begins its decay there
    assert same_rates(wsd, 100, 100, 90) == 90
    cosine = ScheduleConfig(peak_lr=1.0, shape="cosine", warmup_steps=2)
    assert same_rates(cosine, 100, 120, 90) == 2
    assert same_rates(ScheduleConfig(peak_lr=1.0, shape="constant", warmup_steps=2), 100, 120, 90) == 90
