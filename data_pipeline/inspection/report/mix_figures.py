"""What the report of a mix shows, gathered from a run's plans, tokens and ledgers."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import PlanConfig
from data_pipeline.curriculum.caps import Caps
from data_pipeline.curriculum.plan import SPLIT, Plan
from data_pipeline.inspection.lookup import PLAN, load_plan, need, planned_stages
from data_pipeline.inspection.mix import StageMix, mix_tables
from data_pipeline.inspection.samples import SampleView, draw_samples
from data_pipeline.tokens.shards import INDEX_FILE
from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError
from stemma.core.files import read_json

SAMPLES = 3  # of each stage


@dataclass(frozen=True)
class Supply:
    """What there is of a source to train on.

    Attributes:
        name, domain: the source.
        tokens, documents: of its training split.
        parent, tier: what it was divided from by quality, and which part it is; None where it was not.
        cut, cut_plain: documents that do not lie in one window, as written and as plain concatenation would
            have it; None where that was not counted.
    """

    name: str
    domain: str
    tokens: int
    documents: int
    parent: str
    tier: int | None
    cut: int | None
    cut_plain: int | None


@dataclass(frozen=True)
class StageFacts:
    """How a stage was planned.

    Attributes:
        artifact: its plan.
        settings: block, window, seed, cap on epochs.
        caps: highest number of epochs that a phase allows, by source.
        edits: steps at which its mix was changed.
        left_out: weights of sources that the corpus could not reach.
    """

    artifact: str
    settings: dict[str, int]
    caps: dict[str, int]
    edits: list[int]
    left_out: list[str]


@dataclass(frozen=True)
class MixFigures:
    """All that ``mix_page`` draws: the mixes in order of training, what they draw on, and some samples.

    ``preview`` says, where nothing is made yet, how far that can be believed; else it is empty.
    """

    mixes: list[StageMix]
    facts: dict[str, StageFacts]
    supply: dict[str, Supply]
    packing: dict[str, Any]
    samples: dict[str, list[SampleView]]
    preview: tuple[str, ...] = ()


def gather(
    artifacts: Mapping[str, Artifact],
    working: Mapping[str, Path] | None = None,
    seed: int = 0,
    count: int = SAMPLES,
) -> MixFigures:
    """Read what the report needs.

    Args:
        artifacts: the run's sealed ones, by node name.
        working: folders of those being made.
        seed: of the samples shown.
        count: samples of each stage.

    Raises:
        StemmaError: nothing is planned yet.
    """
    mixes = mix_tables(artifacts, working)
    if not mixes:
        raise StemmaError("this run has no plan yet: there is no mix to report on")
    need(artifacts, "tokenizer")
    stages = planned_stages(artifacts)
    indices = [
        (artifact, read_json(artifact.file(INDEX_FILE)))
        for artifact in artifacts.values()
        if artifact.kind == "tokens"
    ]
    return MixFigures(
        mixes=mixes,
        facts={stage: _facts(artifacts[PLAN + stage], load_plan(artifacts, stage)) for stage in stages},
        supply=_supply([index for _, index in indices]),
        packing={artifact.name: artifact.summary.get("truncation", {}) for artifact, _ in indices},
        samples={stage: draw_samples(artifacts, stage, count, seed=seed) for stage in stages},
    )


def _facts(artifact: Artifact, plan: Plan) -> StageFacts:
    curriculum = PlanConfig.model_validate(artifact.manifest["config"]).curriculum
    usual = curriculum.max_epochs
    given = [(phase, usual) for phase in curriculum.phases]
    given += [(phase, edit.max_epochs or usual) for edit in curriculum.edits for phase in edit.phases]
    caps = [Caps(phase, most, plan.sources) for phase, most in given]
    return StageFacts(
        artifact=str(artifact),
        settings={key: getattr(curriculum, key) for key in ("block", "window", "seed", "max_epochs")},
        caps={name: max(cap.of(name) for cap in caps) for name in plan.sources},
        edits=[edit.at_step for edit in curriculum.edits],
        left_out=list(artifact.summary.get("left_out", [])),
    )


def _supply(indices: list[dict[str, Any]]) -> dict[str, Supply]:
    found: dict[str, Supply] = {}
    for index in indices:
        for name, entry in index["sources"].items():
            if SPLIT not in entry["splits"]:
                continue
            split = entry["splits"][SPLIT]
            found[name] = Supply(
                name=name,
                domain=entry["domain"],
                tokens=split["tokens"],
                documents=split["documents"],
                parent=entry.get("parent", name),
                tier=entry.get("tier"),
                cut=split.get("cut", {}).get("documents"),
                cut_plain=split.get("cut_by_concatenation", {}).get("documents"),
            )
    return found


def planned_by_source(figures: MixFigures) -> dict[str, int]:
    """Tokens of all stages, by source."""
    total: dict[str, int] = defaultdict(int)
    for mix in figures.mixes:
        for row in mix.rows:
            total[row.source] += row.planned.tokens
    return dict(total)
