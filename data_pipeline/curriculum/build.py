"""From budgets and weights to a plan: exact integer sample counts, phase by phase, within what the sources
hold.

``build_plan`` gives every source of a phase its share of the samples by largest remainder, takes them from
where the sources stand, and refuses what they do not have. The result, a ``plan.Plan``, is all that training
needs.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

from data_pipeline.config import CurriculumConfig, PhaseConfig, PlanConfig
from data_pipeline.curriculum.caps import Caps, PlanError
from data_pipeline.curriculum.cursor import Cursor, Reader
from data_pipeline.curriculum.layout import apportion
from data_pipeline.curriculum.plan import Phase, Plan, PlannedSource
from data_pipeline.permutation import derive_key

__all__ = ["PlanError", "build_plan", "edit_plan", "leave_out", "source_weights"]


def build_plan(
    config: PlanConfig, sources: Mapping[str, PlannedSource], cursors: Mapping[str, Cursor] | None = None
) -> Plan:
    """Plan a stage, its edits included.

    Args:
        config: phases, batch and edits.
        sources: what may be read, by name.
        cursors: where the sources stand, from ``Plan.cursors`` of the plan before; absent ones are fresh.

    Raises:
        PlanError: the curriculum cannot be carried out; says why and what to change.
    """
    empty = Plan(dict(sources), (), dict(cursors or {}), config.batch_tokens)
    plan = _extend(empty, config.curriculum.phases, config)
    for edit in config.edits:
        changed = config
        if edit.max_epochs is not None:
            curriculum = config.curriculum.model_copy(update={"max_epochs": edit.max_epochs})
            changed = config.model_copy(update={"curriculum": curriculum})
        plan = edit_plan(plan, edit.at_step, edit.phases, changed)
    return plan


def edit_plan(plan: Plan, at_step: int, phases: Iterable[PhaseConfig], config: PlanConfig) -> Plan:
    """A plan whose mix changes in the middle of the stage: the first ``at_step`` steps stay as they are.

    The phase that step lies in ends there, those after it are dropped, and the new ones begin from where the
    sources then stand: nothing is read twice, and nothing is lost.

    Args:
        plan: the plan as it is, edited before or not.
        at_step: optimizer steps to keep, from 1 to all of them.
        phases: what follows.
        config: of the stage: batch, caps, block, window and seed of the new phases. Its own phases and edits
            are not looked at.

    Raises:
        PlanError: there is no such step, the new phases do not fit the batch, bear a name that is kept, or
            cannot be carried out.
    """
    if not 1 <= at_step <= plan.total_steps:
        raise PlanError(
            f"the mix cannot be changed at step {at_step}: the stage has {plan.total_steps} steps, give one "
            f"from 1 to {plan.total_steps}; what comes before step 1 is the curriculum itself"
        )
    kept = []
    for phase in plan.phases:
        steps = min(phase.steps, at_step - phase.first_step)
        if steps > 0:
            kept.append(phase if steps == phase.steps else _cut(phase, steps * phase.batch_samples, plan))
    return _extend(replace(plan, phases=tuple(kept)), phases, config)


def _cut(phase: Phase, samples: int, plan: Plan) -> Phase:
    """The first samples of a phase. Its layout stays that of the whole one, so they stay the same."""
    reached = dict(zip(phase.sources, phase.layout.counts_before(samples)))
    counts = {name: count for name, count in reached.items() if count}
    waste = {}
    for name, count in counts.items():
        at = Reader(plan.sources[name].universe, phase.cursors[name], phase.sequence_length, phase.window)
        if given_up := at.advance(count)[1]:
            waste[name] = given_up
    return replace(phase, samples=samples, counts=counts, waste=waste)


def _extend(plan: Plan, phases: Iterable[PhaseConfig], config: PlanConfig) -> Plan:
    """The plan with further phases, which begin where it ends."""
    standing, made = plan.cursors(), list(plan.phases)
    first_sample, first_step = plan.total_samples, plan.total_steps
    for wanted in phases:
        if wanted.name in {phase.name for phase in made}:
            raise PlanError(f"phase {wanted.name!r} is there already; give the new one another name")
        _check_length(wanted, plan)
        batch_samples = plan.batch_tokens // wanted.sequence_length
        samples = wanted.tokens // plan.batch_tokens * batch_samples
        shares = source_weights(wanted, plan.sources)
        counts = dict(zip(shares, apportion(samples, list(shares.values()))))
        counts = {name: count for name, count in counts.items() if count}
        begun = {
            name: standing.get(name) or Cursor(0, plan.sources[name].universe.fresh()) for name in counts
        }
        readers = {
            name: Reader(
                plan.sources[name].universe, begun[name], wanted.sequence_length, config.curriculum.window
            )
            for name in counts
        }
        caps = Caps(wanted, config.curriculum.max_epochs, plan.sources)
        if short := caps.exceeded(readers, counts) or caps.exceeded_by_tiers(readers, counts, standing):
            raise PlanError(
                f"phase {wanted.name!r} asks for more than source x cap:\n" + "\n".join(short) + "\n"
                "Lower their weights or the phase's tokens, raise their max_epochs, or give them more text."
            )
        waste = {}
        for name, count in counts.items():
            standing[name], given_up = readers[name].advance(count)
            if given_up:
                waste[name] = given_up
        made.append(
            Phase(
                name=wanted.name,
                sequence_length=wanted.sequence_length,
                first_sample=first_sample,
                samples=samples,
                first_step=first_step,
                batch_samples=batch_samples,
                counts=counts,
                laid_out=counts,
                cursors=begun,
                waste=waste,
                block=config.curriculum.block,
                window=config.curriculum.window,
                key=derive_key(config.curriculum.seed, "layout", len(made)),
                weights=dict(wanted.weights),
                upsample=dict(wanted.upsample),
                document_mask=wanted.document_mask,
            )
        )
        first_sample += samples
        first_step += samples // batch_samples
    return replace(plan, phases=tuple(made))


def source_weights(phase: PhaseConfig, sources: Mapping[str, PlannedSource]) -> dict[str, Fraction]:
    """The share of every source (or tier) with one, in the order of their names; shares add up to what the
    weights add up to.

    A decimal weight is taken at its word (0.1 is a tenth). A domain's weight is divided over its sources, and
    a source's over its tiers, in proportion to their tokens times what their tier is upsampled by, without
    those that have a weight of their own.

    Raises:
        PlanError: a name is not of a source, a tier or a domain, or one has no tokens left.
    """
    tiers = {name: source for name, source in sources.items() if source.tier is not None}
    levels = {f"t{source.tier}" for source in tiers.values()}
    known = {
        "domains": {source.domain for source in sources.values()},
        "sources": (sources.keys() - tiers.keys()) | {source.parent for source in tiers.values()},
        "tiers": set(tiers),
    }
    _check_names(phase, "weights", phase.weights, known)
    _check_names(phase, "max_epochs", phase.max_epochs, {**known, "tiers": tiers.keys() | levels})
    _check_names(phase, "upsample", phase.upsample, {"tiers": tiers.keys() | levels})
    shares: dict[str, Fraction] = {}
    for name, weight in phase.weights.items():
        exact = Fraction(str(weight))
        if name in sources:
            shares[name] = shares.get(name, Fraction(0)) + exact
            continue
        sizes = {
            key: source.universe.positions * _factor(phase, key, source)
            for key, source in sources.items()
            if name in (source.parent, source.domain)
            and key not in phase.weights
            and (name == source.parent or source.parent not in phase.weights)
        }
        total = sum(sizes.values(), Fraction(0))
        if not total and weight:
            kind = "source" if name in known["sources"] else "domain"
            raise PlanError(
                f"phase {phase.name!r}: {kind} {name!r} has no tokens left to give its weight {weight} to; "
                "leave it out, or give weights to its parts alone"
            )
        for key, size in sizes.items():
            part = exact * size / total if total else Fraction(0)
            shares[key] = shares.get(key, Fraction(0)) + part
    if not any(shares.values()):
        raise PlanError(
            f"phase {phase.name!r}: every weight is zero; give at least one source or domain a share"
        )
    return {name: shares[name] for name in sorted(shares)}


def _factor(phase: PhaseConfig, name: str, source: PlannedSource) -> Fraction:
    """What a source's tokens are multiplied by where shares are divided."""
    return Fraction(str(phase.upsample.get(name, phase.upsample.get(f"t{source.tier}", 1))))


