"""Which stage feeds which: the one place that says so, and ``Run``, which makes nodes one at a time.

``stemma run`` and the Prefect flow walk the same list. A run is a folder with ``run.json``: for every node
the artifact it stands for now, so that a changed profile can be told apart from an interrupted one, and every
remaking has a reason.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config, differences
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, write_json
from stemma.core.progress import Listener, Progress
from stemma.core.stage import Stage, execute
from stemma.edits import EDITS_FILE, load_edits, with_edits
from stemma.groups import members, needed
from stemma.profile import TRAINING_STAGES, Profile

RUN_RECORD = "run.json"


@dataclass(frozen=True)
class Node:
    """One artifact of the pipeline.

    Attributes:
        name: the artifact's name.
        stage: ``module:Class`` of its stage; imported only when it has to run or be fingerprinted.
        config: picks its config from the profile.
        inputs: role -> node name.
        title: what it does, for people.
    """

    name: str
    stage: str
    config: Callable[[Profile], Config]
    inputs: Mapping[str, str] = field(default_factory=dict)
    title: str = ""

    def load(self) -> type[Stage]:
        module, _, name = self.stage.partition(":")
        loaded: type[Stage] = getattr(importlib.import_module(module), name)
        return loaded


def nodes(imported: bool = False) -> list[Node]:
    """The pipeline in the order it is made; every input comes before what uses it.

    Args:
        imported: the first training stage starts from a model of elsewhere (``init_from`` of the profile).
    """
    tokens = {"tokens": "tokens", "tokenizer": "tokenizer"}
    with_agent = {**tokens, "agent_tokens": "agent_tokens"}
    made = [
        Node(
            "corpus",
            "data_pipeline.corpus.stage:CorpusStage",
            lambda p: p.data,
            {},
            "read, filter and deduplicate text",
        ),
        Node(
            "quality",
            "data_pipeline.quality.stage:QualityStage",
            lambda p: p.quality,
            {"corpus": "corpus"},
            "train the quality model and score documents",
        ),
        Node(
            "trajectories",
            "midtrain.trajectories:TrajectoriesStage",
            lambda p: p.trajectories,
            {},
            "synthesise and verify agentic trajectories",
        ),
        Node(
            "tokenizer",
            "tokenizer.stage:TokenizerStage",
            lambda p: p.tokenizer,
            {"corpus": "corpus", "trajectories": "trajectories"},
            "build the vocabulary",
        ),
        Node(
            "tokens",
            "data_pipeline.tokens.stage:TokensStage",
            lambda p: p.tokens,
            {"corpus": "corpus", "tokenizer": "tokenizer", "quality": "quality"},
            "tokenize the corpus",
        ),
        Node(
            "agent_tokens",
            "data_pipeline.tokens.stage:TokensStage",
            lambda p: p.tokens,
            {"corpus": "trajectories", "tokenizer": "tokenizer"},
            "tokenize the trajectories",
        ),
    ]
    previous = ""
    for stage in TRAINING_STAGES:
        plan_inputs = {"tokens": "tokens"} | ({"agent_tokens": "agent_tokens"} if stage == "agentic" else {})
        if previous:
            plan_inputs["previous"] = f"plan.{previous}"
        made.append(
            Node(
                f"plan.{stage}",
                "data_pipeline.curriculum.stage:PlanStage",
                _plan(stage),
                plan_inputs,
                "plan the mix",
            )
        )
        previous = stage
    if imported:
        made.append(
            Node(
                "init",
                "pretrain.imported:ImportStage",
                lambda p: p.init_stage(),
                {"tokenizer": "tokenizer"},
                "take over a model",
            )
        )
    previous = "init" if imported else ""
    for stage in TRAINING_STAGES:
        room = (
            "pretrain.stage:PretrainStage"
            if stage in ("commonsense", "stem")
            else "midtrain.stage:MidtrainStage"
        )
        inputs = {"plan": f"plan.{stage}", **with_agent}
        if previous:
            inputs["init"] = previous
        made.append(Node(stage, room, _training(stage), inputs, f"train: {stage}"))
        made.append(_evaluation(stage))
        previous = stage
    posttrain = {**with_agent, "trajectories": "trajectories"}
    made += [
        Node(
            "sft",
            "posttrain.sft:SFTStage",
            lambda p: p.sft_stage(),
            {**posttrain, "init": "agentic"},
            "train: SFT",
        ),
        _evaluation("sft"),
        Node(
            "rl", "posttrain.rl:RLStage", lambda p: p.rl_stage(), {**with_agent, "init": "sft"}, "train: RL"
        ),
        _evaluation("rl"),
    ]
    quoted = [*TRAINING_STAGES, "sft", "rl"]
    card = {stage: stage for stage in quoted if stage != "rl"} | {
        f"eval.{stage}": f"eval.{stage}" for stage in quoted
    }
    made.append(
        Node(
            "export",
            "posttrain.export:ExportStage",
            lambda p: p.export,
            {"model": "rl", "tokenizer": "tokenizer", "corpus": "corpus", "tokens": "tokens", **card},
            "write the Hugging Face folder",
        )
    )
    return made


def _plan(stage: str) -> Callable[[Profile], Config]:
    return lambda profile: profile.plan_stage(stage)


def _training(stage: str) -> Callable[[Profile], Config]:
    return lambda profile: profile.training_stage(stage)


def _evaluation(stage: str) -> Node:
    inputs = {"model": stage, "tokenizer": "tokenizer"}
    return Node(
        f"eval.{stage}",
        "evaluation.stage:EvaluationStage",
        lambda p: p.evaluation,
        inputs,
        f"evaluate {stage}",
    )


class Run:
    """One walk over the pipeline for a profile, in a folder of its own; edits of its mix that are kept there
    are applied.

    Args:
        profile: what to make.
        store: where artifacts live; the run's folder is ``<store.root>/<name>``.
        name: the run's name; the profile's by default.
        listeners: receive progress events of every node.
        pipeline: the nodes; the whole chain by default.
    """

    def __init__(
        self,
        profile: Profile,
        store: Store,
        name: str = "",
        listeners: list[Listener] | None = None,
        pipeline: list[Node] | None = None,
    ) -> None:
        self.store = store
        self.name = name or profile.name
        self.folder = store.root / self.name
        edits = load_edits(self.folder)
        self.profile = with_edits(profile, edits, str(self.folder / EDITS_FILE)) if edits else profile
        self.listeners = listeners if listeners is not None else []
        self.nodes = {
            node.name: node
            for node in (pipeline if pipeline is not None else nodes(profile.init_from is not None))
        }
        self.artifacts: dict[str, Artifact] = {}
        self.record: dict[str, Any] = {"profile": profile.name, "nodes": {}}
        if (self.folder / RUN_RECORD).exists():
            self.record = read_json(self.folder / RUN_RECORD)

    def order(self, stop_after: str = "", group: str = "") -> list[str]:
        """Node names in the order they are made.

        Args:
            stop_after: the last node to make; all by default.
            group: only the nodes of this stage group (``stemma.groups``) and what they are made from.

        Raises:
            StemmaError: no such node or group, or the node is no part of the group.
        """
        names = list(self.nodes)
        if stop_after and stop_after not in names:
            raise StemmaError(f"there is no stage {stop_after!r}; stages are: {', '.join(names)}")
        if group:
            wanted = needed(members(group, names), self.nodes)
            names = [name for name in names if name in wanted]
        if stop_after and stop_after not in names:
            raise StemmaError(f"{group} does not need {stop_after!r}; it makes: {', '.join(names)}")
        return names[: names.index(stop_after) + 1] if stop_after else names

    def stage(self, name: str) -> Stage:
        """The stage object of a node whose inputs have been made."""
        node = self.nodes[name]
        inputs = {role: self.artifacts[source] for role, source in node.inputs.items()}
        return node.load()(node.name, node.config(self.profile), inputs)

    def make(self, name: str) -> Artifact:
        """Make a node's artifact, or verify the one there is. This object must have made its inputs."""
        stage = self.stage(name)
        stage.resolve(self.store.cache, self.profile.execution, Progress(name, self.listeners))
        identity = {
            **stage.identity(),
            "inputs": {role: str(artifact) for role, artifact in stage.inputs.items()},
        }
        recorded = self.record["nodes"].get(name)
        reason = ""
        if recorded and recorded["fingerprint"] != stage.fingerprint:
            changes = differences(recorded["identity"], identity)
            reason = "made anew, because " + _in_short(changes)
        # Recorded before it runs: if this attempt dies, the next one still knows what changed and what it
        # continues.
        entry = {"fingerprint": stage.fingerprint, "identity": identity, "sealed": False, "reason": reason}
        if recorded is None or recorded["fingerprint"] != stage.fingerprint:
            self._remember(name, entry)
        else:
            reason = recorded.get("reason", "") if not recorded["sealed"] else ""
        artifact = execute(stage, self.store, self.profile.execution, self.listeners, reason)
        if not self.record["nodes"][name]["sealed"]:
            self._remember(name, {**self.record["nodes"][name], "sealed": True})
        self.artifacts[name] = artifact
        return artifact

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


