"""Stages as programs that tests watch, stop and kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from stemma.core.artifact import Artifact, open_artifact
from stemma.core.config import Config

PATIENCE = 240  # seconds; a run takes five on an idle machine

Program = subprocess.Popen[str]


def start_stage(
    store: Path, stage: type, name: str, config: Config, inputs: Mapping[str, Artifact], ranks: int = 1
) -> Program:
    """Start a stage in a session of its own."""
    store.mkdir(parents=True, exist_ok=True)
    path = store / "config.json"
    path.write_text(config.model_dump_json())
    places = [f"{kind.__module__}:{kind.__qualname__}" for kind in (stage, type(config))]
    roles = [f"{role}={artifact.path}" for role, artifact in inputs.items()]
    program = Path(__file__).with_name("run_stage.py")
    command = [sys.executable, str(program), str(store), name, *places, str(path), str(ranks), *roles]
    environment = {**os.environ, "PYTHONPATH": str(program.parents[1])}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )


def finish(program: Program) -> tuple[list[str], Artifact]:
    """What a stage said, and the artifact it ended with."""
    output, _ = program.communicate(timeout=PATIENCE)
    assert program.returncode == 0, output
    *said, path = output.splitlines()
    return said, open_artifact(Path(path))


def wait_until(program: Program, condition: Callable[[], object]) -> None:
    """Wait for a condition that must come true before the program ends."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert program.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill_when(program: Program, condition: Callable[[], object]) -> None:
    """SIGKILL the program's process group as soon as the condition holds."""
    wait_until(program, condition)
    os.killpg(program.pid, signal.SIGKILL)
    program.communicate()


def receipts(store: Path) -> int:
    """Steps that the stages of a store have a receipt for."""
    return sum(path.read_bytes().count(b"\n") for path in store.glob("artifacts/*/receipts.jsonl"))


def still_running(store: Path) -> list[str]:
    """Command lines of living processes that work on a store."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it ended meanwhile
            continue
        if str(store) in text and int(path.parent.name) != os.getpid():
            found.append(text)
    return found
