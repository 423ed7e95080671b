"""Branches: runs that begin with what another run has made, and part from it at a stage or a checkpoint.

What the stage is made from, and all else that is not made from it, is taken from that run as it is, pinned by
fingerprint, whatever the profile says. The stage itself, and what is made from it, is made under the profile
given. With a step, the stage goes on from its checkpoint there (``pretrain.branch``). All of it is recorded
in the run's folder, so that running the branch again continues it.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrain.checkpoint.folder import EXTRA
from pretrain.checkpoint.survey import Found, whole
from pretrain.config import BranchConfig, ScheduleConfig
from stemma.core.artifact import STAGE_RECORD, Artifact, Store
from stemma.core.config import Config, digest, identity
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, write_json
from stemma.nodes import BRANCH_POINT, Node, in_order, nodes
from stemma.profile import TRAINING_STAGES, Profile
from stemma.runs import open_run, open_work

BRANCH_RECORD = "branch.json"
TRAINED = (*TRAINING_STAGES, "sft", "rl")


@dataclass(frozen=True)
class Branch:
    """Where a run parts from another.

    Attributes:
        from_run: the other run's name.
        stage: the first node that is made.
        step: optimizer steps of it that are taken over; None: none, it begins anew.
        taken: fingerprints of what is taken as it is, by node.
        point: the checkpoint, as ``BranchConfig`` in JSON; None without a step.
    """

    from_run: str
    stage: str
    step: int | None = None
    taken: dict[str, str] = field(default_factory=dict)
    point: dict[str, Any] | None = None

    @property
    def start(self) -> str:
        """As people give it: ``stem`` or ``stem@120``."""
        return start_of(self.stage, self.step)

    def nodes(self, imported: bool) -> list[Node]:
        """The pipeline of the branch: with a node for the checkpoint, where there is one.

        Args:
            imported: the profile starts from a model of elsewhere.
        """
        if "commonsense" in self.taken:
            imported = "init" in self.taken
        points = {name.removeprefix(BRANCH_POINT) for name in self.taken if name.startswith(BRANCH_POINT)}
        points |= {self.stage} if self.point else set()
        grown = [self._node(stage) for stage in sorted(points)]
        for node in nodes(imported):
            stage = node.name.removeprefix("plan.")
            role = {"branch": f"{BRANCH_POINT}{stage}"} if stage in points else {}
            grown.append(replace(node, inputs={**node.inputs, **role}))
        return grown

    def _node(self, stage: str) -> Node:
        config = BranchConfig.model_validate(self.point) if self.point and stage == self.stage else Config()
        title = f"take over a checkpoint of {stage}"
        if isinstance(config, BranchConfig):
            title = f"take over step {config.step} of {stage} from {self.from_run}"
        return Node(f"{BRANCH_POINT}{stage}", "pretrain.branch:BranchStage", lambda _: config, {}, title)


def load_branch(folder: Path) -> Branch | None:
    """The branch that a run's folder records; None: the run is none.

    Raises:
        DamagedError: the record cannot be read.
    """
    path = folder / BRANCH_RECORD
    if not path.exists():
        return None
    try:
        return Branch(**read_json(path))
    except TypeError as error:
        raise DamagedError(
            f"{path} is not the record of a branch ({error}). It was left as it is."
        ) from error


def save_branch(folder: Path, branch: Branch) -> None:
    """Record a branch in its run's folder."""
    write_json(folder / BRANCH_RECORD, asdict(branch))


def parse_start(text: str) -> tuple[str, int | None]:
    """Stage and step of what people give: ``stem``, or ``stem@120``.

    Raises:
        StemmaError: no such stage, or a step where there are none; lists what there is.
    """
    stage, at, step = text.partition("@")
    known = [node.name for node in nodes(imported=True)]
    if stage not in known:
        raise StemmaError(f"start_from: there is no stage {stage!r}; stages are: {', '.join(known)}")
    if at and not re.fullmatch(r"\d+", step):
        raise StemmaError(f"start_from: {text!r}: after the @ comes a step, as in {stage}@120")
    if at and stage not in TRAINED:
        raise StemmaError(
            f"start_from: {stage} has no steps; stages that train are: {', '.join(TRAINED)}. "
            f"Give {stage!r} to make it anew"
        )
    return stage, int(step) if at else None


def start_of(stage: str, step: int | None) -> str:
    """What people give for a stage and a step: the reverse of ``parse_start``."""
    return stage if step is None else f"{stage}@{step}"


def part(store: Store, from_run: str, start: str) -> Branch:
    """What a branch of a run takes over; nothing is written.

    Args:
        store: where the run is.
        from_run: its name.
        start: the first stage that is made, or a stage and a step.

    Raises:
        StemmaError: there is no such run, stage or checkpoint, or the run has not come so far; says what
            there is.
    """
    stage, step = parse_start(start)
    artifacts, working = open_run(store, from_run), open_work(store, from_run)
    own = load_branch(store.root / from_run)
    imported = "init" in artifacts or stage == "init"
    pipeline = {node.name: node for node in (own.nodes(imported) if own else nodes(imported))}
    begun = {stage, f"plan.{stage}"} if f"plan.{stage}" in pipeline else {stage}
    again = _made_from(begun, pipeline)
    taken = {name: artifact.fingerprint for name, artifact in artifacts.items() if name not in again}
    if stage in TRAINED:
        taken.pop(f"{BRANCH_POINT}{stage}", None)  # of the steps that are not taken, or taken another way
    needed = [name for node in begun & pipeline.keys() for name in pipeline[node].inputs.values()]
    missing = [
        name for name in in_order(needed) if name not in again | taken.keys() | {f"{BRANCH_POINT}{stage}"}
    ]
    if missing:
        raise StemmaError(
            f"run {from_run!r} has not made {', '.join(missing)} yet, which {stage} is made from; "
            f"it has: {', '.join(artifacts) or 'nothing'}"
        )
    if step is None:
        return Branch(from_run, stage, None, taken)
    folder = artifacts[stage].path if stage in artifacts else working.get(stage)
    return Branch(from_run, stage, step, taken, _point(store, from_run, stage, step, folder))


