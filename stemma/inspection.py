"""Looking at a mix without making anything: of a run as it is, or of a profile, made or not.

Of a profile, whatever is in the store already is read. Where its tokens are there, its stages are planned
beside the store, exactly. Where they are not, they are planned on estimates, and called a preview.
"""

import contextlib
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stemma.core.artifact import Artifact, Store
from stemma.core.errors import StemmaError
from stemma.core.progress import Progress
from stemma.core.stage import Execution, execute
from stemma.pipeline import RUN_RECORD, Run, open_run, open_work, read_record
from stemma.profile import TRAINING_STAGES, load_profile

if TYPE_CHECKING:
    from data_pipeline.inspection.difference import Side
    from data_pipeline.inspection.glance import Glance
    from data_pipeline.inspection.mix import StageMix
    from data_pipeline.inspection.preview import Preview
    from data_pipeline.inspection.report.mix_figures import MixFigures

SECONDS = 20.0  # for reading sources of which nothing is made
PLAN = "plan."
FOLDER = "inspections"  # below the folder of runs: pages of what is no run
OUTSIDE = "(inspected)"  # no run is called so: its folder, and edits in it, are not there


@dataclass(frozen=True)
class Subject:
    """What is looked at.

    Attributes:
        name: for people.
        run: the run it is; "" for a profile that was not made.
        artifacts, working: what is made, and what is being made, by node.
        notes: where the figures come from, in sentences.
        glances: what sources seem to have, where tokens are not made.
        preview: plans on estimates, where tokens are not made.
    """

    name: str
    run: str
    artifacts: Mapping[str, Artifact]
    working: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    glances: "Mapping[str, Glance]" = field(default_factory=dict)
    preview: "Preview | None" = None

    @property
    def mixes(self) -> "list[StageMix]":
        """The mix of every planned stage, in the order of training."""
        from data_pipeline.inspection.mix import mix_tables

        return self.preview.mixes if self.preview else mix_tables(self.artifacts, self.working)

    @property
    def sides(self) -> "dict[str, Side]":
        """For a comparison."""
        from data_pipeline.inspection.difference import side_of_mix

        return {mix.stage: side_of_mix(mix) for mix in self.mixes}

    def figures(self, samples: int = 3, seed: int = 0) -> "MixFigures":
        """What the report of the mix shows.

        Args:
            samples: of each stage.
            seed: another one shows others.

        Raises:
            StemmaError: nothing can be planned.
        """
        from data_pipeline.inspection.preview import preview_figures
        from data_pipeline.inspection.report.mix_figures import gather

        if self.preview:
            return preview_figures(self.preview, self.glances, samples, seed)
        return gather(self.artifacts, self.working, seed, samples)


def slug(name: str) -> str:
    """A subject's name in names of files and in keys."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def page_path(store: Store, subject: Subject) -> Path:
    """Where the page about a subject goes: to the run's reports, or beside the runs for what is none."""
    if subject.run:
        return store.root / subject.run / "reports" / "mix.html"
    return store.root / FOLDER / "reports" / f"{slug(subject.name)}-mix.html"


@contextlib.contextmanager
def inspected(
    store: Store,
    profile: str,
    overrides: Sequence[str] = (),
    run: str = "",
    seconds: float = SECONDS,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Subject]:
    """A subject to look at; what was planned for it alone is gone when the context ends.

    Args:
        store: where runs are. Nothing but downloads is written there.
        profile: a profile, where no run is given.
        overrides: changes to the profile.
        run: a run, which may be training now.
        seconds: for reading sources, where nothing is made.
        say: is told what takes time.

    Raises:
        ProfileError: there is no such profile, or it cannot be used.
        StemmaError: there is no such run, or it is to be changed.
    """
    if run:
        if overrides:
            raise StemmaError(
                f"run {run} is looked at as it is, but changes were given ({', '.join(overrides)}): look at "
                "a profile with them instead"
            )
        artifacts = open_run(store, run)
        if any(name.startswith(PLAN) for name in artifacts):
            yield Subject(run, run, artifacts, open_work(store, run), (f"Run `{run}` as it stands.",))
            return
        walk = Run(load_profile(*asked_for(store, run)), store, run)
    else:
        walk = Run(load_profile(profile, overrides), store, OUTSIDE)
    name = run or Path(profile).stem + (", changed" if overrides else "")
    changed = [f"With {', '.join(f'`{item}`' for item in overrides)}."] if overrides and not run else []
    made = _made(walk, say)
    if {"tokens", "agent_tokens", "tokenizer"} <= made.keys():
        with tempfile.TemporaryDirectory(prefix="stemma-inspect-") as scratch:
            found = _planned(walk, made, name, Store(Path(scratch)))
            yield replace(found, notes=(*changed, *found.notes))
    else:
        found = _previewed(walk, made, name, seconds, say)
        yield replace(found, notes=(*changed, *found.notes))


