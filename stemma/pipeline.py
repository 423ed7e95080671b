"""``Run``: a walk over the pipeline that makes its nodes one at a time, in a folder of its own.

``stemma run`` and the Prefect flows walk the same list. A run is a folder with ``run.json``: for every node
the artifact it stands for now, so that a changed profile can be told apart from an interrupted one, and every
remaking has a reason.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stemma.branch import default_name, joined_on, load_branch, parse_start, part, save_branch, start_of
from stemma.core.artifact import Artifact, Store, verify_artifact
from stemma.core.config import differences, identity
from stemma.core.errors import StemmaError
from stemma.core.files import write_atomic, write_json
from stemma.core.progress import SKIPPED, Listener, Progress
from stemma.core.stage import Stage, execute, lock
from stemma.edits import EDITS_FILE, load_edits, with_edits
from stemma.groups import members, needed
from stemma.nodes import BRANCH_POINT, Node, nodes
from stemma.profile import Profile, load_profile, profile_path
from stemma.runs import RUN_RECORD, load_record, open_run, open_work, read_record, run_lock

__all__ = ["RUN_RECORD", "Node", "Run", "begin", "nodes", "open_run", "open_work", "read_record"]

RESERVED = ("artifacts", "cache", "inspections", "prefect")  # folders beside those of runs


class Run:
    """One walk over the pipeline for a profile, in a folder of its own; edits of its mix that are kept there
    are applied.

    Args:
        profile: what to make.
        store: where artifacts live; the run's folder is ``<store.root>/<name>``.
        name: the run's name; the profile's by default.
        listeners: receive progress events of every node.
        pipeline: the nodes; the whole chain by default.
        asked: how a person names the profile: ``profile`` (a name or a path) and ``overrides``; kept for
            those who want to go on with it.
    """

    def __init__(
        self,
        profile: Profile,
        store: Store,
        name: str = "",
        listeners: list[Listener] | None = None,
        pipeline: list[Node] | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self.store = store
        self.name = name or profile.name
        self.folder = store.root / self.name
        self.given = profile
        self.asked = dict(asked or {"profile": profile.name})
        self.listeners = listeners if listeners is not None else []
        self.pipeline = pipeline
        self.artifacts: dict[str, Artifact] = {}
        self._read()

    def _read(self) -> None:
        """Take over what the run's folder says: branch, edits, and what every node stands for."""
        self.branch = load_branch(self.folder)
        edits = load_edits(self.folder)
        profile = self.given
        self.taken = {}
        if self.branch:
            self.taken = {name: self._open(name, found) for name, found in self.branch.taken.items()}
            profile = joined_on(profile, self.taken)
        self.profile = with_edits(profile, edits, str(self.folder / EDITS_FILE)) if edits else profile
        imported = profile.init_from is not None if self.pipeline is None else False
        made = self.branch.nodes(imported) if self.branch else self.pipeline or nodes(imported)
        self.nodes = {node.name: node for node in made}
        self.record: dict[str, Any] = {"profile": self.given.name, "nodes": {}}
        if (self.folder / RUN_RECORD).exists():
            self.record = load_record(self.folder / RUN_RECORD)

    @contextlib.contextmanager
    def held(self, say: Listener | None = None) -> Iterator[None]:
        """Keep others off the run's folder: one process at a time makes a run.

        Who comes second waits, as long as ``execution.lock_timeout`` says, and then goes on from what the
        first has made. The kernel releases the folder when the process dies.

        Args:
            say: is told when there is somebody to wait for, besides the run's listeners.

        Raises:
            LockedError: another process makes the run, and did not finish in time.
            StemmaError: somebody has made the run another branch since this object was made.
        """
        listeners = [*self.listeners, *([say] if say else [])]
        timeout = self.given.execution.lock_timeout
        with lock(run_lock(self.store, self.name), timeout, Progress(self.name, listeners)):
            asked = self.branch
            self._read()  # it may have waited for another to write there
            if self.branch != asked:
                raise StemmaError(
                    f"run {self.name!r} was made another branch by somebody else meanwhile; give another name"
                )
            self.record |= {"profile": self.given.name, "asked": self.asked}
            write_json(self.folder / RUN_RECORD, self.record)
            yield

    def order(self, stop_after: str = "", group: str = "") -> list[str]:
        """Node names in the order they are made.

        Args:
            stop_after: the last node to make; all by default.
            group: only the nodes of this stage group (``stemma.groups``) and what they are made from.

        Raises:
            StemmaError: no such node or group, or the node is no part of the group; or the run is a branch,
                and what is asked for is taken from the run it parted from.
        """
        names = list(self.nodes)
        if stop_after and stop_after not in names:
            raise StemmaError(f"there is no stage {stop_after!r}; stages are: {', '.join(names)}")
        if group:
            wanted = needed(members(group, names), self.nodes)
            names = [name for name in names if name in wanted]
        if stop_after and stop_after not in names:
            raise StemmaError(f"{group} does not need {stop_after!r}; it makes: {', '.join(names)}")
        asked = [stop_after] if stop_after else members(group, names) if group else []
        if self.branch and asked and all(name in self.taken for name in asked):
            raise StemmaError(
                f"{', '.join(asked)} would not be made, but taken from run {self.branch.from_run!r} as "
                f"it is: run {self.name!r} parts from it at {self.branch.start}. Stop there or later"
            )
        return names[: names.index(stop_after) + 1] if stop_after else names

    def stage(self, name: str) -> Stage:
        """The stage object of a node whose inputs have been made."""
        node = self.nodes[name]
        inputs = {role: self.artifacts[source] for role, source in node.inputs.items()}
        return node.load()(node.name, node.config(self.profile), inputs)

    def make(self, name: str) -> Artifact:
        """Make a node's artifact, or verify the one there is. This object must have made its inputs."""
        if name in self.taken:
            return self._take(name)
        stage = self.stage(name)
        stage.resolve(self.store.cache, self.profile.execution, Progress(name, self.listeners))
        mine = {
            **stage.identity(),
            "inputs": {role: str(artifact) for role, artifact in stage.inputs.items()},
        }
        recorded = self.record["nodes"].get(name)
        reason = ""
        if recorded and recorded["fingerprint"] != stage.fingerprint:
            changes = differences(recorded["identity"], mine)
            reason = "made anew, because " + _in_short(changes)
        # Recorded before it runs: if this attempt dies, the next one still knows what changed and what it
        # continues.
        entry = {"fingerprint": stage.fingerprint, "identity": mine, "sealed": False, "reason": reason}
        if recorded is None or recorded["fingerprint"] != stage.fingerprint:
            self._remember(name, entry)
        else:
            reason = recorded.get("reason", "") if not recorded["sealed"] else ""
        artifact = execute(stage, self.store, self.profile.execution, self.listeners, reason)
        if not self.record["nodes"][name]["sealed"]:
            self._remember(name, {**self.record["nodes"][name], "sealed": True})
        self.artifacts[name] = artifact
        return artifact

    def _take(self, name: str) -> Artifact:
        """An artifact of the run this one branched from, as it is."""
        artifact = self.taken[name]
        verify_artifact(artifact)
        manifest, progress = artifact.manifest, Progress(name, self.listeners)
        progress.mark(SKIPPED, str(artifact), **artifact.summary)
        if not name.startswith(BRANCH_POINT):
            asked = identity(self.nodes[name].config(self.profile))
            if changed := differences(manifest["config"], asked):
                progress.say(f"kept as it is, though now asked for otherwise: {_in_short(changed)}")
        made = {key: manifest[key] for key in ("kind", "recipe", "config", "resolved")}
        inputs = {
            role: f"{one['name']}-{one['fingerprint'][:12]}" for role, one in manifest["inputs"].items()
        }
        entry = {
            "fingerprint": artifact.fingerprint,
            "identity": {**made, "inputs": inputs},
            "sealed": True,
        }
        if self.record["nodes"].get(name, {}).get("fingerprint") != artifact.fingerprint:
            self._remember(name, {**entry, "reason": ""})
        self.artifacts[name] = artifact
        return artifact

    def _open(self, name: str, fingerprint: str) -> Artifact:
        assert self.branch
        try:
            return self.store.open(name, fingerprint)
        except FileNotFoundError as error:
            raise StemmaError(
                f"run {self.name!r} begins with what run {self.branch.from_run!r} has made, but "
                f"{self.store.folder(name, fingerprint)} is gone. Restore it, or branch anew under another "
                "name"
            ) from error

    def _remember(self, name: str, entry: dict[str, Any]) -> None:
        self.record["nodes"][name] = entry
        write_json(self.folder / RUN_RECORD, self.record)

    def finish(self) -> Path:
        """Write the run's report (Markdown, JSON, SVG) from its artifacts; returns the Markdown's path."""
        from stemma.report import write_report

        return write_report(self)


