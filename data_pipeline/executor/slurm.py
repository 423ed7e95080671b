"""Ranks as elements of Slurm job arrays: one array per phase, followed until it ends.

datatrove's own Slurm executor submits and returns; here each phase needs the one before, within one stage, so
this waits. The array's number is written down before anything else happens: a run that was killed while its
array went on finds that array again and waits for it, instead of starting the same ranks a second time.

    <logs>/<phase>/array/pipeline.pkl   the pickled executor
    <logs>/<phase>/array/ranks.json     which ranks, and how many elements share them
    <logs>/<phase>/array/job.sbatch     the script that was submitted
    <logs>/<phase>/array/job.json       the array's number
    <logs>/<phase>/array/<n>.log        what element n printed
    <logs>/<phase>/array/<rank>.error   why a rank failed
"""

import json
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.config.executor import SlurmExecutor
from data_pipeline.executor.ranks import Executor, StorageError, run_rank
from stemma.core.errors import StageFailed, StemmaError
from stemma.core.files import read_json, write_atomic, write_json

LOST_AFTER = 3  # looks in a row at which the controller knows no element, before the array counts as ended


class JobArrays(Executor):
    """Submits each phase's ranks as an array and yields them as their completion marks appear."""

    def __init__(self, config: SlurmExecutor, logs: Path) -> None:
        super().__init__(logs)
        self.config = config

    def execute(self, name: str, pickled: bytes, ranks: list[int]) -> Iterator[int]:
        folder = self.logs / name / "array"
        folder.mkdir(parents=True, exist_ok=True)
        job = self.going_on(folder)
        if not job:
            job = self.submit(name, folder, pickled, ranks)
        waiting = set(ranks)
        unseen = 0
        try:
            while waiting:
                # The queue first: a rank that ends between the two looks is then seen by the second.
                unseen = 0 if queued(job) else unseen + 1
                ended = {rank for rank in waiting if (self.logs / name / f"completions/{rank:05d}").exists()}
                waiting -= ended
                yield from sorted(ended)
                if waiting and unseen >= LOST_AFTER:
                    raise failure(name, folder, job, waiting)
                if waiting:
                    time.sleep(self.config.poll_seconds)
        except BaseException:
            subprocess.run(["scancel", job], capture_output=True, check=False)
            raise

    def going_on(self, folder: Path) -> str:
        """The array an earlier run submitted for this phase, if Slurm still has it; or ""."""
        record = folder / "job.json"
        job = str(read_json(record)["job"]) if record.exists() else ""
        return job if job and queued(job) else ""

    def submit(self, name: str, folder: Path, pickled: bytes, ranks: list[int]) -> str:
        """Write the array's files and submit it; return its number.

        Raises:
            StemmaError: sbatch is not there, or refuses; says what it said.
        """
        for old in folder.glob("*.error"):
            old.unlink()
        elements = min(len(ranks), self.config.max_array_size)
        write_atomic(folder / "pipeline.pkl", pickled)
        write_json(folder / "ranks.json", {"ranks": ranks, "elements": elements})
        script = folder / "job.sbatch"
        write_atomic(script, job_script(self.config, name, folder, elements))
        job = command("sbatch", "--parsable", str(script)).strip().split(";")[0]
        write_json(folder / "job.json", {"job": job})
        return job


def job_script(config: SlurmExecutor, name: str, folder: Path, elements: int) -> str:
    """The sbatch script of a phase.

    Args:
        config: resources, limits and options.
        name: of the phase.
        folder: of the array's files.
        elements: of the array.
    """
    at_once = f"%{config.max_running}" if config.max_running else ""
    options = {
        "job-name": f"stemma-{name}",
        "array": f"0-{elements - 1}{at_once}",
        "output": f"{folder}/%a.log",
        "open-mode": "append",
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(config.cpus_per_task),
        "mem-per-cpu": f"{config.memory_per_cpu_mb}M",
        "time": config.time,
        "partition": config.partition,
        "account": config.account,
        **config.options,
    }
    lines = [f"#SBATCH --{key}={shlex.quote(value)}" for key, value in options.items() if value]
    root = Path(__file__).resolve().parents[2]
    run = shlex.join([sys.executable, "-m", "data_pipeline.executor.slurm", str(folder)])
    return "\n".join(
        [
            "#!/bin/bash",
            *lines,
            "set -euo pipefail",
            *config.setup,
            "export OMP_NUM_THREADS=1",
            f"export PYTHONPATH={shlex.quote(str(root))}${{PYTHONPATH:+:$PYTHONPATH}}",
            f'exec {run} "$SLURM_ARRAY_TASK_ID"',
            "",
        ]
    )


def command(*words: str) -> str:
    """What a Slurm command prints.

    Raises:
        StemmaError: it is not installed, or it failed.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise StemmaError(
            f"`{words[0]}` is not on this machine: run on a Slurm login node, or set the "
            "executor's type to local"
        ) from error
    if done.returncode:
        raise StemmaError(f"`{shlex.join(words)}` failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def queued(job: str) -> bool:
    """Whether Slurm has elements of an array that have not ended; if the controller does not answer, yes."""
    done = subprocess.run(
        ["squeue", "--noheader", "--format=%T", "--jobs", job], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return "Invalid job id" not in done.stderr
    return bool(done.stdout.strip())


def failure(name: str, folder: Path, job: str, missing: set[int]) -> StemmaError:
    """Why an array ended without all of its ranks."""
    errors = sorted(folder.glob("*.error"))
    told = [json.loads(path.read_text()) for path in errors]
    full = next((entry for entry in told if entry["kind"] == StorageError.__name__), None)
    if full:
        return StorageError(full["message"])
    if told:
        return StageFailed(
            f"{name}: shard {told[0]['rank']} failed in Slurm job {job}:\n{told[0]['traceback']}"
        )
    ranks = ", ".join(map(str, sorted(missing)[:5])) + (", ..." if len(missing) > 5 else "")
    return StageFailed(
        f"{name}: Slurm job {job} ended, but {len(missing)} shards have not (first: {ranks}): killed for "
        f"memory or time, or the node died; `sacct -j {job}` knows. Raise memory_per_cpu_mb or time and run "
        f"again; finished shards stay. Logs: {folder}"
    )


def run_element(folder: Path, element: int) -> None:
    """Run the ranks of one element of an array; called by the job script."""
    work = read_json(folder / "ranks.json")
    pickled = (folder / "pipeline.pkl").read_bytes()
    for rank in work["ranks"][element :: work["elements"]]:
        try:
            run_rank(pickled, rank)
        except Exception as error:
            told = {
                "rank": rank,
                "kind": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(limit=-5),
            }
            write_json(folder / f"{rank}.error", told)
            raise


if __name__ == "__main__":
    run_element(Path(sys.argv[1]), int(sys.argv[2]))