def asked_for(store: Store, run: str) -> tuple[str, list[str]]:
    """The profile that a run was last asked to make, and the changes to it.

    Raises:
        StemmaError: there is no such run.
    """
    record = read_record(store, run)
    asked = record.get("asked", {"profile": record["profile"]})
    return asked["profile"], list(asked.get("overrides", ()))


def _made(walk: Run, say: Callable[[str], None]) -> dict[str, Artifact]:
    """What of the data a profile stands for is in the store, by node."""
    say("looking what of it is made")
    found: dict[str, Artifact] = {}
    folder = walk.store.root / "artifacts"
    for name in walk.order(group="data"):
        node = walk.nodes[name]
        if not set(node.inputs.values()) <= found.keys() or not list(folder.glob(f"{name}-*")):
            continue  # not made by anyone: no need to look at what it would be made from
        inputs = {role: found[source] for role, source in node.inputs.items()}
        stage = node.load()(name, node.config(walk.profile), inputs)
        stage.resolve(walk.store.cache, walk.profile.execution, Progress(name))
        if walk.store.is_sealed(name, stage.fingerprint):
            found[name] = walk.store.open(name, stage.fingerprint)
    return found


def _planned(walk: Run, made: dict[str, Artifact], name: str, scratch: Store) -> Subject:
    """Plans of a profile whose tokens are there: those that are made, the others beside the store."""
    plans = {key: artifact for key, artifact in made.items() if key.startswith(PLAN)}
    run = walk.profile.name
    if len(plans) == len(TRAINING_STAGES) and (walk.store.root / run / RUN_RECORD).exists():
        artifacts = open_run(walk.store, run)
        if all(str(artifacts.get(key)) == str(artifact) for key, artifact in plans.items()):
            note = f"Run `{run}` stands for this profile: what it trained is counted."
            return Subject(name, run, artifacts, open_work(walk.store, run), (note,))
    notes = ["Planned from the tokens that are there: every count is exact."]
    found = {key: artifact for key, artifact in made.items() if not key.startswith(PLAN)}
    for stage in TRAINING_STAGES:
        key = PLAN + stage
        node = walk.nodes[key]
        inputs = {role: found[source] for role, source in node.inputs.items()}
        if key in plans:
            found[key] = plans[key]
            continue
        try:
            found[key] = execute(
                node.load()(key, node.config(walk.profile), inputs), scratch, Execution(workers=1)
            )
        except StemmaError as error:
            notes.append(f"{stage} and what comes after it cannot be planned: {error}")
            break
    return Subject(name, "", found, notes=tuple(notes))


def _previewed(
    walk: Run, made: Mapping[str, Artifact], name: str, seconds: float, say: Callable[[str], None]
) -> Subject:
    """Plans of a profile on what its sources seem to have."""
    from data_pipeline.inspection.glance import glance_at, look_at_sources
    from data_pipeline.inspection.preview import NOTE, preview
    from midtrain.glance import glance_at_families

    profile, store = walk.profile, walk.store
    begun = time.monotonic()
    notes = [NOTE]
    if "corpus" in made:
        text = glance_at(made["corpus"])
        notes.append(f"The corpus is there (`{made['corpus']}`): its documents and bytes are exact.")
    else:
        say(f"reading the sources for {seconds:.0f} seconds")
        text = look_at_sources(profile.data, store.cache, profile.execution.offline, seconds)
    if "trajectories" in made:
        families = glance_at(made["trajectories"])
    else:
        say("making some trajectories")
        families = glance_at_families(profile.trajectories, profile.execution.sandbox)
    everything = {**text, **families}
    stages = {
        stage: (profile.plan_stage(stage), everything if stage == TRAINING_STAGES[-1] else text)
        for stage in TRAINING_STAGES
    }
    planned = preview(stages, profile.tokens.sequence_chunk, profile.data.valid_fraction)
    notes += [f"`{one.name}` ({one.domain}): {one.problem}" for one in everything.values() if one.problem]
    say(f"previewed in {time.monotonic() - begun:.0f} s")
    return Subject(name, "", made, {}, (*notes, *planned.problems), everything, planned)