def _check_names(
    phase: PhaseConfig, field: str, given: Iterable[str], known: Mapping[str, Iterable[str]]
) -> None:
    """Refuse names that nothing bears, and list those there are."""
    names = {name for some in known.values() for name in some}
    if unknown := [name for name in given if name not in names]:
        kinds = [f"  {kind}: {', '.join(sorted(some)) or '(none)'}" for kind, some in known.items()]
        raise PlanError(
            f"phase {phase.name!r}: {field} names {', '.join(map(repr, unknown))}, which the tokens do not "
            "have. They have\n" + "\n".join(kinds)
        )


def leave_out(
    curriculum: CurriculumConfig, skipped: Mapping[str, str], sources: Mapping[str, PlannedSource]
) -> tuple[CurriculumConfig, list[str]]:
    """The curriculum without weights of what the corpus could not reach; the other weights share its budget.

    Only what is recorded as skipped is left out: any other unknown name stays an error.

    Args:
        curriculum: as the profile has it.
        skipped: sources out of reach when the corpus was made, with their domains.
        sources: what there is.

    Returns:
        the curriculum to plan, and the names left out.

    Raises:
        PlanError: nothing is left of a phase.
    """
    there = {source.domain for source in sources.values()} | {source.parent for source in sources.values()}
    absent = (skipped.keys() | set(skipped.values())) - sources.keys() - there
    left_out: dict[str, None] = {}

    def is_absent(name: str) -> bool:
        return name in absent or re.sub(r"\.t\d+$", "", name) in absent  # a tier of a source that is

    def reachable(phase: PhaseConfig) -> PhaseConfig:
        named = {field: getattr(phase, field) for field in ("weights", "max_epochs", "upsample")}
        gone = [name for entries in named.values() for name in entries if is_absent(name)]
        present = {
            field: {name: value for name, value in entries.items() if not is_absent(name)}
            for field, entries in named.items()
        }
        if gone and not any(present["weights"].values()):
            raise PlanError(
                f"phase {phase.name!r}: every source it reads was out of reach: {', '.join(gone)}"
            )
        left_out.update(dict.fromkeys(gone))
        return phase.model_copy(update=present)

    edits = [
        edit.model_copy(update={"phases": tuple(map(reachable, edit.phases))}) for edit in curriculum.edits
    ]
    phases = tuple(map(reachable, curriculum.phases))
    return curriculum.model_copy(update={"phases": phases, "edits": tuple(edits)}), list(left_out)


def _check_length(phase: PhaseConfig, plan: Plan) -> None:
    length = phase.sequence_length
    for name, source in plan.sources.items():
        if source.universe.chunk % length:
            raise PlanError(
                f"phase {phase.name!r}: its sequence length {length} does not divide the "
                f"super-chunk of {name!r}, {source.universe.chunk} tokens; use a divisor of it or change "
                "tokens.sequence_chunk"
            )
    if plan.batch_tokens % length or phase.tokens < plan.batch_tokens:
        raise PlanError(
            f"phase {phase.name!r}: {phase.tokens:,} tokens in sequences of {length} do not make whole steps "
            f"of {plan.batch_tokens:,} tokens; give it at least one step, and a length that divides it"
        )
