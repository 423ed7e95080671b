"""Training over the nodes of a Slurm job; on a real Slurm of two nodes on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.launch import command
from pretrain.srun import end_steps, steps
from pretrain.topology import run_problems
from stemma.core.errors import StemmaError
from stemma.core.stage import Execution
from stemma.profile import load_profile
from tests.micro import Micro
from tests.micro import command as micro_command
from tests.slurm_cluster import cluster, why_not

STAGE = "commonsense"
TWO_NODES = Execution(launcher="srun", nodes=2, data_parallel=4)


def test_outside_a_job_of_as_many_nodes_it_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    with pytest.raises(StemmaError, match=r"nodes 2; but this process runs in no Slurm job.*launcher=local"):
        command(tmp_path / "job.json", TWO_NODES)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "3")
    with pytest.raises(StemmaError, match=r"this Slurm job has 3"):
        command(tmp_path / "job.json", TWO_NODES)


def test_each_node_gets_a_torchrun_for_its_ranks(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    words = command(tmp_path / "stem-0123" / "scratch" / "job.json", TWO_NODES)
    assert words[:4] == [sys.executable, "-m", "pretrain.srun", "stemma-stem-0123"]
    assert {
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=8",
        "--nnodes=2",
        "--nproc-per-node=2",
    } <= set(words)
    assert words.index("pretrain.lifeline") < words.index("--nnodes=2") < words.index("pretrain.worker")


def test_srun_finds_its_own_meeting_point() -> None:
    model = load_profile("nano").model
    assert not list(run_problems(TWO_NODES, model, {}))
    by_hand = TWO_NODES.model_copy(update={"launcher": "local"})
    assert any("rendezvous" in problem for problem in run_problems(by_hand, model, {}))


SQUEUE = """#!/bin/sh
cd $(dirname $0)
echo x >> looks
case $(wc -l < looks) in
  1) echo "Unable to contact slurm controller" >&2; exit 1;;
  2) printf "17.0 other\\n17.1 stemma-stem-0123\\n";;
esac
"""


def test_a_silent_controller_is_not_taken_for_one_without_steps(tmp_path, monkeypatch) -> None:
    """An earlier attempt is looked for until Slurm answers, and ended before another begins."""
    for name, text in (("squeue", SQUEUE), ("scancel", '#!/bin/sh\necho "$@" >> $(dirname $0)/ended\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    end_steps("stemma-stem-0123")
    assert (tmp_path / "ended").read_text() == "--signal=KILL 17.1\n"
    (tmp_path / "looks").unlink()
    monkeypatch.setattr("pretrain.srun.END_SECONDS", 0.0)
    with pytest.raises(StemmaError, match=r"squeue does not say.*Unable to contact"):
        end_steps("stemma-stem-0123")


@pytest.mark.fault
@pytest.mark.timeout(900)
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_two_nodes_train_as_one_process_does(micro: Micro, tmp_path: Path, monkeypatch) -> None:
    alone = micro.make(STAGE)[STAGE].path
    root = micro.copy(tmp_path / "runs", before=STAGE)
    given = ["launcher=srun", "nodes=2", "data_parallel=2", "threads=1"]
    run = micro_command(root, STAGE, [f"execution.{item}" for item in given])
    (tmp_path / "job").write_text("#!/bin/bash\nexec " + " ".join(f"'{word}'" for word in run) + "\n")
    with cluster(tmp_path) as conf:
        monkeypatch.setenv("SLURM_CONF", str(conf))
        log = tmp_path / "job.log"
        submit = [
            "sbatch",
            "--wait",
            "--nodes=2",
            "--ntasks-per-node=1",
            f"--output={log}",
            str(tmp_path / "job"),
        ]
        done = subprocess.run(submit, cwd=Path(__file__).parents[2], check=False)
        assert done.returncode == 0, log.read_text()
        monkeypatch.setenv("SLURM_JOB_ID", "1")
        assert steps("stemma-anything") == ([], "")
    (made,) = root.glob(f"artifacts/{STAGE}-*")
    assert made.name == alone.name
    one, two = (
        [json.loads(line) for line in (folder / "receipts.jsonl").read_text().splitlines()]
        for folder in (alone, made)
    )
    assert [line["batch_sha256"] for line in one] == [line["batch_sha256"] for line in two]
    losses = [[float.fromhex(line["loss"]) for line in lines] for lines in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
