"""The mix of a run's stages: what the plan gives every source, what was consumed, what is left."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.curriculum.cursor import Cursor
from data_pipeline.curriculum.plan import Plan
from data_pipeline.inspection.lookup import load_plan, planned_stages
from stemma.core.artifact import SCRATCH, Artifact
from stemma.core.files import read_json
from stemma.core.ledger import Count, Ledger, LedgerMismatch, compare


@dataclass(frozen=True)
class MixRow:
    """One source in one stage.

    Attributes:
        source: its id.
        domain: what it counts for.
        planned: what the plan gives it.
        realized: what the ledger says was consumed; None before the stage is trained.
        epochs: times the source has been read when the stage ends, from the first stage on.
        waste: tokens given up in the stage, because an epoch ended with less than a sample unread.
    """

    source: str
    domain: str
    planned: Count
    realized: Count | None
    epochs: float
    waste: int

    @property
    def remaining(self) -> int:
        """Tokens planned and not consumed yet."""
        return self.planned.tokens - (self.realized.tokens if self.realized else 0)


@dataclass(frozen=True)
class StageMix:
    """The mix of one training stage.

    Attributes:
        stage: its name.
        phases: in order: name, sequence length, first step, samples, steps, tokens, weights asked for, tokens
            by source, and whether an edit ended it early.
        rows: one per source, by domain and name.
        steps: optimizer steps planned.
        done: steps that ``realized`` counts: all of a trained stage, those of the last checkpoint of one that
            is being trained; 0 if there is none yet.
        trained: it is sealed.
        mismatch: how planned and realized counts differ; empty if they are equal or nothing is realized.
    """

    stage: str
    phases: list[dict[str, Any]]
    rows: list[MixRow]
    steps: int
    done: int
    trained: bool
    mismatch: str = ""

    @property
    def tokens(self) -> int:
        """Planned tokens of the stage."""
        return sum(row.planned.tokens for row in self.rows)

    @property
    def realized(self) -> int:
        """Tokens consumed."""
        return sum(row.realized.tokens for row in self.rows if row.realized)

    @property
    def waste(self) -> int:
        """Tokens given up."""
        return sum(row.waste for row in self.rows)


def mix_tables(
    artifacts: Mapping[str, Artifact], working: Mapping[str, Path] | None = None
) -> list[StageMix]:
    """The mix of every planned stage, in the order of training.

    Args:
        artifacts: the run's sealed ones, by node name.
        working: folders of the run's unsealed ones: a stage in training shows what its last checkpoint
            counts.
    """
    return [
        stage_mix(stage, load_plan(artifacts, stage), *_realized(artifacts, working or {}, stage))
        for stage in planned_stages(artifacts)
    ]


def _realized(
    artifacts: Mapping[str, Artifact], working: Mapping[str, Path], stage: str
) -> tuple[Ledger | None, int | None]:
    """What a stage consumed, and in how many steps; None for all of them."""
    if stage in artifacts:
        return Ledger.from_json(read_json(artifacts[stage].file("ledger.json"))["realized"]), None
    if stage in working:
        # The last checkpoint is moved out of the scratch folder when a stage ends, before it is sealed.
        kept = [*working[stage].glob("checkpoint"), *working[stage].glob(f"{SCRATCH}/checkpoint/step-*")]
        if records := sorted(kept):
            state = read_json(records[-1] / "extra.json")["extra"]
            return Ledger.from_json(state["ledger"]), state["step"]
    return None, 0


def stage_mix(stage: str, plan: Plan, realized: Ledger | None = None, done: int | None = 0) -> StageMix:
    """The mix of one stage.

    Args:
        stage: its name.
        plan: its plan.
        realized: what was consumed, if any.
        done: in how many steps; None: it is trained to its end.
    """
    planned = plan.counts(plan.total_samples)
    cursors = plan.cursors()
    rows = []
    for name in sorted(plan.sources, key=lambda name: (plan.sources[name].domain, name)):
        if name not in planned.counts and name not in cursors:
            continue
        rows.append(
            MixRow(
                name,
                plan.sources[name].domain,
                planned.counts.get(name, Count()),
                realized.counts.get(name, Count()) if realized else None,
                epochs_read(plan, name, cursors.get(name)),
                sum(phase.waste.get(name, 0) for phase in plan.phases),
            )
        )
    steps = plan.total_steps if done is None else done
    mismatch = ""
    if realized:
        try:
            compare(plan.planned(steps), realized)
        except LedgerMismatch as error:
            mismatch = str(error)
    phases = [
        {
            "name": phase.name,
            "sequence_length": phase.sequence_length,
            "first_step": phase.first_step,
            "samples": phase.samples,
            "steps": phase.steps,
            "tokens": phase.tokens,
            "weights": dict(phase.weights),
            "sources": {name: count * phase.sequence_length for name, count in phase.counts.items()},
            "ended_early": phase.ended_early,
        }
        for phase in plan.phases
    ]
    return StageMix(stage, phases, rows, plan.total_steps, steps, done is None, mismatch)


def epochs_read(plan: Plan, name: str, cursor: Cursor | None) -> float:
    """How often a source has been read when it stands at a cursor, from the first stage on."""
    if cursor is None:
        return 0.0
    universe = plan.sources[name].universe
    return universe.consumed(cursor) / universe.positions
