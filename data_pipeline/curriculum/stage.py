"""The stage that plans one training stage: sources and cursors from its inputs, ``plan.json`` out."""

from typing import Any

from data_pipeline.config import PlanConfig
from data_pipeline.curriculum.branched import ROLE, branched_plan
from data_pipeline.curriculum.build import PlanError, build_plan, leave_out
from data_pipeline.curriculum.cursor import Universe
from data_pipeline.curriculum.plan import PLAN_FILE, SPLIT, Plan, PlannedSource
from data_pipeline.tokens.shards import INDEX_FILE
from stemma.core.files import read_json, write_json
from stemma.core.stage import Stage, Workspace

PLANNED = ("previous", ROLE)  # inputs that are no tokens


class PlanStage(Stage):
    """Plan one training stage.

    Inputs: tokens artifacts, under any roles but ``previous``, the plan of the stage before, if there is one,
    and ``branch``, a checkpoint of another run that the stage goes on from.
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
        if ROLE in self.inputs:
            plan = branched_plan(self.config, config, self.inputs[ROLE])
        else:
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
            if role not in PLANNED:
                found |= read_json(artifact.file(INDEX_FILE)).get("skipped", {})
        return found

    def _sources(self, previous: Plan | None) -> dict[str, PlannedSource]:
        """Sources of the tokens artifacts; those planned before keep their seed and must be the same."""
        found: dict[str, PlannedSource] = {}
        for role, artifact in sorted(self.inputs.items()):
            if role in PLANNED:
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
                tier = entry.get("tier")
                parent = "" if tier is None else entry["parent"]
                found[name] = PlannedSource(
                    universe, entry["domain"], role, artifact.fingerprint, parent, tier
                )
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
