"""Executors: every rank once, on a process pool, on Ray and on Slurm, and what is said when workers die."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from datatrove.pipeline.base import PipelineStep
from pydantic import TypeAdapter, ValidationError

from data_pipeline.config.executor import AnyExecutor, RayExecutor, SlurmExecutor
from data_pipeline.executor.local import worker_pool
from data_pipeline.executor.ranks import StorageError, storage
from data_pipeline.executor.slurm import JobArrays, job_script, run_element
from data_pipeline.executor.start import start_executor
from stemma.core.config import identity
from stemma.core.errors import StageFailed, StemmaError


class Note(PipelineStep):
    """Writes its rank to a file, after a death or an error if it is told so."""

    def __init__(self, folder, killed=(), failing=(), once=False):
        super().__init__()
        self.folder, self.killed, self.failing, self.once = folder, killed, failing, once

    def run(self, data, rank=0, world_size=1):
        mark = self.folder / f"tried.{rank}"
        if rank in self.killed and not (self.once and mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)  # what the out-of-memory killer does
        if rank in self.failing:
            raise ValueError(f"rank {rank} has a bug")
        with open(self.folder / f"{rank}.txt", "a") as handle:
            handle.write(f"{rank} of {world_size}\n")
        yield from ()


def config(**fields):
    return TypeAdapter(AnyExecutor).validate_python(fields)


def test_a_killed_worker_is_noticed_at_once(tmp_path):
    started = time.monotonic()
    with pytest.raises(StageFailed, match="memory"), worker_pool(2, tmp_path / "logs") as pool:
        pool.run("kill", [Note(tmp_path, killed=[1])], 4)
    assert time.monotonic() - started < 60


def test_a_ray_task_whose_worker_dies_is_begun_again_and_the_rest_is_not(tmp_path):
    with start_executor(config(type="ray", max_retries=1), 2, tmp_path / "logs") as executor:
        counts = []
        executor.run("note", [Note(tmp_path, killed=[2], once=True)], 5, counts.append)
        assert counts == [1, 2, 3, 4, 5]
        assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(5)] == [
            f"{rank} of 5\n" for rank in range(5)
        ]
        executor.run("note", [Note(tmp_path)], 5, counts.append)  # all done: nothing happens
        assert counts == [1, 2, 3, 4, 5]
        with pytest.raises(
            StageFailed, match=r"a Ray worker died while it ran 'again'.*finished shards stay"
        ):
            executor.run("again", [Note(tmp_path, killed=[0])], 1)
        with pytest.raises(ValueError, match="rank 3 has a bug"):
            executor.run("bug", [Note(tmp_path, failing=[3])], 4)
    import ray

    assert not ray.is_initialized()


def test_no_ray_cluster_is_an_error_that_names_the_address(tmp_path):
    broken = RayExecutor(address="127.0.0.1:1")
    with pytest.raises(StemmaError, match=r"127\.0\.0\.1:1"), start_executor(broken, 1, tmp_path):
        pass


def test_executors_are_no_part_of_the_identity_and_are_checked():
    assert identity(config(type="slurm", time="1-00:00:00", options={"qos": "low"})) == {"type": "slurm"}
    for wrong in (
        {"type": "cloud"},
        {"type": "slurm", "time": "soon"},
        {"type": "slurm", "options": {"wrap; rm": "x"}},
        {"type": "slurm", "setup": ["module load gcc\nrm -r x"]},
        {"type": "slurm", "max_array_size": 0},
        {"type": "ray", "cpus_per_task": 0},
    ):
        with pytest.raises(ValidationError):
            config(**wrong)


def test_the_job_script_is_bash_that_runs_an_element_with_every_option_quoted(tmp_path):
    folder = tmp_path / "with a space" / "array"
    folder.mkdir(parents=True)
    slurm = SlurmExecutor(
        partition="cpu", account="lab one", max_running=3, setup=("export A=1",), options={"qos": "low"}
    )
    script = job_script(slurm, "filter_en", folder, 7)
    (tmp_path / "job.sbatch").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "job.sbatch")], check=True)
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert "#SBATCH --array=0-6%3" in lines
    assert "#SBATCH --account='lab one'" in lines
    assert "#SBATCH --qos=low" in lines
    assert f"#SBATCH --output='{folder}/%a.log'" in lines
    assert not any("partition=''" in line for line in lines)
    first_command = next(number for number, line in enumerate(lines[1:], 1) if not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])  # sbatch stops reading there
    assert lines.index("export A=1") > first_command


def test_an_element_runs_its_share_of_the_ranks_and_tells_why_one_failed(tmp_path):
    import dill
    from datatrove.executor.local import LocalPipelineExecutor

    array = tmp_path / "logs" / "note" / "array"
    array.mkdir(parents=True)
    pipeline = LocalPipelineExecutor(
        [Note(tmp_path, failing=[5])], tasks=6, logging_dir=str(tmp_path / "logs" / "note")
    )
    (array / "pipeline.pkl").write_bytes(dill.dumps(pipeline))
    (array / "ranks.json").write_text(json.dumps({"ranks": [0, 1, 3, 4, 5], "elements": 2}))
    run_element(array, 1)
    assert sorted(path.stem for path in tmp_path.glob("*.txt")) == ["1", "4"]
    with pytest.raises(ValueError, match="bug"):
        run_element(array, 0)
    assert sorted(path.stem for path in tmp_path.glob("*.txt")) == ["0", "1", "3", "4"]
    assert "rank 5 has a bug" in json.loads((array / "5.error").read_text())["traceback"]


def test_without_slurm_the_error_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StemmaError, match="login node"):
        JobArrays(SlurmExecutor(), tmp_path).run("note", [Note(tmp_path)], 2)


def slurm_answers() -> bool:
    if shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo"], capture_output=True, check=False, timeout=20).returncode == 0


with_slurm = pytest.mark.skipif(not slurm_answers(), reason="needs a Slurm cluster: sbatch and a controller")
QUICK = SlurmExecutor(poll_seconds=0.5, memory_per_cpu_mb=500, max_array_size=3, time="00:05:00")


@with_slurm
def test_slurm_runs_every_rank_once_and_explains_deaths_and_bugs(tmp_path):
    counts = []
    executor = JobArrays(QUICK, tmp_path / "logs of a run")
    executor.run("note", [Note(tmp_path)], 5, counts.append)
    assert counts == [1, 2, 3, 4, 5]
    assert all((tmp_path / f"{rank}.txt").read_text() == f"{rank} of 5\n" for rank in range(5))
    with pytest.raises(StageFailed, match="rank 1 has a bug"):
        executor.run("bug", [Note(tmp_path, failing=[1])], 2)
    with pytest.raises(StageFailed, match=r"2 shards have not \(first: 1, 4\).*sacct"):
        executor.run("kill", [Note(tmp_path, killed=[1])], 6)  # 4 shares the element of 1


@with_slurm
def test_a_second_run_waits_for_the_array_of_a_killed_one(tmp_path):
    executor = JobArrays(QUICK, tmp_path / "logs")
    folder = tmp_path / "logs" / "note" / "array"
    folder.mkdir(parents=True)
    held = QUICK.model_copy(update={"setup": (f"while [ ! -e {tmp_path}/go ]; do sleep 0.2; done",)})
    import dill
    from datatrove.executor.local import LocalPipelineExecutor

    pipeline = LocalPipelineExecutor([Note(tmp_path)], tasks=2, logging_dir=str(tmp_path / "logs" / "note"))
    job = JobArrays(held, tmp_path / "logs").submit("note", folder, dill.dumps(pipeline), [0, 1])
    assert executor.going_on(folder) == job
    (tmp_path / "go").touch()
    executor.run("note", [Note(tmp_path)], 2)
    assert json.loads((folder / "job.json").read_text()) == {"job": job}
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["0 of 2\n", "1 of 2\n"]


class Full(PipelineStep):
    """Writes more than a file may hold."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def run(self, data, rank=0, world_size=1):
        with open(self.path, "wb", buffering=0) as handle:
            handle.write(b"x")
        yield from ()


def test_a_file_that_may_not_be_opened_is_told_and_other_errors_pass(tmp_path):
    with (
        pytest.raises(StorageError, match=r"read: /a\.jsonl may not be used \(Permission denied\)"),
        storage(tmp_path, "read"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "/a.jsonl")
    with pytest.raises(FileNotFoundError), storage(tmp_path, "read"):
        (tmp_path / "nowhere").read_bytes()


def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path):
    with (
        pytest.raises(StorageError, match=r"/dev/full.*Free space") as caught,
        worker_pool(1, tmp_path) as pool,
    ):
        pool.run("fill", [Full("/dev/full")], 1)
    assert "shard 0" in str(caught.value)
