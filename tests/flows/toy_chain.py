"""A pipeline of three nodes that a flow can run in seconds. Like the command line, it imports no Prefect."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import Field

from stemma.core.artifact import Store
from stemma.core.config import Config
from stemma.core.errors import Preempted
from stemma.core.files import write_json
from stemma.core.ledger import Ledger
from stemma.core.stage import Execution, Stage, Workspace
from stemma.pipeline import Node, Run

STEPS = 4


class Text(Config):
    text: str = Field("", description="what to write, or how to misbehave")


class Write(Stage):
    kind = "write"

    def run(self, work: Workspace) -> dict[str, Any]:
        for step in range(1, STEPS + 1):
            work.progress.step(step, STEPS, "steps", loss=3.0 - step / 10, tokens_per_second=2100.0)
            time.sleep(0.05)
        if self.config.text == "fail":
            raise RuntimeError("on purpose")
        if self.config.text == "preempt":
            raise Preempted("second was asked to stop; run the same command again")
        if self.config.text == "hang":
            (work.path / "hanging").write_text("")
            time.sleep(600)
        if self.config.text == "hang until free":
            (work.path / "hanging").write_text("")
            while not (work.path.parent.parent / "free").exists():
                time.sleep(0.05)
        work.progress.say("almost done")
        ledger = Ledger({"wiki": "web", "stdlib": "code"})
        ledger.record("wiki", 3, 300, 300)
        ledger.record("stdlib", 1, 100, 90)
        write_json(work.path / "ledger.json", {"planned": ledger.to_json(), "realized": ledger.to_json()})
        return {
            "tokens": 400,
            "loss_last": 2.612345,
            "bits_per_byte": {"before": {"web": 2.2}, "after": {"web": 1.9}},
        }


def make_run(root: Path | str, **texts: str) -> Run:
    """A run of three nodes; a text of ``fail``, ``preempt`` or ``hang`` makes its stage do so."""
    profile: Any = SimpleNamespace(name="toy", description="A toy.", execution=Execution(), texts=texts)

    def config(name: str) -> Any:
        return lambda profile: Text(text=profile.texts.get(name, name))

    pipeline = [
        Node("first", "toy_chain:Write", config("first"), {}, "write the first"),
        Node("plan.second", "toy_chain:Write", config("second"), {"source": "first"}, "write the second"),
        Node("third", "toy_chain:Write", config("third"), {"source": "plan.second"}, "write the third"),
    ]
    return Run(profile, Store(Path(root)), pipeline=pipeline)