def open_run(store: Store, name: str) -> dict[str, Artifact]:
    """The sealed artifacts of a run by node name, in the order they are made.

    Raises:
        StemmaError: there is no such run; lists those there are.
    """
    return _open(store, name)[0]


def open_work(store: Store, name: str) -> dict[str, Path]:
    """The folders of a run's nodes that have begun and are not sealed: being made, or interrupted.

    What is in there is as a crash would leave it: only what stages write atomically, or line by line, can be
    read.

    Raises:
        StemmaError: there is no such run; lists those there are.
    """
    return _open(store, name)[1]


def _open(store: Store, name: str) -> tuple[dict[str, Artifact], dict[str, Path]]:
    made = read_record(store, name)["nodes"]
    order = [node.name for node in nodes(imported=True) if node.name in made]
    order += sorted(made.keys() - set(order))
    found: dict[str, Artifact] = {}
    working: dict[str, Path] = {}
    for node in order:
        current = {str(artifact) for artifact in found.values()}
        # What still stands for an earlier profile, because the run has not come to it again, is left out.
        if not current.issuperset(made[node]["identity"]["inputs"].values()):
            continue
        folder = store.folder(node, made[node]["fingerprint"])
        if store.is_sealed(node, made[node]["fingerprint"]):
            found[node] = store.open(node, made[node]["fingerprint"])
        elif folder.is_dir():
            working[node] = folder
    return found, working


def read_record(store: Store, name: str) -> dict[str, Any]:
    """A run's ``run.json``.

    Raises:
        StemmaError: there is no such run; lists those there are.
    """
    path = store.root / name / RUN_RECORD
    if not path.exists():
        known = sorted(found.parent.name for found in store.root.glob(f"*/{RUN_RECORD}"))
        raise StemmaError(
            f"there is no run {name!r} in {store.root}; runs are: {', '.join(known) or '(none)'}"
        )
    return dict(read_json(path))
