"""A run of the micro chain that something happens to: started, held at a place, disturbed, and run again."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from stemma.core.artifact import Artifact, Store, open_artifact
from stemma.core.files import read_json
from stemma.pipeline import open_run
from tests.faults.teacher import Teacher
from tests.micro import NAME, PATIENCE, command, surroundings
from tests.programs import still_running

POINTS = Path(__file__).with_name("points")
# What holds a clock, or the SHA-256 of what does; of checkpoints the tensors and record.json are compared.
OF_THIS_RUN = re.compile(
    r"metrics\.jsonl|tensorboard/.*"
    r"|(checkpoint|milestones/[^/]*)/(extra\.json|manifest\.json|state/\.metadata)"
)


Act = Callable[["Scene"], None]


def nothing(scene: "Scene") -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what must hold afterwards.

    Attributes:
        name: of the test.
        what: happens, for people.
        where: in the chain, for people.
        node: the run goes up to this one.
        code: exit code of the disturbed run; 0: it deals with it and finishes.
        point: the call before which a process is held, as ``module:name#number``; empty: none is.
        do: what is done while it is held; it is let go afterwards.
        before: what is done before the disturbed run starts.
        says: what the disturbed run must have said, a regular expression.
        mend: what a person does before running the same command again.
        then_says: what that run must have said.
        holds: what is true then besides the results, for people.
        again: run again even if the disturbed run finished.
        ranks: training processes.
        overrides: changes to the profile; names in braces stand for what the scene knows.
        flow: it is `stemma demo`, the chain as a Prefect flow with a server of its own.
        own: the overrides make other artifacts: it is compared with an undisturbed run of its own.
        clock: the processes look at a clock that can be set.
        disk: it runs on a file system of so many megabytes.
        quick: it is a part of ``make test``.
    """

    name: str
    what: str
    where: str
    node: str
    code: int
    point: str = ""
    do: Act = nothing
    before: Act = nothing
    says: str = ""
    mend: Act = nothing
    then_says: str = ""
    holds: str = ""
    again: bool = False
    ranks: int = 1
    overrides: tuple[str, ...] = ()
    flow: bool = False
    own: bool = False
    clock: bool = False
    disk: int = 0
    quick: bool = False


