"""A Slurm cluster of two nodes on this machine, for tests: munged, slurmctld and two slurmd of our own.

Needs root and Slurm's daemons; nothing of it touches a cluster that is installed here.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = ("n1", "n2")


def why_not() -> str:
    """Why there can be no such cluster here; "" if there can."""
    missing = [name for name in (*DAEMONS, "sbatch") if _program(name) is None]
    if missing:
        return f"needs Slurm: {', '.join(missing)} not found"
    return "" if os.getuid() == 0 else "needs root, to start slurmd"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _ports(number: int) -> list[int]:
    """Free ports, different from each other."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def cluster(log_folder: Path) -> Iterator[Path]:
    """Run the cluster while the context lasts; yields what ``SLURM_CONF`` has to be.

    Args:
        log_folder: takes the daemons' logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="stemma-slurm-"))  # short: it holds a socket
    conf = folder / "slurm.conf"
    conf.write_text(_configuration(folder, *_ports(2 + len(NODES))))
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    munge = [f"--{part}-file={folder / part}" for part in ("key", "pid", "log", "seed")]
    commands = [
        ["munged", "--foreground", "--force", f"--socket={folder / 'munge'}", *munge],
        ["slurmctld", "-D", "-f", str(conf)],
        *(["slurmd", "-D", "-f", str(conf), "-N", node] for node in NODES),
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, (program, *arguments) in enumerate(commands):
            command = [_program(program) or program, *arguments]
            with open(log_folder / f"{number}-{program}.log", "wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        _wait_until_idle(conf, log_folder)
        yield conf
    finally:
        for daemon in reversed(started):
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(20)
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _configuration(folder: Path, controller: int, daemon: int, *nodes: int) -> str:
    host = socket.gethostname()
    lines = [
        "ClusterName=stemma",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={controller}",
        f"SlurmdPort={daemon}",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder / 'munge'}",
        f"StateSaveLocation={folder / 'state'}",
        f"SlurmdSpoolDir={folder / 'spool'}/%n",
        f"SlurmctldPidFile={folder / 'slurmctld.pid'}",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "ReturnToService=2",
        "MailProg=/bin/true",
        "PlugStackConfig=/dev/null",
        "SchedulerParameters=sched_interval=2",
        *(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1"
            for name, port in zip(NODES, nodes)
        ),
        f"PartitionName=cpu Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP",
    ]
    return "\n".join([*lines, ""])


def _wait_until_idle(conf: Path, logs: Path) -> None:
    query = ["sinfo", "--noheader", "--Node", "--format=%t"]
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            query, env={**os.environ, "SLURM_CONF": str(conf)}, capture_output=True, text=True, check=False
        )
        if done.stdout.split() == ["idle"] * len(NODES):
            return
        told = "\n".join(path.read_text(errors="replace")[-500:] for path in sorted(logs.glob("*.log")))
        assert time.monotonic() < deadline, f"{done.stdout}{done.stderr}\n{told}"
        time.sleep(0.2)
