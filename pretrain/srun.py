"""Training on all nodes of a Slurm job: ``srun`` starts torchrun on each, and torchrun that node's ranks.

``python -m pretrain.srun STEP SRUN-OPTIONS...`` ties itself to the stage that starts it, ends what an earlier
attempt left on other nodes (the kernel kills a child with its parent on one machine only), and becomes srun.
A signal to srun reaches torchrun on every node, and each passes it on to its ranks.
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from pretrain.lifeline import PARENT_VARIABLE, tie
from stemma.core.errors import StemmaError
from stemma.core.stage import Execution

JOB = "SLURM_JOB_ID"
LOOK_SECONDS = 0.5
END_SECONDS = 120.0  # for the steps of an earlier attempt; Slurm itself insists after KillWait (30 s)


def on_all_nodes(execution: Execution, job: Path) -> list[str]:
    """The command that trains on the nodes of the Slurm job this process runs in.

    Args:
        execution: ``nodes`` has to be those of the job.
        job: the training job's file, on a file system that every node sees.

    Raises:
        StemmaError: this is no Slurm job, or one of another number of nodes.
    """
    found = int(os.environ.get("SLURM_JOB_NUM_NODES", "0"))
    if found != execution.nodes:
        where = f"this Slurm job has {found}" if found else "this process runs in no Slurm job"
        raise StemmaError(
            f"execution.launcher is srun, and execution.nodes {execution.nodes}; but {where}. Submit a job "
            f"of {execution.nodes} nodes (sbatch, salloc, or the Slurm work pool), or set "
            "execution.launcher=local"
        )
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")  # srun takes it from no job by itself
    options = [
        f"--nodes={execution.nodes}",
        f"--ntasks={execution.nodes}",
        "--ntasks-per-node=1",
        *([f"--cpus-per-task={cpus}"] if cpus else []),
        "--kill-on-bad-exit=1",  # ranks that lost their peers on another node do not wait for them
        "--unbuffered",
    ]
    torchrun = [
        f"--nnodes={execution.nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={execution.rendezvous or _free_address()}",
        f"--rdzv-id={os.environ[JOB]}",
        f"--nproc-per-node={execution.ranks // execution.nodes}",
    ]
    ranks = [*torchrun, "-m", "pretrain.worker", str(job)]
    lifeline = [sys.executable, "-m", "pretrain.lifeline", *ranks]
    # Of the stage's folder: who holds its lock may end what an earlier process left under this name.
    step = f"stemma-{job.parent.parent.name}"
    return [sys.executable, "-m", "pretrain.srun", step, *options, *lifeline]


def _free_address() -> str:
    """An address of this machine, the job's first node, where torchrun's own meeting point can be."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{socket.gethostname()}:{probe.getsockname()[1]}"


def main() -> NoReturn:
    tie()
    # Below srun nobody is a child of the stage; there, Slurm ends what is left.
    os.environ.pop(PARENT_VARIABLE, None)
    step, *arguments = sys.argv[1:]
    end_steps(step)
    os.execvp("srun", ["srun", f"--job-name={step}", *arguments])


def end_steps(name: str) -> None:
    """Kill this job's steps of a name and wait until they are gone.

    Raises:
        StemmaError: one does not end, or Slurm does not say whether there is one: two attempts would write
            into one folder.
    """
    deadline = time.monotonic() + END_SECONDS
    while True:
        left, trouble = steps(name)
        if not left and not trouble:
            return
        for step in left:
            subprocess.run(["scancel", "--signal=KILL", step], capture_output=True, check=False)
        if time.monotonic() > deadline:
            raise StemmaError(
                f"step {', '.join(left)} of an earlier attempt was killed and does not end; `scancel` it, or "
                "let the job end, then run the same command again"
                if left
                else f"squeue does not say whether an earlier attempt still runs: {trouble}"
            )
        time.sleep(LOOK_SECONDS)


def steps(name: str) -> tuple[list[str], str]:
    """This job's running steps of a name, as Slurm numbers them; and why it does not say, if so."""
    query = ["squeue", "--steps", "--noheader", "--format=%i %j", "--jobs", os.environ[JOB]]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    if done.returncode:
        return [], done.stderr.strip() or f"it ended with code {done.returncode}"
    return [line.split()[0] for line in done.stdout.splitlines() if line.split()[1:] == [name]], ""


if __name__ == "__main__":
    main()
