"""From budgets and weights to a plan: exact integer sample counts, phase by phase, within what the sources
hold.

``build_plan`` gives every source of a phase its share of the samples by largest remainder, takes them from
where the sources stand, and refuses what they do not have. The result, a ``plan.Plan``, is all that training
needs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fractions import Fraction

from data_pipeline.config import CurriculumConfig, PhaseConfig, PlanConfig
from data_pipeline.curriculum.cursor import Cursor, Reader
from data_pipeline.curriculum.layout import apportion
from data_pipeline.curriculum.plan import Phase, Plan, PlannedSource
from data_pipeline.permutation import derive_key
from stemma.core.errors import StemmaError


class PlanError(StemmaError):
    """A curriculum cannot be carried out with the tokens there are."""


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
        begun, waste, short = {}, {}, []
        for name, count in counts.items():
            source = plan.sources[name]
            begun[name] = standing.get(name) or Cursor(0, source.universe.fresh())
            reader = Reader(source.universe, begun[name], wanted.sequence_length, config.curriculum.window)
            if problem := _shortage(wanted, config.curriculum, source, reader, count):
                short.append(problem)
                continue
            standing[name], given_up = reader.advance(count)
            if given_up:
                waste[name] = given_up
        if short:
            raise PlanError(
                f"phase {wanted.name!r} asks for more than there is:\n" + "\n".join(short) + "\n"
                "Lower their weights or the phase's tokens, raise their max_epochs, or give them more text."
            )
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
            )
        )
        first_sample += samples
        first_step += samples // batch_samples
    return replace(plan, phases=tuple(made))


def source_weights(phase: PhaseConfig, sources: Mapping[str, PlannedSource]) -> dict[str, Fraction]:
    """The share of every source with one, in the order of their names; shares add up to what the weights add
    up to.

    A decimal weight is taken at its word (0.1 is a tenth). A domain's weight is divided over its sources in
    proportion to their tokens, without those that have a weight of their own.

    Raises:
        PlanError: a name is neither a source nor a domain, or a domain has no tokens left.
    """
    domains = sorted({source.domain for source in sources.values()})
    shares: dict[str, Fraction] = {}
    for name in (*phase.weights, *phase.max_epochs):
        if name not in sources and name not in domains:
            raise PlanError(
                f"phase {phase.name!r}: {name!r} is neither a source nor a domain of the tokens.\n"
                f"  domains: {', '.join(domains)}\n  sources: {', '.join(sorted(sources))}"
            )
    for name, weight in phase.weights.items():
        exact = Fraction(str(weight))
        if name in sources:
            shares[name] = shares.get(name, Fraction(0)) + exact
            continue
        members = [
            key for key, source in sources.items() if source.domain == name and key not in phase.weights
        ]
        total = sum(sources[key].universe.positions for key in members)
        if not total and weight:
            raise PlanError(
                f"phase {phase.name!r}: domain {name!r} has no tokens left to give its weight {weight} to; "
                "leave it out or give weights to its sources alone"
            )
        for key in members:
            part = exact * Fraction(sources[key].universe.positions, total) if total else Fraction(0)
            shares[key] = shares.get(key, Fraction(0)) + part
    if not any(shares.values()):
        raise PlanError(
            f"phase {phase.name!r}: every weight is zero; give at least one source or domain a share"
        )
    return {name: shares[name] for name in sorted(shares)}


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
    present = {source.domain for source in sources.values()}
    absent = (skipped.keys() | set(skipped.values())) - sources.keys() - present
    left_out: dict[str, None] = {}

    def reachable(phase: PhaseConfig) -> PhaseConfig:
        gone = [name for name in (*phase.weights, *phase.max_epochs) if name in absent]
        weights = {name: weight for name, weight in phase.weights.items() if name not in absent}
        if gone and not any(weights.values()):
            raise PlanError(
                f"phase {phase.name!r}: every source it reads was out of reach: {', '.join(gone)}"
            )
        epochs = {name: cap for name, cap in phase.max_epochs.items() if name not in absent}
        left_out.update(dict.fromkeys(gone))
        return phase.model_copy(update={"weights": weights, "max_epochs": epochs})

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


def _shortage(
    phase: PhaseConfig, curriculum: CurriculumConfig, source: PlannedSource, reader: Reader, asked: int
) -> str:
    """What a phase asks of a source beyond its cap of epochs; empty if there is enough."""
    name = source.universe.name
    cap = phase.max_epochs.get(name, phase.max_epochs.get(source.domain, curriculum.max_epochs))
    available = reader.available(cap)
    if asked > available:
        length = phase.sequence_length
        return (
            f"  {name}: asked {asked} samples of {length} ({asked * length:,} tokens), available {available} "
            f"({available * length:,} tokens) up to its cap of {cap} epochs; it has "
            f"{source.universe.tokens:,} tokens and is in epoch {reader.cursor.epoch + 1}"
        )
    return ""
