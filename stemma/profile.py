"""Profiles: one YAML file that says everything about a run, checked whole before anything starts.

The tree below is the rooms' config models put together. Nothing here imports torch, so a bad profile fails in
milliseconds, with every problem and its path.
"""

import importlib.resources
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from data_pipeline.config import CorpusConfig, CurriculumConfig, PlanConfig, TokensConfig
from data_pipeline.config.quality import QualityConfig
from evaluation.config import EvaluationConfig
from midtrain.config import MidtrainConfig, TrajectoriesConfig
from posttrain.config import ExportConfig, RLConfig, RLStageConfig, SFTConfig, SFTStageConfig
from pretrain.config import ImportConfig, LossConfig, ModelConfig, PretrainConfig, TrainingConfig, joined
from pretrain.topology import run_problems
from stemma.core.config import Config
from stemma.core.errors import ProfileError
from stemma.core.stage import Execution
from tokenizer.config import TokenizerConfig

TRAINING_STAGES = ("commonsense", "stem", "general", "agentic")
DEPLOYMENTS = "deployments.yaml"  # stands among the profiles and is none


class Curriculum(Config):
    """The mix of the four training stages, in order."""

    commonsense: CurriculumConfig
    stem: CurriculumConfig
    general: CurriculumConfig
    agentic: CurriculumConfig


class Training(Config):
    """How the four training stages train."""

    commonsense: TrainingConfig
    stem: TrainingConfig
    general: TrainingConfig
    agentic: TrainingConfig


class LongContext(Config):
    """Rotary bases of the mid-training stages by sequence length, where not the stage's or the model's."""

    general: dict[int, float] = Field({}, description="sequence length in tokens -> rotary base")
    agentic: dict[int, float] = Field({}, description="sequence length in tokens -> rotary base")


class Profile(Config):
    """A whole run, from data to export."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="the run's name and folder")
    description: str = Field("", description="one line for people")
    data: CorpusConfig
    quality: QualityConfig = QualityConfig()
    tokenizer: TokenizerConfig
    tokens: TokensConfig
    trajectories: TrajectoriesConfig
    curriculum: Curriculum
    model: ModelConfig
    init_from: str | None = Field(
        None,
        description="Hugging Face folder whose weights the first training stage starts from; null: none",
    )
    training: Training
    long_context: LongContext = LongContext()
    sft: SFTConfig
    rl: RLConfig
    evaluation: EvaluationConfig
    export: ExportConfig
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _rooms_agree(self) -> Self:
        """What no room can see alone: values of one section that another relies on."""
        problems = []
        if self.model.vocab_size != self.tokenizer.vocab_size:
            problems.append(
                f"model.vocab_size {self.model.vocab_size} is not tokenizer.vocab_size "
                f"{self.tokenizer.vocab_size}"
            )
        steps: dict[str, int] = {}
        for stage in TRAINING_STAGES:
            for phase in getattr(self.curriculum, stage).all_phases:
                place = f"curriculum.{stage}.phases.{phase.name}.sequence_length {phase.sequence_length}"
                if self.tokens.sequence_chunk % phase.sequence_length:
                    problems.append(
                        f"{place} does not divide tokens.sequence_chunk {self.tokens.sequence_chunk}"
                    )
                if phase.sequence_length > self.model.max_position_embeddings:
                    problems.append(f"{place} is above model.max_position_embeddings")
            try:
                plan = self.plan_stage(stage)
            except ValidationError as error:
                problems += [f"curriculum.{stage}: {problem['msg']}" for problem in error.errors()]
            else:
                for phase in plan.curriculum.all_phases:
                    place = f"curriculum.{stage}.phases.{phase.name}"
                    steps[place] = plan.batch_tokens // phase.sequence_length
        problems += run_problems(self.execution, self.model, steps)
        problems += self._join_stages()
        unknown = sorted(set(self.sft.families) - set(self.trajectories.families))
        if unknown:
            problems.append(f"sft.families: {unknown} are not in trajectories.families")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _join_stages(self) -> list[str]:
        """Let every stage go on from the learning rate of the one before, where it says so; problems."""
        sections = {f"training.{stage}": getattr(self.training, stage) for stage in TRAINING_STAGES}
        sections |= {"sft.training": self.sft.training, "rl.training": self.rl.training}
        resolved, problems = joined(sections)
        training = {stage: resolved[f"training.{stage}"] for stage in TRAINING_STAGES}
        changed = {
            "training": self.training.model_copy(update=training),
            "sft": self.sft.model_copy(update={"training": resolved["sft.training"]}),
            "rl": self.rl.model_copy(update={"training": resolved["rl.training"]}),
        }
        self.__dict__.update(changed)  # frozen, but not before it is whole
        if self.rl.training.loss != LossConfig():
            problems.append("rl.training.loss: RL minimizes rl.loss; leave this one out")
        return problems

    def plan_stage(self, stage: str) -> PlanConfig:
        """Config of the node ``plan.<stage>``."""
        training: TrainingConfig = getattr(self.training, stage)
        return PlanConfig(
            curriculum=getattr(self.curriculum, stage), global_batch_size=training.global_batch_size
        )

    def training_stage(self, stage: str) -> PretrainConfig:
        """Config of one of the four training nodes."""
        training: TrainingConfig = getattr(self.training, stage)
        if stage in ("general", "agentic"):
            bases = getattr(self.long_context, stage)
            return MidtrainConfig(model=self.model, training=training, rope_theta=bases)
        return PretrainConfig(model=self.model, training=training)

    def init_stage(self) -> ImportConfig:
        """Config of the node ``init``, which there is with ``init_from``."""
        return ImportConfig(folder=self.init_from or "", model=self.model)

    def sft_stage(self) -> SFTStageConfig:
        """Config of the node ``sft``."""
        return SFTStageConfig(model=self.model, sft=self.sft)

    def rl_stage(self) -> RLStageConfig:
        """Config of the node ``rl``."""
        return RLStageConfig(model=self.model, rl=self.rl)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key written twice, which plain YAML would silently let win."""