def _made_from(start: set[str], pipeline: Mapping[str, Node]) -> set[str]:
    """Some nodes and all that is made from them."""
    found = set(start)
    for name, node in pipeline.items():  # every input comes before what uses it
        if found & set(node.inputs.values()):
            found.add(name)
    return found


def _point(store: Store, run: str, stage: str, step: int, folder: Path | None) -> dict[str, Any]:
    kept = whole(folder) if folder else {}
    if step not in kept:
        steps = ", ".join(f"{found.step} ({found.kind})" for found in kept.values())
        place = f"training.{stage}" if stage in TRAINING_STAGES else f"{stage}.training"
        raise StemmaError(
            f"run {run!r} keeps no checkpoint of {stage} at step {step}; it keeps: {steps or 'none'}. "
            f"A training keeps one every N steps for good with --set {place}.keep_every=N"
        )
    assert folder is not None
    found = kept[step]
    state = _state(found)
    if state.get("decided_by", 0) > step:
        raise StemmaError(
            f"step {step} of {stage} lies among steps that run {run!r} left out because of a later one; "
            f"branch from another: {', '.join(str(one) for one in kept if one != step) or 'none is kept'}"
        )
    point = BranchConfig(
        stage=stage,
        step=step,
        trained_by=read_json(folder / STAGE_RECORD)["fingerprint"],
        state_sha256=found.state_sha256,
        receipts_sha256=state["logs"]["receipts"]["sha256"],
        run=run,
        folder=folder.relative_to(store.artifacts).as_posix(),
    )
    return point.model_dump()


def _state(found: Found) -> dict[str, Any]:
    try:
        return dict(read_json(found.folder / EXTRA)["extra"])
    except FileNotFoundError as error:
        raise StemmaError(
            f"{found.folder} is gone: the run trains on and keeps newer ones; try again"
        ) from error


def default_name(from_run: str, start: str, profile: Profile) -> str:
    """A name for a branch: of where it parts and of what it is made under, so that the same request means the
    same run."""
    made = {key: value for key, value in identity(profile).items() if key not in ("execution", "description")}
    short = digest({"profile": made, "from": from_run, "start": start})[:4]
    return f"{from_run}-{re.sub('[^A-Za-z0-9_]', '-', start)}-{short}"


def joined_on(profile: Profile, taken: Mapping[str, Artifact]) -> Profile:
    """The profile with the learning rates that go on from the stage before going on from the stage taken.

    A profile's ``peak_lr: null`` stands for the last rate of the stage before as the profile has it; the one
    that was taken may have ended with another.
    """
    before: tuple[ScheduleConfig, ScheduleConfig] | None = None  # as the profile has it, and as it is
    changed: dict[str, ScheduleConfig] = {}
    for stage in TRAINED:
        section = (
            getattr(profile.training, stage) if stage in TRAINING_STAGES else getattr(profile, stage).training
        )
        schedule = actual = section.schedule
        if stage in taken:
            actual = ScheduleConfig.model_validate(_training_of(taken[stage].manifest["config"])["schedule"])
        elif (
            before and schedule.peak == before[0].final_lr != before[1].final_lr and not schedule.warmup_steps
        ):
            rate = before[1].final_lr
            if schedule.end_lr > rate:
                raise StemmaError(
                    f"{stage} goes on from the learning rate that the stage before it, as it was taken, "
                    f"ended with: {rate}. Its schedule.end_lr is {schedule.end_lr}, above that. Lower it, or "
                    "give it a schedule.peak_lr of its own with schedule.jump=true"
                )
            changed[stage] = actual = schedule.model_copy(update={"peak_lr": rate})
        before = schedule, actual
    return _with_schedules(profile, changed) if changed else profile


def _training_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``training`` of a training stage's identity."""
    section = next((config[name] for name in ("sft", "rl") if name in config), config)
    return dict(section["training"])


def _with_schedules(profile: Profile, changed: Mapping[str, ScheduleConfig]) -> Profile:
    def having(section: Any, schedule: ScheduleConfig) -> Any:
        return section.model_copy(update={"schedule": schedule})

    sections: dict[str, Any] = {}
    planned = {stage: schedule for stage, schedule in changed.items() if stage in TRAINING_STAGES}
    if planned:
        update = {
            stage: having(getattr(profile.training, stage), schedule) for stage, schedule in planned.items()
        }
        sections["training"] = profile.training.model_copy(update=update)
    for stage in changed.keys() - planned.keys():
        room = getattr(profile, stage)
        sections[stage] = room.model_copy(update={"training": having(room.training, changed[stage])})
    return profile.model_copy(update=sections)
