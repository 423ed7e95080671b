"""Guards: what is unusual, what is written down of it, and what skipping, going back and stopping come to."""

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from data_pipeline.curriculum.plan import Plan
from data_pipeline.tokens.shards import TokenShard, open_shards
from pretrain.adopt import newest_checkpoint
from pretrain.batch import MicroBatch
from pretrain.config import GuardConfig
from pretrain.engine import Engine, StepResult
from pretrain.guards import OVERFLOWS, Finding, Guards, Recent
from pretrain.launch import Job, launch
from pretrain.loop import Stopped, train
from pretrain.objective import LanguageModel
from pretrain.rewinds import Rewind
from pretrain.saving import Checkpoints
from pretrain.schedule import learning_rate
from stemma.core.artifact import Artifact
from stemma.core.errors import StageFailed
from stemma.core.files import read_json, read_jsonl
from stemma.core.progress import Event, Progress
from stemma.core.stage import Execution, Workspace
from stemma.incidents import incidents, render_incident, render_incidents
from tests.pretrain.helpers import parameter_hash

STEPS = 16
SENSITIVE = {"window": 8, "deviations": 6.0}
finite = st.floats(-100, 100).map(lambda x: round(x, 6))


# --- judging -------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(finite, min_size=4, max_size=40), finite)
def test_deviations_are_those_of_the_medians_of_the_window(values: list[float], value: float) -> None:
    recent = Recent(16)
    recent.values.extend(values)
    window = np.array(values[-16:])
    usual = np.median(window)
    spread = max(1.4826 * np.median(abs(window - usual)), 1e-3 * abs(usual), 1e-12)
    assert recent.compare(value) == pytest.approx((usual, (value - usual) / spread))


@settings(max_examples=40)
@given(st.lists(st.floats(2.0, 3.0), min_size=17, max_size=17), st.floats(10.0, 1e30))
def test_one_outlier_hides_no_other(values: list[float], outlier: float) -> None:
    recent = Recent(18)
    recent.values.extend([*values, outlier])
    usual, deviations = recent.compare(10.0)
    assert 2.0 <= usual <= 3.0
    assert deviations > 6


def judged(guards: Guards, losses: list[float], norms: list[float] | None = None) -> list[Finding | None]:
    found = []
    for loss, norm in zip(losses, norms or [1.0] * len(losses)):
        found.append(guards.judge(loss, norm))
        guards.observe(StepResult(loss, norm, {}, False))
    return found


def test_a_level_that_lasts_becomes_the_usual_one_and_a_phase_begins_anew() -> None:
    low, high = [3.0 + 0.01 * (n % 3) for n in range(10)], [5.0 + 0.01 * (n % 3) for n in range(16)]
    guards = Guards(GuardConfig(window=16), "fp32")
    flags = [finding is not None for finding in judged(guards, low + high)]
    assert not any(flags[:10])
    assert flags[10]
    assert not any(flags[-6:])
    other = Guards(GuardConfig(window=16), "fp32")
    judged(other, low)
    other.enter(1)
    assert judged(other, high) == [None] * 16


def test_a_jump_has_to_matter_as_well_as_to_be_unusual() -> None:
    flat = [2.0 + 1e-4 * (n % 2) for n in range(16)]
    guards = Guards(GuardConfig(), "fp32")
    assert judged(guards, [*flat, 2.2], [0.5] * 16 + [1.9]) == [None] * 17
    (spike,) = judged(guards, [2.5], [0.5])
    assert spike is not None
    assert (spike.kind, spike.policy) == ("loss_spike", "record")
    (outlier,) = judged(guards, [2.0], [2.1])
    assert outlier is not None
    assert outlier.kind == "grad_norm_outlier"


def test_the_severest_policy_decides_where_a_step_is_wrong_in_two_ways() -> None:
    guards = Guards(GuardConfig(loss_spike="skip", grad_norm_outlier="rewind"), "fp32")
    *_, found = judged(guards, [2.0] * 16 + [9.0], [1.0] * 16 + [50.0])
    assert found is not None
    assert (found.kind, found.policy) == ("grad_norm_outlier", "rewind")


