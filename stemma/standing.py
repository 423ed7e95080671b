"""Where runs stand: what each has made, what it does now, how to go on, and where to branch."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.adopt import newest_checkpoint, trained_steps
from pretrain.checkpoint.survey import JOB, whole
from stemma.branch import TRAINED, load_branch
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import DamagedError
from stemma.core.files import read_json
from stemma.core.stage import holder, lock_path
from stemma.nodes import nodes
from stemma.runs import RUN_RECORD, open_run, open_work, read_record, run_lock

if TYPE_CHECKING:
    from rich.console import Console

ENDLESS = 1 << 62


@dataclass(frozen=True)
class Standing:
    """A run as it lies there.

    Attributes:
        name: the run's.
        profile: what it was last asked to make: a name or a path.
        branch: where it parted from another run, such as ``stem@120 of nano``; "" if it did not.
        made: sealed artifacts by node, in order.
        working: folders of nodes that have begun.
        total: nodes of the whole chain.
        process: id of the process that makes it at this moment; "" if none does.
        changed: when its record last changed, seconds since the epoch.
        asked: the command that asks for the same profile.
        named: its name is not the profile's.
        problem: why its record cannot be read; "" if it can.
    """

    name: str
    profile: str
    branch: str
    made: dict[str, Artifact]
    working: dict[str, Path]
    total: int
    process: str
    changed: float
    asked: str
    named: bool
    problem: str = ""

    @property
    def command(self) -> str:
        """What goes on with it."""
        return shlex.join([*shlex.split(self.asked), *(["--name", self.name] if self.named else [])])

    @property
    def text(self) -> str:
        """A line for people: where it stands."""
        if self.problem:
            return self.problem
        if self.process:
            doing = next((name for name in self.working if holder(lock_path(self.working[name]))), "")
            return f"running (process {self.process})" + (f": {self._of(doing)}" if doing else "")
        if self.working:
            return "; ".join(f"stopped in {self._of(name, resume=True)}" for name in self.working)
        if len(self.made) >= self.total:
            return "finished"
        return f"stopped after {list(self.made)[-1]}" if self.made else "nothing made yet"

    def _of(self, node: str, resume: bool = False) -> str:
        folder = self.working[node]
        if node not in TRAINED:
            return node
        done, total = trained_steps(folder), total_steps(folder)
        text = f"{node} at step {done:,}" + (f" of {total:,}" if total else "")
        return text + (f" (goes on from {newest_checkpoint(folder, ENDLESS)[1]:,})" if resume else "")


def standings(store: Store) -> list[Standing]:
    """Every run of a store, the one that changed last first."""
    found = []
    for path in store.root.glob(f"*/{RUN_RECORD}"):
        try:
            found.append(standing(store, path.parent.name))
        except DamagedError as error:
            found.append(
                Standing(path.parent.name, "", "", {}, {}, 0, "", path.stat().st_mtime, "", True, str(error))
            )
    return sorted(found, key=lambda one: -one.changed)


def standing(store: Store, name: str) -> Standing:
    """Where one run stands.

    Raises:
        StemmaError: there is no such run; lists those there are.
    """
    record = read_record(store, name)
    branch = load_branch(store.root / name)
    made, working = open_run(store, name), open_work(store, name)
    imported = "init" in record["nodes"]
    asked = record.get("asked", {"profile": record["profile"]})
    return Standing(
        name=name,
        profile=asked["profile"],
        branch=f"{branch.start} of {branch.from_run}" if branch else "",
        made=made,
        working=working,
        total=len(branch.nodes(imported) if branch else nodes(imported)),
        process=holder(run_lock(store, name)),
        changed=(store.root / name / RUN_RECORD).stat().st_mtime,
        asked=_asked(store, asked),
        named=name != record["profile"],
    )


def total_steps(folder: Path) -> int:
    """Steps of a training stage, as it was told when it last began; 0 if it has not."""
    path = folder / ".scratch" / JOB
    arguments: dict[str, Any] = read_json(path)["arguments"] if path.exists() else {}
    if "plan" in arguments:
        return int(read_json(Path(arguments["plan"]) / "plan.json")["total_steps"])
    if "sft" in arguments:
        return int(arguments["sft"]["steps"])
    if "rl" in arguments:
        return int(arguments["rl"]["rollout_batches"] * arguments["rl"]["updates"])
    return 0


def _asked(store: Store, asked: dict[str, Any]) -> str:
    words = ["stemma", "run", "--profile", asked["profile"]]
    words += [word for item in asked.get("overrides", []) for word in ("--set", item)]
    words += ["--root", str(store.root)] if store.root != Path("runs").absolute() else []
    return shlex.join(words)


def render(found: list[Standing], out: "Console") -> None:
    """Print a line per run, and how to go on with those that are not finished."""
    from datetime import datetime

    from rich.table import Table

    if not found:
        out.print("There are no runs here yet; `stemma demo` makes one.")
        return
    shown = Table(box=None, header_style="bold")
    for title in ("run", "profile", "branched at", "stages", "changed", "where it stands"):
        shown.add_column(
            title, justify="right" if title == "stages" else "left", no_wrap=title != "where it stands"
        )
    for one in found:
        changed = f"{datetime.fromtimestamp(one.changed):%Y-%m-%d %H:%M}"
        stages = f"{len(one.made)} of {one.total}"
        shown.add_row(one.name, Path(one.profile).name, one.branch, stages, changed, one.text)
    out.print(shown)
    if waiting := [one for one in found if not one.problem and not one.process and one.text != "finished"]:
        out.print("\nTo go on:")
        for one in waiting:
            out.print(f"  {one.command}", markup=False, soft_wrap=True)


def render_one(one: Standing, out: "Console") -> None:
    """Print a run in full: each stage, its artifact, and the steps one can branch at."""
    from rich.table import Table

    out.print(
        f"run {one.name}, profile {one.profile}" + (f", branched at {one.branch}" if one.branch else ""),
        markup=False,
    )
    out.print(one.text, markup=False)
    shown = Table(box=None, header_style="bold")
    for title in ("stage", "state", "artifact", "checkpoints to branch at"):
        shown.add_column(title, no_wrap=title != "checkpoints to branch at")
    folders = {name: artifact.path for name, artifact in one.made.items()} | one.working
    steps: dict[str, list[int]] = {}
    for name, folder in folders.items():
        steps[name] = sorted(whole(folder)) if name in TRAINED else []
        shown.add_row(
            name, "made" if name in one.made else "begun", folder.name, ", ".join(map(str, steps[name]))
        )
    out.print(shown)
    trained = [name for name in folders if steps[name]]
    out.print(f"\nTo go on:   {one.command}", markup=False, soft_wrap=True)
    if trained:
        last = f"{trained[-1]}@{steps[trained[-1]][-1]}"
        out.print(
            f"To branch:  {one.asked} --from-run {one.name} --start-from {last}",
            markup=False,
            soft_wrap=True,
        )
