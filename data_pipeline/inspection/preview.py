"""The mix of a profile before its tokens are made: planned by the planner itself, on estimated sizes.

Shares of domains, phases, steps and sequence lengths come out as they will be. What depends on how much text
there is, the division of a domain over its sources and epochs, is as good as the estimate.
"""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

from data_pipeline.config import CurriculumConfig, PhaseConfig, PlanConfig
from data_pipeline.curriculum.build import build_plan, leave_out
from data_pipeline.curriculum.caps import PlanError
from data_pipeline.curriculum.cursor import Universe
from data_pipeline.curriculum.plan import Plan, PlannedSource
from data_pipeline.inspection.glance import Glance, Sample
from data_pipeline.inspection.mix import StageMix, stage_mix
from data_pipeline.inspection.report.mix_figures import MixFigures, StageFacts, Supply
from data_pipeline.inspection.samples import Piece, SampleView, view

ANY = 1_000_000  # epochs: no cap
NOTE = (
    "A preview: nothing of this is made yet. Sizes are estimated from the documents that could be read in "
    "some seconds; quality tiers and duplicates are not known."
)


@dataclass(frozen=True)
class Preview:
    """What a profile would train on.

    Attributes:
        plans: by stage, in order; those that could be planned.
        problems: why the planner would refuse, by these estimates.
        left_out: weights of sources that are out of reach, by stage.
        configs: what was planned with.
    """

    plans: dict[str, Plan]
    problems: list[str]
    left_out: dict[str, list[str]]
    configs: dict[str, PlanConfig]

    @property
    def mixes(self) -> list[StageMix]:
        """Every stage's mix."""
        return [stage_mix(stage, plan) for stage, plan in self.plans.items()]


def preview(
    stages: Mapping[str, tuple[PlanConfig, Mapping[str, Glance]]], chunk: int, valid_fraction: float
) -> Preview:
    """Plan the stages one after another on what their sources seem to have.

    Args:
        stages: in order: config, and what the stage may read.
        chunk: ``tokens.sequence_chunk``.
        valid_fraction: of the documents, held out.
    """
    plans: dict[str, Plan] = {}
    problems: list[str] = []
    left_out: dict[str, list[str]] = {}
    configs: dict[str, PlanConfig] = {}
    before: Plan | None = None
    for stage, (config, glances) in stages.items():
        there = {name: glance for name, glance in glances.items() if glance.tokens}
        sources = {
            name: PlannedSource(
                Universe(name, round(glance.tokens * (1 - valid_fraction)), chunk, config.curriculum.seed),
                glance.domain,
                "tokens",
                "estimated",
            )
            for name, glance in there.items()
        }
        skipped = {name: glance.domain for name, glance in glances.items() if name not in there}
        try:
            curriculum, gone = leave_out(_without_tiers(config.curriculum), skipped, sources)
            configs[stage] = config.model_copy(update={"curriculum": curriculum})
            cursors = before.cursors() if before else None
            try:
                plan = build_plan(configs[stage], sources, cursors)
            except PlanError as error:
                plan = build_plan(_uncapped(configs[stage]), sources, cursors)
                problems.append(f"{stage}: by this estimate the planner would refuse: {error}")
        except PlanError as error:
            problems.append(f"{stage}: cannot be planned, nor what comes after it: {error}")
            break
        plans[stage] = before = plan
        left_out[stage] = gone
    return Preview(plans, list(dict.fromkeys(problems)), left_out, configs)


def _without_tiers(curriculum: CurriculumConfig) -> CurriculumConfig:
    """A curriculum that names no quality tiers: which text is of which is not known yet."""

    def plain(phase: PhaseConfig) -> PhaseConfig:
        weights: dict[str, float] = {}
        for name, weight in phase.weights.items():
            source = re.sub(r"\.t\d+$", "", name)
            weights[source] = weights.get(source, 0.0) + weight
        caps = {name: cap for name, cap in phase.max_epochs.items() if not re.search(r"(^|\.)t\d+$", name)}
        return phase.model_copy(update={"weights": weights, "upsample": {}, "max_epochs": caps})

    edits = [edit.model_copy(update={"phases": tuple(map(plain, edit.phases))}) for edit in curriculum.edits]
    return curriculum.model_copy(
        update={"phases": tuple(map(plain, curriculum.phases)), "edits": tuple(edits)}
    )


def _uncapped(config: PlanConfig) -> PlanConfig:
    def plain(phase: PhaseConfig) -> PhaseConfig:
        return phase.model_copy(update={"max_epochs": {}})

    curriculum = config.curriculum
    edits = [
        edit.model_copy(update={"phases": tuple(map(plain, edit.phases)), "max_epochs": ANY})
        for edit in curriculum.edits
    ]
    changed = {"phases": tuple(map(plain, curriculum.phases)), "edits": tuple(edits), "max_epochs": ANY}
    return config.model_copy(update={"curriculum": curriculum.model_copy(update=changed)})


def preview_figures(
    made: Preview, glances: Mapping[str, Glance], samples: int = 3, seed: int = 0
) -> MixFigures:
    """What the mix report draws, for what is not made yet.

    Args:
        made: from ``preview``.
        glances: every source's.
        samples: shown of each stage.
        seed: of the samples.
    """
    return MixFigures(
        mixes=made.mixes,
        facts={stage: _facts(made, stage) for stage in made.plans},
        supply={
            name: Supply(
                name,
                glance.domain,
                glance.tokens,
                round(glance.documents / glance.read) if glance.read else 0,
                name,
                None,
                None,
                None,
            )
            for name, glance in glances.items()
            if glance.tokens
        },
        packing={},
        samples={
            stage: _samples(stage, plan, glances, samples, random.Random(f"{seed} {stage}"))
            for stage, plan in made.plans.items()
        },
        preview=(NOTE, *made.problems),
    )


def _facts(made: Preview, stage: str) -> StageFacts:
    curriculum = made.configs[stage].curriculum
    caps = {
        name: max(
            phase.max_epochs.get(name, phase.max_epochs.get(source.domain, curriculum.max_epochs))
            for phase in curriculum.all_phases
        )
        for name, source in made.plans[stage].sources.items()
    }
    return StageFacts(
        artifact=f"plan.{stage}, previewed",
        settings={key: getattr(curriculum, key) for key in ("block", "window", "seed", "max_epochs")},
        caps=caps,
        edits=[edit.at_step for edit in curriculum.edits],
        left_out=made.left_out[stage],
    )


def _samples(
    stage: str, plan: Plan, glances: Mapping[str, Glance], count: int, rng: random.Random
) -> list[SampleView]:
    """Places of the plan at random, each with a document of the source that would be read there."""
    views = []
    for sample in sorted(rng.sample(range(plan.total_samples), min(count, plan.total_samples))):
        at = plan.locate(sample)
        glance = glances[at.source]
        if not glance.samples:
            continue
        piece = _piece(rng.choice(glance.samples), glance.bytes_per_token, at.sequence_length)
        views.append(view(stage, plan, sample, at, 0, [piece]))
    return views


def _piece(sample: Sample, bytes_per_token: float, length: int) -> Piece:
    size = len(sample.text.encode())
    tokens = max(1, round(size / bytes_per_token))
    shown = min(tokens, length)
    text = sample.text.encode()[: round(shown * bytes_per_token)].decode("utf-8", "ignore")
    return Piece({"id": sample.id, "origin": sample.origin, "tokens": tokens}, 0, shown - 1, text)