def _in_short(changes: list[str], lines: int = 4, width: int = 160) -> str:
    """The first few changes, each cut to a readable length; run.json holds both identities whole."""
    shown = [change if len(change) <= width else change[: width - 3] + "..." for change in changes[:lines]]
    more = [f"and {len(changes) - lines} more"] if len(changes) > lines else []
    return "; ".join(shown + more)


def begin(
    profile: str,
    overrides: Iterable[str] = (),
    root: Path = Path("runs"),
    name: str = "",
    start_from: str = "",
    from_run: str = "",
) -> Run:
    """The run that a person asks for: a new one, one that goes on, or a branch of another.

    Args:
        profile: a profile's name, or the path of a .yaml.
        overrides: changes to it, ``path.to.field=value``.
        root: the folder of runs.
        name: of the run; by default the profile's, or for a branch one made of where it parts and of the
            profile, so that asking again means the same run.
        start_from: branch: the first stage to make, or stage and step (``stem``, ``stem@120``). What it is
            made from is taken from ``from_run`` as it is.
        from_run: the run to branch from; the profile's by default.

    Raises:
        ProfileError: the profile cannot be used.
        StemmaError: the name cannot be one, or is another run's; there is nothing to branch from, with what
            there is.
    """
    overrides = list(overrides)
    loaded, store = load_profile(profile, overrides), Store(root)
    path = str(profile_path(profile).absolute()) if profile.endswith((".yaml", ".yml")) else profile
    asked = {"profile": path, "overrides": overrides}
    for called in (name or loaded.name, from_run or loaded.name):
        if called in RESERVED or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", called):
            raise StemmaError(
                f"{called!r} cannot be the name of a run: letters, digits, '.', '_' and '-', beginning with "
                f"a letter or digit, and none of {', '.join(RESERVED)}"
            )
    if not start_from:
        if from_run:
            raise StemmaError(
                "from_run says which run to branch from; say where with start_from (stem, stem@120)"
            )
        return Run(loaded, store, name, asked=asked)
    start_from = start_of(*parse_start(start_from.strip()))  # however it was written
    from_run = from_run or loaded.name
    name = name or default_name(from_run, start_from, loaded)
    _part_off(store, name, from_run, start_from)
    return Run(loaded, store, name, asked=asked)