@dataclass
class Scene:
    """One disturbed run.

    Attributes:
        fault: what happens.
        root: its folder of runs.
        folder: for the signs between it and us.
        said: what the runs printed, attempt by attempt.
        others: further processes, ended with the scene.
        environment: changes to that of its runs.
        values: what names in braces stand for in its overrides.
        teacher: an endpoint that labels documents, if it is started.
        ballast: the file that fills its disk.
    """

    fault: Fault
    root: Path
    folder: Path
    said: list[str] = field(default_factory=list)
    others: "list[subprocess.Popen[str]]" = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] = field(default_factory=dict)
    teacher: Teacher = field(default_factory=Teacher)
    ballast: Path | None = None

    def play(self) -> dict[str, Artifact]:
        """Disturb a run, mend, run again; returns what it ends with."""
        fault = self.fault
        fault.before(self)
        program = self.start(disturbed=True)
        try:
            if fault.point:
                self.wait(lambda: (self.folder / "reached").exists(), program)
                fault.do(self)
                (self.folder / "go").touch()
            code = self.finish(program)
        finally:
            for one in (program, *self.others):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(one.pid, signal.SIGKILL)
                one.wait()
        self.expect(code, fault.code, fault.says)
        fault.mend(self)
        if code or fault.again:
            self.attempt(0, fault.then_says)
        return open_run(Store(self.root), NAME)

    def attempt(self, code: int, says: str = "") -> None:
        """Run again, and look how it ends."""
        self.expect(self.finish(self.start()), code, says)

    def expect(self, code: int, expected: int, says: str) -> None:
        """A run ended as it has to, and left nothing that lives."""
        assert code == expected, f"exit code {code}, expected {expected}\n{self.said[-1]}"
        assert re.search(says, self.said[-1], re.S), f"{says!r} was not said:\n{self.said[-1]}"
        self.alone()

    def start(self, disturbed: bool = False) -> "subprocess.Popen[str]":
        """Start the run in a session of its own."""
        fault = self.fault
        changes = dict(self.environment)
        if disturbed:
            plan = {"point": fault.point, "folder": str(self.folder), "clock": fault.clock}
            changes["STEMMA_FAULT"] = json.dumps(plan)
            changes["PYTHONPATH"] = os.pathsep.join([str(POINTS), surroundings()["PYTHONPATH"]])
        overrides = [f"execution.data_parallel={fault.ranks}"]
        for item in fault.overrides:
            for name, value in {**self.values, "teacher": self.teacher.port}.items():
                item = item.replace(f"{{{name}}}", str(value))
            overrides.append(item)
        output = open(self.folder / f"said.{time.monotonic_ns()}", "w+")  # noqa: SIM115 (read in ``finish``)
        program = subprocess.Popen(
            command(self.root, fault.node, overrides, "demo" if fault.flow else "run"),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=surroundings(changes),
        )
        program.output = output  # type: ignore[attr-defined]
        return program

    def finish(self, program: "subprocess.Popen[str]") -> int:
        """Wait for the end of a run; returns its exit code."""
        code = program.wait(PATIENCE)
        with program.output as output:  # type: ignore[attr-defined]
            output.seek(0)
            self.said.append(output.read())
        return code

    def said_by(self, program: "subprocess.Popen[str]") -> str:
        """What a run has printed so far."""
        return Path(program.output.name).read_text()  # type: ignore[attr-defined]

    def undisturbed(self) -> dict[str, Artifact]:
        """What the same command ends with where nothing happens."""
        self.fault.before(self)
        self.fault.mend(self)
        self.attempt(0)
        self.teacher.stop()
        return open_run(Store(self.root), NAME)

    def wait(self, condition: Callable[[], object], program: "subprocess.Popen[str] | None" = None) -> None:
        """Wait for what must come true, before a program ends."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if program is not None and program.poll() is not None and not condition():
                self.finish(program)
                raise AssertionError(f"{self.fault.point} was not reached:\n{self.said[-1]}")
            assert time.monotonic() < deadline, "nothing came of it"
            time.sleep(0.02)

    def alone(self) -> None:
        """Nothing works on the run any more: whoever has lost the parent may take a moment to go."""
        deadline = time.monotonic() + 120
        while (left := still_running(self.root)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"still alive: {left}"

    # --- who is who --------------------------------------------------------------------------------------

    @property
    def held(self) -> psutil.Process:
        """The process at the point."""
        return psutil.Process(int((self.folder / "reached").read_text()))

    @property
    def run(self) -> psutil.Process:
        """``stemma run``."""
        return next(one for one in [self.held, *self.held.parents()] if "stemma.cli" in one.cmdline())

    @property
    def work(self) -> Path:
        """The folder of the artifact that is being made."""
        return next(
            path
            for path in (self.root / "artifacts").glob(f"{self.fault.node}-*")
            if not (path / "manifest.json").exists()
        )

    def checkpoints(self) -> list[Path]:
        """Of the unfinished stage, oldest first."""
        return sorted((self.work / ".scratch" / "checkpoint").glob("step-*"))

    def artifact(self, node: str) -> Artifact:
        """A sealed one."""
        (folder,) = (self.root / "artifacts").glob(f"{node}-*")
        return open_artifact(folder)

    # --- what is done ------------------------------------------------------------------------------------

    def fill_disk(self) -> None:
        """Leave no room on the run's file system."""
        self.ballast = self.root / "ballast"
        with open(self.ballast, "wb", buffering=0) as handle:
            for size in (1 << 16, 1 << 12):  # to the last page
                with contextlib.suppress(OSError):
                    while handle.write(bytes(size)) == size:
                        pass

    def limit(self, kind: int, value: int) -> None:
        """Set a resource limit of the process at the point."""
        resource.prlimit(self.held.pid, kind, (value, value))


def same(made: dict[str, Artifact], expected: dict[str, Artifact]) -> None:
    """Both runs ended with the same: fingerprints, receipts, ledgers, weights, every file but clocks."""
    assert {name: one.fingerprint for name, one in made.items()} == {
        name: one.fingerprint for name, one in expected.items() if name in made
    }
    for name, artifact in made.items():
        found, wanted = (
            {path: facts["sha256"] for path, facts in one.manifest["files"].items()}
            for one in (artifact, expected[name])
        )
        differing = {
            path
            for path in found.keys() | wanted.keys()
            if found.get(path) != wanted.get(path) and not OF_THIS_RUN.fullmatch(path)
        }
        assert not differing, f"{artifact} differs in {sorted(differing)}"
        if "ledger.json" in found:
            ledger = read_json(artifact.file("ledger.json"))
            assert ledger["planned"] == ledger["realized"]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int):  # type: ignore[no-untyped-def]
    """A file system of so many megabytes; None where it cannot be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "stemma-test", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
