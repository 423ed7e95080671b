"""The whole chain at the size of ``micro.yaml``: made once a session, and given to tests as hard links.

A test that needs a stage's inputs asks for them and runs that stage alone:

    def test_something(micro: Micro, tmp_path: Path) -> None:
        root = micro.copy(tmp_path / "runs", before="stem")
        done = run_micro(root, "stem")
"""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stemma.core.artifact import Artifact, Store
from stemma.core.files import write_json
from stemma.pipeline import RUN_RECORD, nodes, open_run, read_record

PROFILE = Path(__file__).with_name("micro.yaml")
NAME = "micro"
SECRET = "e7a1c0ffee5ec2e7"  # in the environment of every process; nothing that is kept may hold it
PATIENCE = 900  # seconds for the whole chain; it takes one minute on an idle machine


@dataclass(frozen=True)
class Micro:
    """A store in which the chain is made as far as somebody asked for.

    Attributes:
        root: the folder of runs. Only ``make`` writes there.
    """

    root: Path

    def make(self, stop_after: str = "export") -> dict[str, Artifact]:
        """Artifacts by node, made up to this one. Whoever else wants them meanwhile waits."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".making", "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            made = self._made()
            if stop_after not in made:
                done = run_micro(self.root, stop_after)
                assert done.returncode == 0, done.stdout
                made = self._made()
        return made

    def copy(self, root: Path, before: str = "") -> Path:
        """A folder of runs of your own that holds all that is made before a node, or the whole finished run.

        Files are hard links: replace one, do not write into it (``own`` makes a file yours).

        Args:
            root: where; returned.
            before: the node that is to be made there; empty: the chain is finished.
        """
        names = [node.name for node in nodes()]
        wanted = names[: names.index(before)] if before else names
        made = self.make(wanted[-1]) if wanted else {}
        for name in wanted:
            source = made[name].path
            shutil.copytree(source, root / source.relative_to(self.root), copy_function=link)
        record = read_record(Store(self.root), NAME) if wanted else {"profile": NAME, "nodes": {}}
        if not before:
            shutil.copytree(self.root / NAME, root / NAME)  # the reports
        write_json(root / NAME / RUN_RECORD, {**record, "nodes": {n: record["nodes"][n] for n in wanted}})
        return root

    def _made(self) -> dict[str, Artifact]:
        return open_run(Store(self.root), NAME) if (self.root / NAME / RUN_RECORD).exists() else {}


def command(
    root: Path, stop_after: str = "export", overrides: Sequence[str] = (), verb: str = "run"
) -> list[str]:
    """The command that runs the chain up to a node below ``root``; ``demo`` runs it as a flow."""
    arguments = [verb, "--profile", str(PROFILE), "--root", str(root), "--stop-after", stop_after]
    return [sys.executable, "-m", "stemma.cli", *arguments, *(f"--set={item}" for item in overrides)]


def run_micro(
    root: Path, stop_after: str = "export", overrides: Sequence[str] = (), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run the chain up to a node in a process of its own; what it said is in ``stdout``."""
    return subprocess.run(
        command(root, stop_after, overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        env=surroundings(environment),
    )


def surroundings(changes: Mapping[str, str] = {}) -> dict[str, str]:
    """The environment of a process that a test starts, from any folder."""
    paths = filter(None, [str(PROFILE.parents[1]), os.environ.get("PYTHONPATH", "")])
    fixed = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "SOME_API_KEY": SECRET}
    return {**os.environ, **fixed, **changes}


def link(source: str, target: str) -> None:
    """A hard link, or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copyfile(source, target)


def own(path: Path) -> Path:
    """Make a hard-linked file this folder's own, so that a test may write into it; returns it."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path