def _part_off(store: Store, name: str, from_run: str, start: str) -> None:
    """Write a branch into its run's folder, if it is not there. What it took when it was made stays, though
    the other run may have gone on since, or be gone. One that nobody has begun to make may become another."""
    folder = store.root / name
    if _is_parted(folder, from_run, start):
        return
    with lock(run_lock(store, name), 60.0, Progress(name)):  # who makes a run has written that it is begun
        if _is_parted(folder, from_run, start):
            return
        branch = part(store, from_run, start)
        (folder / EDITS_FILE).unlink(missing_ok=True)
        if load_edits(store.root / from_run):  # they belong to the run, and the branch goes on with it
            write_atomic(folder / EDITS_FILE, (store.root / from_run / EDITS_FILE).read_bytes())
        save_branch(folder, branch)


def _is_parted(folder: Path, from_run: str, start: str) -> bool:
    """Whether a run's folder holds this branch already.

    Raises:
        StemmaError: it holds another run that has begun.
    """
    there = load_branch(folder)
    if there and (there.from_run, there.start) == (from_run, start):
        return True
    if (folder / RUN_RECORD).exists():
        what = f"was branched from {there.start} of run {there.from_run!r}" if there else "is no such branch"
        raise StemmaError(f"run {folder.name!r} is there and {what}; give another name")
    return False
