"""Stages 1 and 2: language-model pretraining over a plan."""

from typing import Any, ClassVar, cast

from data_pipeline.curriculum.plan import Plan
from pretrain.adopt import adopt
from pretrain.branch import go_on
from pretrain.config import PretrainConfig
from pretrain.launch import launch
from stemma.core.errors import StemmaError
from stemma.core.stage import Stage, Workspace


class PretrainStage(Stage):
    """Trains on the samples of a plan.

    Inputs: ``plan``, ``tokens``, ``tokenizer``, optionally ``agent_tokens`` (more sources) and ``init``
    (the stage before; without it, weights are drawn from ``training.seed``) and ``branch`` (a checkpoint of
    another run that it goes on from).
    """

    kind: ClassVar[str] = "pretrain"
    recipe: ClassVar[int] = 1

    def run(self, work: Workspace) -> dict[str, Any]:
        config = cast(PretrainConfig, self.config)
        plan = self._check_plan(config.training.global_batch_size)
        adopt(self, work, plan, config.training)
        go_on(self, work, config.model, config.training, plan.total_steps)
        tokens = [self.inputs[role].path for role in ("tokens", "agent_tokens") if role in self.inputs]
        return launch(
            self.name,
            work,
            "pretrain.objective:language_model",
            {
                "plan": str(self.inputs["plan"].path),
                "tokens": [str(folder) for folder in tokens],
                **self.long_context(),
            },
            model=config.model,
            training=config.training,
            tokenizer=self.inputs["tokenizer"].path,
            init=self.inputs["init"].path if "init" in self.inputs else None,
            validation=tokens,
        )

    def _check_plan(self, sequences: int) -> Plan:
        """The plan, which has to be for the batch and the very tokens that the stage was given.

        Args:
            sequences: of a step.

        Raises:
            StemmaError: it is for others.
        """
        planned_for = self.inputs["plan"].manifest["config"]["global_batch_size"]
        if planned_for != sequences:
            raise StemmaError(
                f"{self.inputs['plan']} was made for steps of {planned_for} sequences, but global_batch_size "
                f"is {sequences}; make the plan anew"
            )
        plan = Plan.load(self.inputs["plan"].path)
        for source in sorted({name for phase in plan.phases for name in phase.counts}):
            planned = plan.sources[source]
            given = self.inputs.get(planned.role)
            if given is None or given.fingerprint != planned.fingerprint:
                raise StemmaError(
                    f"{self.inputs['plan']} reads source {source!r} of {planned.role} "
                    f"{planned.fingerprint[:12]}, but this stage was given {given}; make the plan anew"
                )
        return plan

    def long_context(self) -> dict[str, Any]:
        """Further arguments of the objective: ``MidtrainStage`` gives rotary bases of longer phases."""
        return {}