def test_an_fp16_overflow_is_no_incident_until_no_loss_scale_helps() -> None:
    overflow = StepResult(2.0, math.inf, {}, skipped=True)
    guards = Guards(GuardConfig(), "fp16")
    for _ in range(OVERFLOWS):
        assert guards.judge_unapplied(overflow) is None
    stuck = guards.judge_unapplied(overflow)
    assert stuck is not None
    assert stuck.kind == "not_finite"
    nan = Guards(GuardConfig(), "fp16").judge_unapplied(StepResult(math.nan, 1.0, {}, skipped=True))
    assert nan is not None
    assert Guards(GuardConfig(), "bf16").judge_unapplied(overflow) is not None


@settings(max_examples=40)
@given(st.lists(st.tuples(finite, finite), max_size=30))
def test_a_guard_that_was_saved_judges_as_the_one_that_was_not(steps: list[tuple[float, float]]) -> None:
    straight, resumed = (Guards(GuardConfig(window=8), "fp32") for _ in range(2))
    losses, norms = [loss for loss, _ in steps], [norm for _, norm in steps]
    judged(straight, losses, norms)
    judged(resumed, losses[:7], norms[:7])
    state = resumed.state_dict()
    again = Guards(GuardConfig(window=8), "fp32")
    again.load_state_dict(state)
    judged(again, losses[7:], norms[7:])
    assert again.state_dict() == straight.state_dict()


# --- in the loop ---------------------------------------------------------------------------------------


