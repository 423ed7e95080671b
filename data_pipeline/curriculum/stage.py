"""From budgets and weights to a plan: exact integer sample counts, phase by phase, within what the sources
hold.

``build_plan`` gives every source of a phase its share of the samples by largest remainder, takes them from
where the sources stand, and refuses what they do not have. The result, a ``plan.Plan``, is all that training
needs.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from data_pipeline.config import CurriculumConfig, PhaseConfig, PlanConfig
from data_pipeline.curriculum.cursor import Cursor, Reader, Universe
from data_pipeline.curriculum.layout import apportion
from data_pipeline.curriculum.plan import PLAN_FILE, SPLIT, Location, Phase, Plan, PlannedSource
from data_pipeline.permutation import derive_key
from data_pipeline.tokens.shards import INDEX_FILE
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, write_json
from stemma.core.stage import Stage, Workspace

__all__ = ["Location", "Plan", "PlanError", "PlanStage", "build_plan", "source_weights"]


class PlanError(StemmaError):
    """A curriculum cannot be carried out with the tokens there are."""


def build_plan(
    config: PlanConfig, sources: Mapping[str, PlannedSource], cursors: Mapping[str, Cursor] | None = None
) -> Plan:
    """Plan a stage.

    Args:
        config: phases and batch.
        sources: what may be read, by name.
        cursors: where the sources stand, from ``Plan.cursors`` of the plan before; absent ones are fresh.

    Raises:
        PlanError: the curriculum cannot be carried out; says why and what to change.
    """
    standing = dict(cursors or {})
    phases: list[Phase] = []
    first_sample = first_step = 0
    for number, wanted in enumerate(config.curriculum.phases):
        _check_length(wanted, sources)
        batch_samples = config.batch_tokens // wanted.sequence_length
        steps = wanted.tokens // config.batch_tokens
        samples = steps * batch_samples
        shares = source_weights(wanted, sources)
        counts = dict(zip(shares, apportion(samples, list(shares.values()))))
        counts = {name: count for name, count in counts.items() if count}
        begun, waste, short = {}, {}, []
        for name, count in counts.items():
            begun[name] = standing.get(name) or Cursor(0, sources[name].universe.fresh())
            reader = Reader(
                sources[name].universe, begun[name], wanted.sequence_length, config.curriculum.window
            )
            if problem := _shortage(wanted, config.curriculum, sources[name], reader, count):
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
        phases.append(
            Phase(
                name=wanted.name,
                sequence_length=wanted.sequence_length,
                first_sample=first_sample,
                samples=samples,
                first_step=first_step,
                batch_samples=batch_samples,
                counts=counts,
                cursors=begun,
                waste=waste,
                block=config.curriculum.block,
                window=config.curriculum.window,
                key=derive_key(config.curriculum.seed, "layout", number),
                weights=dict(wanted.weights),
            )
        )
        first_sample += samples
        first_step += steps
    return Plan(dict(sources), tuple(phases), dict(cursors or {}), config.batch_tokens)


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
    phases = []
    for phase in curriculum.phases:
        gone = [name for name in (*phase.weights, *phase.max_epochs) if name in absent]
        weights = {name: weight for name, weight in phase.weights.items() if name not in absent}
        if gone and not any(weights.values()):
            raise PlanError(
                f"phase {phase.name!r}: every source it reads was out of reach: {', '.join(gone)}"
            )
        epochs = {name: cap for name, cap in phase.max_epochs.items() if name not in absent}
        phases.append(phase.model_copy(update={"weights": weights, "max_epochs": epochs}))
        left_out.update(dict.fromkeys(gone))
    return curriculum.model_copy(update={"phases": tuple(phases)}), list(left_out)


def _check_length(phase: PhaseConfig, sources: Mapping[str, PlannedSource]) -> None:
    for name, source in sources.items():
        if source.universe.chunk % phase.sequence_length:
            raise PlanError(
                f"phase {phase.name!r}: its sequence length {phase.sequence_length} does not divide the "
                f"super-chunk of {name!r}, {source.universe.chunk} tokens; use a divisor of it or change "
                "tokens.sequence_chunk"
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


class PlanStage(Stage):
    """Plan one training stage.

    Inputs: tokens artifacts, under any roles but ``previous``: the plan of the stage before, if there is one.
    """

    kind = "plan"
    config: PlanConfig

    def run(self, work: Workspace) -> dict[str, Any]:
        previous = Plan.load(self.inputs["previous"].path) if "previous" in self.inputs else None
        sources = self._sources(previous)
        curriculum, left_out = leave_out(self.config.curriculum, self._skipped(), sources)
        if left_out:
            work.progress.say(f"the mix goes on without {', '.join(left_out)}: out of reach for the corpus")
        config = self.config.model_copy(update={"curriculum": curriculum})
        plan = build_plan(config, sources, previous.cursors() if previous else None)
        write_json(work.path / PLAN_FILE, plan.to_json())
        ledger = plan.counts(plan.total_samples)
        return {
            "tokens": plan.total_tokens,
            "samples": plan.total_samples,
            "steps": plan.total_steps,
            "phases": len(plan.phases),
            "waste": sum(sum(phase.waste.values()) for phase in plan.phases),
            "left_out": left_out,
            "domains": {domain: count.tokens for domain, count in sorted(ledger.by_domain().items())},
        }

    def _skipped(self) -> dict[str, str]:
        """Sources the corpus behind the tokens could not reach, with their domains."""
        found: dict[str, str] = {}
        for role, artifact in self.inputs.items():
            if role != "previous":
                found |= read_json(artifact.file(INDEX_FILE)).get("skipped", {})
        return found

    def _sources(self, previous: Plan | None) -> dict[str, PlannedSource]:
        """Sources of the tokens artifacts; those planned before keep their seed and must be the same."""
        found: dict[str, PlannedSource] = {}
        for role, artifact in sorted(self.inputs.items()):
            if role == "previous":
                continue
            index = read_json(artifact.file(INDEX_FILE))
            for name, entry in sorted(index["sources"].items()):
                if SPLIT not in entry["splits"]:
                    continue
                if name in found:
                    raise PlanError(
                        f"source {name!r} is in both {role} and {found[name].role}; rename one of them"
                    )
                before = previous.sources.get(name) if previous else None
                seed = before.universe.seed if before else self.config.curriculum.seed
                universe = Universe(name, entry["splits"][SPLIT]["tokens"], index["sequence_chunk"], seed)
                found[name] = PlannedSource(universe, entry["domain"], role, artifact.fingerprint)
                if before and (before.fingerprint, before.universe) != (artifact.fingerprint, universe):
                    raise PlanError(
                        f"source {name!r} is not what {self.inputs['previous']} read: "
                        f"{before.universe.tokens:,} tokens of {before.fingerprint[:12]} then, "
                        f"{universe.tokens:,} of {artifact.fingerprint[:12]} now. Its cursor means nothing "
                        "there; plan anew from the first stage on"
                    )
        if gone := sorted((previous.cursors() if previous else {}).keys() - found.keys()):
            raise PlanError(
                f"the plan before has read {', '.join(gone)}, which no tokens input of {self.name} holds; "
                "give it the same tokens, so that the cursors can be carried on"
            )
        return found
