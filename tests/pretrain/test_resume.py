"""A stage that is killed anywhere and run again ends like one that never was: what receipts are for."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_pipeline.config import PlanConfig
from data_pipeline.curriculum.stage import PlanStage
from pretrain.config import ModelConfig, TrainingConfig
from pretrain.launch import EVENTS, RESULT, Job
from stemma.core.artifact import Artifact, Store, open_artifact
from stemma.core.errors import Preempted
from stemma.core.files import read_json, read_jsonl, write_atomic
from stemma.core.stage import Execution, execute
from tests.pretrain.zygote import DIED, Death, Zygote
from tests.programs import (
    PATIENCE,
    Program,
    kill_when,
    receipts,
    still_running,
    wait_until,
)

STEPS, EVERY, BATCH = 30, 4, 4
RECORDS = ("receipts.jsonl", "checkpoints.jsonl", "ledger.json", "evaluation.json", "hf/config.json")
SAME = (*RECORDS, "hf/model.safetensors")


@pytest.fixture(scope="module")
def plan(inputs: dict[str, Artifact]) -> Artifact:
    """Three phases of ten steps: the second mixes otherwise, the third reads longer sequences."""
    common = {"tokens": 10 * BATCH * 32, "sequence_length": 32}
    phases = [
        common | {"name": "web", "weights": {"web": 2.0, "code": 1.0}},
        common | {"name": "code", "weights": {"web": 1.0, "code": 3.0}},
        common | {"name": "long", "weights": {"code": 1.0}, "sequence_length": 64, "document_mask": True},
    ]
    config = PlanConfig.model_validate({"curriculum": {"phases": phases}, "global_batch_size": BATCH})
    store = Store(inputs["tokens"].path.parent.parent)
    return execute(PlanStage("plan.resume", config, {"tokens": inputs["tokens"]}), store)


# --- forks of one process: many attempts, each from the disk alone ---------------------------------


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as running:
        yield running


@pytest.fixture(scope="module")
def prepare(
    plan: Artifact,
    inputs: dict[str, Artifact],
    tiny_model: ModelConfig,
    make_training: Callable[..., TrainingConfig],
) -> Callable[..., Path]:
    """``prepare(folder, ranks)``: writes the job of a training in ``folder``, on so many replicas."""

    def write(folder: Path, ranks: int = 1) -> Path:
        scratch = folder / ".scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        job = Job(
            stage="stem",
            entry="pretrain.objective:language_model",
            arguments={
                "plan": str(plan.path),
                "tokens": [str(inputs["tokens"].path)],
                "rope_theta": {"64": 50_000.0},
            },
            model=tiny_model,
            training=make_training(global_batch_size=BATCH, checkpoint_every=EVERY),
            execution=Execution(threads=1, data_parallel=ranks),
            path=str(folder),
            scratch=str(scratch),
            init=None,
            tokenizer=str(inputs["tokenizer"].path),
            validation=[str(inputs["tokens"].path)],
        )
        write_atomic(scratch / "job.json", job.model_dump_json())
        (scratch / RESULT).unlink(missing_ok=True)
        return scratch / "job.json"

    return write


@pytest.fixture(scope="module")
def undisturbed(
    zygote: Zygote, prepare: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a training that nobody disturbs; ``files`` beside it lists what it did with files."""
    folder = tmp_path_factory.mktemp("undisturbed") / "artifact"
    assert zygote.run(prepare(folder), events=folder.with_name("files")) == [0], log_of(folder)
    return folder


def log_of(folder: Path, rank: int = 0) -> str:
    return (folder / ".scratch" / f"rank-{rank}.log").read_text()[-3000:]