class Spiking(LanguageModel):
    """The real objective, but the loss of some steps is many times what it should be."""

    spikes: frozenset[int] = frozenset({11})
    factor = 40.0

    def batch(self, step: int, engine: Engine) -> Any:
        self.step = step
        return super().batch(step, engine)

    def loss(self, output: torch.Tensor, micro: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, sums = super().loss(output, micro)
        return (total * self.factor if self.step in self.spikes else total), sums


Attempt = Callable[..., dict[str, Any]]


@pytest.fixture
def attempt(
    inputs: dict[str, Artifact], make_plan: Callable[..., Artifact], make_job: Callable[..., Job]
) -> Attempt:
    """``attempt(folder, stop_after, objective, checkpoint_every, **guards)``: as a worker does it."""

    def run(
        folder: Path,
        stop_after: int = 0,
        objective: type[LanguageModel] = Spiking,
        checkpoint_every: int = 100,
        **guards: Any,
    ) -> dict[str, Any]:
        job = make_job(folder, checkpoint_every=checkpoint_every, guards=SENSITIVE | guards)
        job = job.model_copy(update={"validation": []})
        events: list[Event] = []
        seen: list[int] = []
        while True:
            engine = Engine.build(job.model, job.training, job.execution)
            try:
                shards = open_shards([inputs["tokens"].path], "train")
                plan = Plan.load(make_plan(STEPS).path)
                stop = lambda: len(seen) == stop_after  # noqa: E731
                made = objective(engine, plan, shards, job.training, {})
                summary = train(job, engine, made, Progress("stem", [events.append]), stop, seen.append)
                return {"summary": summary, "said": [e.text for e in events], "hash": parameter_hash(engine)}
            except Rewind:
                continue
            finally:
                engine.close()

    return run


def lines(folder: Path, name: str) -> list[Any]:
    return list(read_jsonl(folder / "artifact" / f"{name}.jsonl"))


def leaves_out(engine: Engine, objective: LanguageModel, steps: set[int]) -> list[float]:
    """Losses of a plain loop that reads some steps without applying them: no guards, no checkpoints."""
    losses = []
    for step in range(STEPS):
        lr = learning_rate(engine.training.schedule, step, STEPS)
        batch = objective.batch(step, engine)
        apply = step not in steps
        losses.append(engine.train_step(batch, objective.loss, lr, lambda *_, apply=apply: apply).loss)
    return losses


@pytest.fixture
def plain(
    inputs: dict[str, Artifact],
    make_plan: Callable[..., Artifact],
    make_job: Callable[..., Job],
    tmp_path: Path,
) -> Callable[[set[int]], tuple[list[float], str]]:
    """``plain(steps)``: losses and weights of a run that leaves out these steps."""

    def run(steps: set[int]) -> tuple[list[float], str]:
        job = make_job(tmp_path / "plain")
        engine = Engine.build(job.model, job.training, job.execution)
        shards = open_shards([inputs["tokens"].path], "train")
        objective = Spiking(engine, Plan.load(make_plan(STEPS).path), shards, engine.training, {})
        try:
            return leaves_out(engine, objective, steps), parameter_hash(engine)
        finally:
            engine.close()

    return run


def same(one: Path, other: Path, *names: str) -> None:
    for name in ("receipts.jsonl", "incidents.jsonl", "ledger.json", "hf/model.safetensors", *names):
        assert (one / "artifact" / name).read_bytes() == (other / "artifact" / name).read_bytes(), name


def test_a_spike_is_written_down_with_its_documents_and_applied(
    attempt: Attempt, inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    result = attempt(tmp_path)
    (found,) = lines(tmp_path, "incidents")
    assert (found["step"], found["kind"], found["policy"]) == (11, "loss_spike", "record")
    assert float(found["loss"]) > 10 * found["usual"]
    assert found["batch_sha256"] == lines(tmp_path, "receipts")[11]["batch_sha256"]
    assert result["summary"]["skipped_steps"] == 0
    assert any("step 11 stands out: loss" in text for text in result["said"])
    assert len(found["batch"]) == 4
    for row in found["batch"]:
        shard = TokenShard(inputs["tokens"].path / "train" / row["source"])
        read = shard.read(row["start_token"], 32).tolist()
        for document in row["documents"]:
            number = shard.pieces(document["id"])[0]
            begin = int(shard.offsets[number]) + document["first"]
            length = document["last"] - document["first"] + 1
            assert shard.read(begin, length).tolist() == read[:length]
            read = read[length:]
        assert read == []
    out = Console(file=io.StringIO(), width=120)
    (shown,) = incidents({}, {"stem": tmp_path / "artifact"})
    render_incidents([shown], out)
    render_incident(shown, out)
    printed = out.file.getvalue()
    assert f"loss {float(found['loss']):.4g}, {found['usual']:.4g} was usual" in printed
    assert found["batch"][3]["documents"][0]["id"] in printed


def test_a_skipped_spike_leaves_the_weights_as_if_the_step_had_not_been(
    attempt: Attempt, plain: Callable[..., Any], tmp_path: Path
) -> None:
    losses, weights = plain({11})
    result = attempt(tmp_path, loss_spike="skip")
    assert result["hash"] == weights
    assert [float.fromhex(line["loss"]) for line in lines(tmp_path, "receipts")] == losses
    assert result["summary"]["skipped_steps"] == 1


def test_a_rewind_leaves_out_the_steps_before_too_wherever_checkpoints_lie(
    attempt: Attempt, plain: Callable[..., Any], tmp_path: Path
) -> None:
    policy = {"loss_spike": "rewind", "rewind_steps": 4}
    losses, weights = plain({8, 9, 10, 11})
    once = attempt(tmp_path / "beginning", **policy)  # no checkpoint yet: from the stage's first step
    assert once["hash"] == weights
    assert [float.fromhex(line["loss"]) for line in lines(tmp_path / "beginning", "receipts")] == losses
    assert once["summary"]["skipped_steps"] == 4
    (found,) = lines(tmp_path / "beginning", "incidents")
    assert (found["step"], found["policy"]) == (11, "rewind")
    assert attempt(tmp_path / "often", checkpoint_every=3, **policy)["hash"] == weights
    same(tmp_path / "beginning", tmp_path / "often")
    for stop_after in (9, 6):  # stopped before the spike, and again among the steps left out because of it
        with pytest.raises(Stopped):
            attempt(tmp_path / "stopped", stop_after, checkpoint_every=5, **policy)
    stopped = tmp_path / "stopped" / "artifact"
    assert (stopped / ".scratch" / "checkpoint" / "step-00000009").exists()
    assert newest_checkpoint(stopped, STEPS)[1] == 5  # what another plan may go on from
    assert attempt(tmp_path / "stopped", checkpoint_every=5, **policy)["hash"] == weights
    same(tmp_path / "beginning", tmp_path / "stopped")


def test_a_process_killed_between_deciding_and_going_back_goes_back_at_its_next_start(
    attempt: Attempt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = {"loss_spike": "rewind", "rewind_steps": 4, "checkpoint_every": 2}
    attempt(tmp_path / "straight", **policy)

    def killed(self: Checkpoints, step: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "drop_after", killed)
        with pytest.raises(KeyboardInterrupt):
            attempt(tmp_path / "killed", **policy)
    scratch = tmp_path / "killed" / "artifact" / ".scratch"
    assert read_json(scratch / "rewinds.json")["pending"] == 8
    assert (scratch / "checkpoint" / "step-00000010").exists()
    on_the_way_back = [each.step for each in incidents({}, {"stem": tmp_path / "killed" / "artifact"})]
    (tmp_path / "killed" / "artifact" / "incidents.jsonl").rename(tmp_path / "cut off")
    assert on_the_way_back == [11] == [each.step for each in incidents({}, {"stem": scratch.parent})]
    attempt(tmp_path / "killed", **policy)
    same(tmp_path / "straight", tmp_path / "killed", "checkpoints.jsonl")


def test_a_stage_that_may_go_back_keeps_a_checkpoint_to_go_back_to(attempt: Attempt, tmp_path: Path) -> None:
    """Stopping leaves extra checkpoints; those that count as the newest two would be too new."""
    policy = {"loss_spike": "rewind", "rewind_steps": 4, "checkpoint_every": 5}
    for stop_after in (9, 1, 1):
        with pytest.raises(Stopped):
            attempt(tmp_path, stop_after, **policy)
    kept = sorted(path.name for path in (tmp_path / "artifact" / ".scratch" / "checkpoint").glob("step-*"))
    assert kept == ["step-00000005", "step-00000010", "step-00000011"]
    result = attempt(tmp_path, **policy)
    assert "continuing stem from step 5 (checkpoint/step-00000005)" in result["said"]


def test_rewinds_are_bounded_and_a_stage_may_stop_at_once(attempt: Attempt, tmp_path: Path) -> None:
    class Often(Spiking):
        spikes = frozenset({6, 9, 12})

    policy = {"loss_spike": "rewind", "rewind_steps": 1, "limit": 2}
    with pytest.raises(StageFailed, match=r"in step 12, the last of 3 steps.*limit is 2.*incidents\.jsonl"):
        attempt(tmp_path / "often", objective=Often, **policy)
    assert [line["step"] for line in lines(tmp_path / "often", "incidents")] == [6, 9, 12]
    with pytest.raises(StageFailed, match=r"in step 11, and guards\.loss_spike is `stop`"):
        attempt(tmp_path / "stop", loss_spike="stop")
    assert lines(tmp_path / "stop", "incidents")[0]["step"] == 11


def spiking(job: Job, engine: Engine) -> Spiking:
    """The entry of a launched job."""
    plan = Plan.load(Path(job.arguments["plan"]))
    shards = open_shards([Path(folder) for folder in job.arguments["tokens"]], "train")
    return Spiking(engine, plan, shards, job.training, {})


@pytest.mark.slow
def test_two_ranks_go_back_together(
    attempt: Attempt,
    inputs: dict[str, Artifact],
    make_plan: Callable[..., Artifact],
    make_job: Callable[..., Job],
    tmp_path: Path,
) -> None:
    """Through the real launch, on two replicas: the same documents, losses as on one up to fp32 sums."""
    policy = {"loss_spike": "rewind", "rewind_steps": 4}
    attempt(tmp_path / "one", **policy)
    job = make_job(tmp_path / "unused", guards=SENSITIVE | policy)
    work = tmp_path / "two" / "artifact"
    (work / ".scratch").mkdir(parents=True)
    events: list[Event] = []
    two = Execution(threads=1, data_parallel=2)
    summary = launch(
        "stem",
        Workspace(work, tmp_path, Progress("stem", [events.append]), two),
        "tests.pretrain.test_guards:spiking",
        {"plan": str(make_plan(STEPS).path), "tokens": [str(inputs["tokens"].path)]},
        model=job.model,
        training=job.training,
        tokenizer=inputs["tokenizer"].path,
    )
    assert summary["skipped_steps"] == 4
    assert any("step 11 is gone back from" in event.text for event in events)
    alone, shared = (lines(tmp_path / name, "receipts") for name in ("one", "two"))
    assert [line["batch_sha256"] for line in shared] == [line["batch_sha256"] for line in alone]
    losses = [[float.fromhex(line["loss"]) for line in found] for found in (alone, shared)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    incidents = [lines(tmp_path / name, "incidents") for name in ("one", "two")]
    assert incidents[1][0]["batch"] == incidents[0][0]["batch"]
