"""Which stage feeds which: the one place that says so."""

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from stemma.core.config import Config
from stemma.core.stage import Stage
from stemma.profile import TRAINING_STAGES, Profile

BRANCH_POINT = "branch."  # before a stage's name: the node of a checkpoint that the stage goes on from


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
        made.append(Node(stage, room, _training(stage), inputs, f"train on the {stage} mix"))
        made.append(_evaluation(stage))
        previous = stage
    posttrain = {**with_agent, "trajectories": "trajectories"}
    made += [
        Node(
            "sft",
            "posttrain.sft:SFTStage",
            lambda p: p.sft_stage(),
            {**posttrain, "init": "agentic"},
            "supervised fine-tuning",
        ),
        _evaluation("sft"),
        Node(
            "rl",
            "posttrain.rl:RLStage",
            lambda p: p.rl_stage(),
            {**with_agent, "init": "sft"},
            "reinforcement learning",
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
        f"score the model of {stage}",
    )


def in_order(names: Collection[str]) -> list[str]:
    """Names of nodes in the order they are made; checkpoints that a branch took over come first."""
    known = [node.name for node in nodes(imported=True)]

    def place(name: str) -> int:
        if name.startswith(BRANCH_POINT):
            return -1
        return known.index(name) if name in known else len(known)

    return sorted(names, key=lambda name: (place(name), name))