def _mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *anchor`, over which own keys win
            continue
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is written twice", key_node.start_mark
            )
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def profile_names() -> list[str]:
    """Names of the profiles that come with stemma."""
    folder = importlib.resources.files("configs")
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml") and entry.name != DEPLOYMENTS
    )


def profile_path(name: str) -> Path:
    """The file of a profile given by name (``nano``) or by path (``./my.yaml``).

    Raises:
        ProfileError: there is no such profile.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        path = Path(str(importlib.resources.files("configs") / f"{name}.yaml"))
    if not path.is_file():
        raise ProfileError(
            name, [f"no such profile; known names: {', '.join(profile_names())}; or give a path to a .yaml"]
        )
    return path


def load_profile(name: str, overrides: Iterable[str] = ()) -> Profile:
    """Load and check a profile.

    Args:
        name: a name or a path.
        overrides: ``path.to.field=value`` items, values in YAML.

    Raises:
        ProfileError: every problem at once, each with its path.
    """
    path = profile_path(name)
    tree = load_yaml(path)
    problems = list(_apply(tree, overrides))
    if problems:
        raise ProfileError(str(path), problems)
    try:
        return Profile.model_validate(tree)
    except ValidationError as error:
        raise ProfileError(str(path), list(explain(error))) from error


def load_yaml(path: Path, empty: bool = False) -> dict[str, Any]:
    """A YAML file with a mapping at its top.

    Args:
        path: the file.
        empty: it may hold nothing at all.

    Raises:
        ProfileError: it is not there, not readable, or something else.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ProfileError(str(path), [f"not readable: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(str(path), [f"not readable as YAML: {error}"]) from error
    if tree is None and empty:
        return {}
    if not isinstance(tree, dict):
        raise ProfileError(str(path), ["expected a mapping at the top of the file"])
    return tree


def _apply(tree: dict[str, Any], overrides: Iterable[str]) -> Iterator[str]:
    for item in overrides:
        field, equals, text = item.partition("=")
        keys = field.split(".")
        if not equals or not all(keys):
            yield f"--set {item}: expected path.to.field=value"
            continue
        here: Any = tree
        for key in keys[:-1]:
            here = here.setdefault(key, {}) if isinstance(here, dict) else None
        if not isinstance(here, dict):
            yield f"--set {item}: {field} does not lead to a field"
            continue
        try:
            here[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            yield f"--set {item}: the value is not readable as YAML: {error}"


def explain(error: ValidationError) -> Iterator[str]:
    """A validation error's problems, each with the path of its field."""
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"]) or "(top)"
        found = "" if problem["type"] in ("missing", "value_error") else f" (found: {problem['input']!r:.80})"
        yield f"{path}: {problem['msg'].removeprefix('Value error, ')}{found}"