def said(folder: Path) -> list[str]:
    return [event["text"] for event in read_jsonl(folder / ".scratch" / EVENTS) if event["kind"] == "say"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_step_it_ends_the_same(
    zygote: Zygote, prepare: Callable[..., Path], undisturbed: Path, tmp_path: Path
) -> None:
    """Killed after, at the beginning and in the middle of a step in turn, and all over a save and the end."""
    folder = tmp_path / "artifact"
    job = prepare(folder)

    def die(where: Death) -> None:
        assert zygote.run(job, death=where) == [DIED], f"{where}\n{log_of(folder)}"

    die(Death(0, beats=1))  # while it measures, before anything
    for step in range(1, STEPS + 1):
        if step == 2 * EVERY:
            for event in spread(during(undisturbed, step, step + EVERY), 12):
                die(Death(step, event=event))
        die(Death(step, beats=0 if step == STEPS else step % 3))
    # The last checkpoint, the export, the records, the move of the checkpoint.
    for event in spread(during(undisturbed, STEPS, STEPS + 1), 12):
        if zygote.run(job, death=Death(0, event=event)) == [0]:
            break
    assert zygote.run(job) == [0], log_of(folder)

    for name in SAME:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    state = "checkpoint/record.json"
    assert (folder / state).read_bytes() == (undisturbed / state).read_bytes()
    assert len(list(read_jsonl(folder / "receipts.jsonl"))) == STEPS
    assert [line["step"] for line in read_jsonl(folder / "checkpoints.jsonl")] == [*range(4, 30, 4), 30]
    continued = {text.split(" (")[0] for text in said(folder) if text.startswith("continuing")}
    # The last one, two steps before the end, may still be in the writing at every kill after it.
    assert {f"continuing stem from step {step}" for step in range(EVERY, STEPS - EVERY, EVERY)} <= continued


def during(folder: Path, first: int, last: int) -> int:
    """File operations of an undisturbed training after ``first`` and before ``last`` steps were done."""
    steps = [int(line.split()[0]) for line in folder.with_name("files").read_text().splitlines()]
    return sum(first <= step < last for step in steps)


def spread(count: int, parts: int) -> list[int]:
    """About so many of the numbers below ``count``, the first and the last among them."""
    assert count > parts
    return sorted({round(part * (count - 1) / (parts - 1)) for part in range(parts)})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_number_of_replicas_reads_the_same_batches(
    zygote: Zygote, prepare: Callable[..., Path], undisturbed: Path, tmp_path: Path
) -> None:
    """One rank, then two, of which one is killed, then one again, and two at the end."""
    folder = tmp_path / "artifact"
    assert zygote.run(prepare(folder, 1), 1, Death(6)) == [DIED]
    codes = zygote.run(prepare(folder, 2), 2, Death(17, beats=1))
    assert codes[1] == DIED
    assert codes[0] == 1, "the other rank loses its peer"
    assert zygote.run(prepare(folder, 1), 1, Death(22, beats=2)) == [DIED]
    assert zygote.run(prepare(folder, 2), 2) == [0, 0], log_of(folder)

    both = [list(read_jsonl(path / "receipts.jsonl")) for path in (undisturbed, folder)]
    for one, other in zip(*both, strict=True):
        assert one["batch_sha256"] == other["batch_sha256"]
        assert one["lr"] == other["lr"]
        assert float.fromhex(one["loss"]) == pytest.approx(float.fromhex(other["loss"]), rel=1e-4)
    assert (folder / "ledger.json").read_bytes() == (undisturbed / "ledger.json").read_bytes()
    assert sum(text.startswith("continuing stem from step") for text in said(folder)) >= 2
    figures = [read_json(path / "evaluation.json")["after"] for path in (undisturbed, folder)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-3)


# --- the command line, with all processes below it -------------------------------------------------------


def start(root: Path) -> Program:
    """``stemma run`` in a session of its own."""
    program = Path(__file__).with_name("run_cli.py")
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(program), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(program.parents[2])},
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_stops_when_asked_dies_when_killed_and_goes_on(tmp_path: Path) -> None:
    """A scheduler's SIGTERM, then SIGKILL of the group: nothing stays behind, each step is done once."""
    process = start(tmp_path)
    wait_until(process, lambda: receipts(tmp_path) >= 2)
    process.terminate()
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == Preempted.exit_code == 75, output
    stopped = r"^stemma: stem was asked to stop; .* a checkpoint at step (\d+)$"
    (reached,) = map(int, re.findall(stopped, output, re.MULTILINE))
    assert 2 <= reached < STEPS
    assert still_running(tmp_path) == []
    process = start(tmp_path)
    kill_when(process, lambda: receipts(tmp_path) >= reached + 2)
    wait_for(lambda: not still_running(tmp_path))
    process = start(tmp_path)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert "continuing stem from step" in output
    (artifact,) = (open_artifact(path) for path in tmp_path.glob("artifacts/stem-*"))
    assert artifact.summary["resumed_from"] >= reached
    assert [line["step"] for line in read_jsonl(artifact.file("receipts.jsonl"))] == list(range(STEPS))
    assert [line["step"] for line in read_jsonl(artifact.file("checkpoints.jsonl"))] == [*range(4, 30, 4), 30]


def wait_for(condition: Callable[[], bool]) -> None:
    """The kernel ends orphans at once, but not at the same moment."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
