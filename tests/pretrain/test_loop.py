"""The loop in this process, with the real engine, plan and shards."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.batch import MicroBatch
from pretrain.engine import Engine
from pretrain.loop import Stopped
from pretrain.objective import LanguageModel
from stemma.core.errors import DamagedError, StageFailed
from stemma.core.files import read_json, read_jsonl
from stemma.core.ledger import LedgerMismatch
from tests.pretrain.conftest import LOOP_STEPS as STEPS


def lines(folder: Path, name: str) -> list[Any]:
    return list(read_jsonl(folder / "artifact" / f"{name}.jsonl"))


def same_artifact(one: Path, other: Path) -> None:
    for name in (
        "receipts.jsonl",
        "ledger.json",
        "evaluation.json",
        "hf/model.safetensors",
        "hf/config.json",
    ):
        assert (one / "artifact" / name).read_bytes() == (other / "artifact" / name).read_bytes(), name


def test_a_stage_leaves_all_its_files_and_an_honest_summary(run: Callable[..., Any], tmp_path: Path) -> None:
    summary = run(tmp_path)["summary"]
    receipts, metrics = lines(tmp_path, "receipts"), lines(tmp_path, "metrics")
    assert [line["step"] for line in receipts] == list(range(STEPS)) == [line["step"] for line in metrics]
    for line, shown in zip(receipts, metrics):
        assert float.fromhex(line["loss"]) == shown["loss"]
        assert math.isfinite(float.fromhex(line["grad_norm"]))
        counted = sum(shown[f"loss/{domain}"] for domain in ("web", "code") if f"loss/{domain}" in shown)
        assert counted > 0
    assert summary["loss_first"] == metrics[0]["loss"]
    assert summary["loss_last"] == metrics[-1]["loss"] < summary["loss_first"]
    assert (summary["steps"], summary["tokens"]) == (STEPS, STEPS * 4 * 32)
    ledger = read_json(tmp_path / "artifact" / "ledger.json")
    assert ledger["planned"] == ledger["realized"]
    assert sum(count["tokens"] for count in ledger["realized"]["counts"].values()) == summary["tokens"]
    figures = read_json(tmp_path / "artifact" / "evaluation.json")
    assert all(figures["after"][domain] < figures["before"][domain] for domain in ("web", "code"))
    assert not (tmp_path / "artifact" / "incidents.jsonl").exists()
    config = read_json(tmp_path / "artifact" / "hf" / "config.json")
    assert config["eos_token_id"] == 256


def test_a_stopped_stage_goes_on_to_the_same_end(run: Callable[..., Any], tmp_path: Path) -> None:
    straight = run(tmp_path / "straight")
    for stop_after in (3, 2):  # the second attempt counts from where it continues
        with pytest.raises(Stopped):
            run(tmp_path / "stopped", stop_after=stop_after)
    resumed = run(tmp_path / "stopped")
    assert resumed["summary"]["resumed_from"] == 5
    assert resumed["events"][0].text == "continuing stem from step 5 (checkpoint/step-00000005)"
    assert resumed["hash"] == straight["hash"]
    same_artifact(tmp_path / "straight", tmp_path / "stopped")
    metrics = lines(tmp_path / "stopped", "metrics")
    assert [line["step"] for line in metrics] == list(range(STEPS))


def test_a_finished_stage_that_was_not_sealed_is_finished_again(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    run(tmp_path / "straight", lengths=(32, 64))
    run(tmp_path / "twice", lengths=(32, 64))
    (tmp_path / "twice" / "artifact" / "evaluation.json").unlink()
    again = run(tmp_path / "twice", lengths=(32, 64))
    assert again["summary"]["resumed_from"] == STEPS
    same_artifact(tmp_path / "straight", tmp_path / "twice")


def test_a_damaged_final_checkpoint_is_trained_again_and_never_sealed(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    run(tmp_path / "straight", checkpoint_every=3)
    run(tmp_path / "damaged", checkpoint_every=3)
    final = tmp_path / "damaged" / "artifact" / "checkpoint"
    (final / "random.json").write_text("[]")
    resumed = run(tmp_path / "damaged", checkpoint_every=3)
    assert resumed["summary"]["resumed_from"] == 6
    assert "random.json" in resumed["events"][0].text
    same_artifact(tmp_path / "straight", tmp_path / "damaged")
    kept = {path.name for path in (tmp_path / "damaged" / "artifact").iterdir()}
    assert kept == {path.name for path in (tmp_path / "straight" / "artifact").iterdir()}


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    run(tmp_path / "straight", checkpoint_every=2)
    with pytest.raises(Stopped):
        run(tmp_path / "damaged", stop_after=5, checkpoint_every=2)
    checkpoints = tmp_path / "damaged" / "artifact" / ".scratch" / "checkpoint"
    newest = checkpoints / "step-00000005"
    shard = next(newest.rglob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    resumed = run(tmp_path / "damaged", checkpoint_every=2)
    said = [event.text for event in resumed["events"] if event.text]
    assert "damaged checkpoint" in said[0]
    assert shard.name in said[0]
    assert "from step 4" in said[1]
    assert bytes(content) in [path.read_bytes() for path in checkpoints.rglob(shard.name)]  # kept for a look
    same_artifact(tmp_path / "straight", tmp_path / "damaged")


def test_receipts_that_were_tampered_with_are_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, stop_after=5)
    path = tmp_path / "artifact" / "receipts.jsonl"
    altered = path.read_bytes().replace(b"0x1.", b"0x2.", 1)
    path.write_bytes(altered)
    with pytest.raises(DamagedError, match=r"receipts\.jsonl"):
        run(tmp_path)
    assert path.read_bytes() == altered


class NanAt(LanguageModel):
    """The real objective, but the loss of some steps is not a number."""

    steps: frozenset[int]

    def batch(self, step: int, engine: Engine) -> Any:
        self.step = step
        return super().batch(step, engine)

    def loss(self, output: torch.Tensor, micro: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total, sums = super().loss(output, micro)
        return (total * float("nan") if self.step in self.steps else total), sums


def test_a_bad_step_is_recorded_with_its_documents_and_not_applied(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    class Once(NanAt):
        steps = frozenset({2})

    result = run(tmp_path, objective_class=Once)
    (incident,) = lines(tmp_path, "incidents")
    assert incident["step"] == 2
    assert incident["batch_sha256"] == lines(tmp_path, "receipts")[2]["batch_sha256"]
    assert len(incident["batch"]) == 4
    assert {"sample", "source", "start_token", "epoch"} <= incident["batch"][0].keys()
    assert [line["loss"] is None for line in lines(tmp_path, "metrics")] == [step == 2 for step in range(8)]
    assert result["summary"]["skipped_steps"] == 1
    assert all(math.isfinite(value) for value in result["summary"]["bits_per_byte"]["after"].values())
    assert any("step 2 was not applied" in event.text for event in result["events"])


def test_too_many_bad_steps_end_the_stage(run: Callable[..., Any], tmp_path: Path) -> None:
    class Always(NanAt):
        steps = frozenset(range(STEPS))

    with pytest.raises(StageFailed, match=r"not finite in step 5, the last of 6 steps.*incidents\.jsonl"):
        run(tmp_path, objective_class=Always)
    assert len(lines(tmp_path, "incidents")) == 6
    # the next attempt continues from a checkpoint and counts on from there instead of starting to count anew
    with pytest.raises(StageFailed, match="not finite in step 5, the last of 6 steps"):
        run(tmp_path, objective_class=Always)
    assert len(lines(tmp_path, "incidents")) == 6


def test_consuming_something_else_than_planned_stops_at_the_checkpoint(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    class Repeats(LanguageModel):
        def batch(self, step: int, engine: Engine) -> Any:
            return super().batch(0, engine)

    with pytest.raises(LedgerMismatch, match="planned Count"):
        run(tmp_path, objective_class=Repeats)
    assert not list((tmp_path / "artifact" / ".scratch").rglob("step-*"))


def test_the_next_stage_starts_from_weights_with_or_without_moments(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    first = run(tmp_path / "first")
    init = tmp_path / "first" / "artifact" / "checkpoint"
    carried = run(tmp_path / "carried", init=init, carry_optimizer=True)
    fresh = run(tmp_path / "fresh", init=init, carry_optimizer=False)
    after = first["summary"]["bits_per_byte"]["after"]
    assert carried["summary"]["bits_per_byte"]["before"] == after
    first_losses = [result["summary"]["loss_first"] for result in (carried, fresh)]
    assert first_losses[0] == first_losses[1]
    assert carried["hash"] != fresh["hash"]


def test_what_the_stage_before_measured_last_is_not_measured_again(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    measured = "measuring bits per byte before training"

    def said(result: dict[str, Any]) -> list[str]:
        return [event.text for event in result["events"] if event.text]

    assert measured in said(run(tmp_path / "first"))
    init = tmp_path / "first" / "artifact" / "checkpoint"
    taken_over = run(tmp_path / "second", init=init)
    assert measured not in said(taken_over)
    other = run(tmp_path / "other", init=init, validation_tokens=128)
    assert measured in said(other)
    before = taken_over["summary"]["bits_per_byte"]["before"]
    assert other["summary"]["bits_per_byte"]["before"] != before
    (init.parent / "evaluation.json").unlink()
    again = run(tmp_path / "again", init=init)
    assert measured in said(again)
    assert again["summary"]["bits_per_byte"]["before"] == before


def test_no_line_of_a_receipt_knows_the_time(run: Callable[..., Any], tmp_path: Path) -> None:
    run(tmp_path)
    for line in (tmp_path / "artifact" / "receipts.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {"step", "batch_sha256", "loss", "grad_norm", "lr"}
