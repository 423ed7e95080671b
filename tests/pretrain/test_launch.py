from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.launch import launch
from stemma.core.artifact import Artifact
from stemma.core.errors import DamagedError, StageFailed
from stemma.core.progress import Event, Progress
from stemma.core.stage import Execution, Workspace

ENTRY = """
import os, signal
from stemma.core.errors import DamagedError

def explains(job, engine):
    raise DamagedError(f"{job.arguments['shard']} is not whole. It was left as it is.")

def breaks(job, engine):
    print("about to divide", flush=True)
    return 1 // 0

def dies(job, engine):
    print("the kernel is out of memory", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
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
    work = Workspace(
        Path(job.path), tmp_path, Progress("stem", [events.append]), Execution(threads=1, restarts=0)
    )

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


@pytest.mark.parametrize(
    ("function", "printed", "what"),
    [
        ("breaks", "return 1 // 0", "rank 0: ZeroDivisionError"),
        ("dies", "the kernel is out of memory", r"rank 0 \(process \d+\), building the model, died without"),
    ],
)
def test_a_failing_rank_shows_the_end_of_its_log_and_where_it_is(
    attempt: Callable[[str], None], tmp_path: Path, function: str, printed: str, what: str
) -> None:
    with pytest.raises(StageFailed, match=what) as caught:
        attempt(function)
    message = str(caught.value)
    log = tmp_path / "artifact" / ".scratch" / "worker.log"
    assert str(log) in message
    assert printed in log.read_text()
    assert printed in message


def test_a_job_survives_being_written_down(make_job: Callable[..., Any], tmp_path: Path) -> None:
    job = make_job(tmp_path, init=tmp_path, validation_tokens=77)
    assert type(job).model_validate_json(job.model_dump_json()) == job
