import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.launch import launch
from stemma.core.artifact import Artifact
from stemma.core.errors import DamagedError, StageFailed
from stemma.core.files import read_jsonl
from stemma.core.progress import Event, Progress
from stemma.core.stage import Execution, Workspace

ENTRY = """
from stemma.core.errors import DamagedError

def explains(job, engine):
    raise DamagedError(f"{job.arguments['shard']} is not whole. It was left as it is.")

def breaks(job, engine):
    print("about to divide", flush=True)
    return 1 // 0
"""


@pytest.fixture
def attempt(
    inputs: dict[str, Artifact], make_job: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """``attempt(function)``: launch a job whose entry is one of the functions above."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "entry_of_test_launch.py").write_text(ENTRY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    job = make_job(tmp_path)
    events: list[Event] = []
    work = Workspace(Path(job.path), tmp_path, Progress("stem", [events.append]), Execution(threads=1))

    def start(function: str) -> None:
        launch(
            "stem",
            work,
            f"entry_of_test_launch:{function}",
            {"shard": "web.bin"},
            model=job.model,
            training=job.training,
            tokenizer=inputs["tokenizer"].path,
        )

    return start


def test_an_error_that_explains_itself_comes_through_as_it_is(attempt: Callable[[str], None]) -> None:
    with pytest.raises(DamagedError) as caught:
        attempt("explains")
    assert str(caught.value) == "web.bin is not whole. It was left as it is."


def test_a_failing_rank_shows_its_traceback_and_where_its_log_is(
    attempt: Callable[[str], None], tmp_path: Path
) -> None:
    """It is an error in a program, so that it is not tried again."""
    with pytest.raises(StageFailed, match="rank 0: ZeroDivisionError") as caught:
        attempt("breaks")
    log = tmp_path / "artifact" / ".scratch" / "worker.log"
    assert str(log) in str(caught.value)
    assert "return 1 // 0" in str(caught.value)
    assert log.read_text().count("about to divide") == 1


TROUBLE = """
import os, signal, time
from pathlib import Path
from pretrain.objective import language_model

def waits_for_a_disk():
    time.sleep(600)

def language_model_in_trouble(job, engine):
    objective = language_model(job, engine)
    read = objective.batch
    attempts = Path(job.path).with_name("attempts")

    def batch(step, engine):
        if engine.rank == 1 and step == 6:
            attempts.open("a").write("x")
            attempt = len(attempts.read_text())
            if attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if attempt == 2:
                waits_for_a_disk()
        return read(step, engine)

    objective.batch = batch
    return objective
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_outlive_a_death_and_a_hang(
    inputs: dict[str, Artifact],
    make_job: Callable[..., Any],
    make_plan: Callable[..., Artifact],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchrun, gloo and the real loop: rank 1 is killed in its seventh step, then hangs there."""
    (tmp_path / "trouble_of_test_launch.py").write_text(TROUBLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = make_job(tmp_path, async_checkpoints=False)
    events: list[Event] = []
    execution = Execution(threads=1, data_parallel=2, hang_seconds=4)
    summary = launch(
        "stem",
        Workspace(Path(job.path), tmp_path, Progress("stem", [events.append]), execution),
        "trouble_of_test_launch:language_model_in_trouble",
        {"plan": str(make_plan(8).path), "tokens": job.validation},
        model=job.model,
        training=job.training,
        tokenizer=inputs["tokenizer"].path,
    )
    assert (summary["steps"], summary["restarts"], summary["resumed_from"]) == (8, 2, 4)
    assert [line["step"] for line in read_jsonl(tmp_path / "artifact" / "receipts.jsonl")] == list(range(8))
    died, hung = [event.text for event in events if "restart" in event.text]
    assert re.match(r"rank 1 \(process \d+\), training after step 6, died without a word", died)
    assert "stem goes on from the checkpoint of step 4" in died
    assert re.search("rank 0 .* training after step 6; rank 1 .* training after step 6", hung)
    log = (tmp_path / "artifact" / ".scratch" / "worker.log").read_text()
    assert "in waits_for_a_disk" in log
    assert "in all_gather_object" in log, "where the other rank waits"


def test_a_job_survives_being_written_down(make_job: Callable[..., Any], tmp_path: Path) -> None:
    job = make_job(tmp_path, init=tmp_path, validation_tokens=77)
    assert type(job).model_validate_json(job.model_dump_json()) == job
