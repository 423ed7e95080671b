"""The one training loop: pretraining, mid-training, SFT and RL differ in their objective only.

Everything a resumed run needs is in a checkpoint: weights and optimizer (the engine's), and ``TrainingState``
below. What was written after it (receipts, metrics) is cut off and written again, so a run that
was killed anywhere leaves the same bytes as one that was not.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pretrain.batch import Objective, StepBatch
from pretrain.convert import HFFolder, special_ids
from pretrain.engine import Engine, StepResult
from pretrain.guards import OUTCOMES, Finding, Guards, gave_up, incident, pedigree, stopped
from pretrain.launch import Job
from pretrain.metrics import Meter
from pretrain.monitors.watch import Monitors
from pretrain.receipts import receipt
from pretrain.records import Records
from pretrain.rewinds import Rewind, Rewinds
from pretrain.saving import Checkpoints
from pretrain.schedule import learning_rate
from pretrain.validation import Validator
from stemma.core.files import read_json, read_jsonl, write_json
from stemma.core.ledger import Ledger, compare
from stemma.core.progress import Progress


class Stopped(Exception):
    """The stop flag was seen and a checkpoint written."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"stopped after {step} steps")


@dataclass
class TrainingState:
    """Progress of a stage, carried in its checkpoints as JSON.

    Attributes:
        step: steps done.
        ledger: realized counts.
        objective: the objective's own state.
        logs: position of each log file, by name.
        before: bits per byte per domain before the first step.
        monitors: state of what is measured along the way.
        guards: what is usual of a step.
        skipped: steps that went wrong and were not applied.
        withheld: steps that were not applied because of a rewind.
        decided_by: steps that had to be known for this; more than ``step`` inside a stretch left out.
        seconds: spent in steps.
    """

    step: int = 0
    ledger: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, Any] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    monitors: dict[str, Any] = field(default_factory=dict)
    guards: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0
    withheld: int = 0
    decided_by: int = 0
    seconds: float = 0.0


def train(
    job: Job,
    engine: Engine,
    objective: Objective,
    progress: Progress,
    stop: Callable[[], bool],
    alive: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Train a stage from its last good checkpoint to its end, and write the artifact's files.

    Called by every rank. Returns the stage's summary.

    Args:
        job: what to train, and where.
        engine: holds the model.
        objective: gives batches and losses.
        progress: is told what a person should know.
        stop: whether this rank was asked to stop; read between steps.
        alive: called with the number of steps done whenever some work was finished.

    Raises:
        Stopped: ``stop()`` became true on some rank; the last step is checkpointed.
        Rewind: a step went wrong and the profile wants to go back. Build engine and objective anew and call
            this again: going back is the same as being killed and started again.
        StageFailed: a step went wrong that the profile wants to stop at, or too many did.
        LedgerMismatch: what was consumed is not what was planned.
        DamagedError: no checkpoint, or the record of an earlier attempt, is usable.
    """
    run = _Run(job, engine, objective, progress, stop, alive)
    try:
        return run.train()
    finally:
        run.close()


class _Run:
    """The loop's working parts. Only rank 0 writes files; every rank keeps the same state."""

    def __init__(
        self,
        job: Job,
        engine: Engine,
        objective: Objective,
        progress: Progress,
        stop: Callable[[], bool],
        alive: Callable[[int], None],
    ) -> None:
        self.job, self.engine, self.objective, self.progress = job, engine, objective, progress
        self.stop, self.alive = stop, alive
        self.path = Path(job.path)
        self.checkpoints = Checkpoints(job, engine, objective.total_steps, progress)
        self.monitors = Monitors(job, engine, objective, progress)
        self.validator = Validator(job, engine) if job.validation else None
        self.guards = Guards(job.training.guards, job.training.precision)
        self.rewinds = Rewinds.open(Path(job.scratch))
        self.state = TrainingState()
        self.resumed_from: int | None = None
        self._start()
        self.records = Records(job, engine.rank, self.state.step, self.state.logs)
        domains = objective.planned(0).domains
        self.ledger = Ledger.from_json(self.state.ledger) if self.state.ledger else Ledger(domains)
        self.ledger.domains |= domains  # it may go on from a checkpoint of another run, with further sources
        self.meter = Meter(engine, objective, domains, self.validator.bytes_of if self.validator else None)

    # --- beginning ---------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Load the last good checkpoint, else the stage before, else keep the fresh weights."""
        if self.rewinds.pending is not None:
            self.checkpoints.drop_after(self.rewinds.pending)
            self.rewinds.settle()
        loaded = self.checkpoints.load_last()
        if loaded is not None:
            self.state = TrainingState(**loaded)
            self.resumed_from = self.state.step
            self.objective.load_state_dict(self.state.objective)
            self.monitors.load_state_dict(self.state.monitors)
            self.guards.load_state_dict(self.state.guards)
            return
        if self.job.init and Path(self.job.init).exists():
            self.engine.load(Path(self.job.init), weights_only=not self.job.training.carry_optimizer)
        elif self.job.init:  # an imported model has no checkpoint
            self.engine.load_hf_state_dict(HFFolder(Path(self.job.init).parent / "hf"))
        self.state.before = self._before()

    def _before(self) -> dict[str, float]:
        """Bits per byte before the first step: what the stage before measured, if it did the same."""
        if not self.validator:
            return {}
        record = Path(self.job.init).parent / "evaluation.json" if self.job.init else None
        known = read_json(record) if record and record.exists() else {}
        if known.get("protocol") == self.validator.protocol:
            return dict(known["after"])
        self.progress.say("measuring bits per byte before training")
        return self.validator.measure()

    # --- the loop ----------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        total = self.objective.total_steps
        while self.state.step < total:
            self._found(self.monitors.before_step(self.state.step))
            self._step(self.state.step, total)
            self.state.step += 1
            self._found(self.monitors.after_step(self.state.step))
            self.alive(self.state.step)
            stopping = self.state.step < total and _any_rank(self.engine, self.stop())
            if stopping or self.checkpoints.due(self.state.step):
                self._checkpoint()
            if stopping:
                raise Stopped(self.state.step)
        return self._finish()

    def _found(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            self.records.add("monitors", line)

    def _step(self, step: int, total: int) -> None:
        started = time.perf_counter()
        batch = self.objective.batch(step, self.engine)
        waited = time.perf_counter() - started
        lr = learning_rate(self.job.training.schedule, step, total)
        result, finding = self._update(step, batch, lr)
        for source, (samples, tokens, supervised) in batch.counts.items():
            self.ledger.record(source, samples, tokens, supervised)
        seconds = time.perf_counter() - started
        self.state.seconds += seconds
        self.records.add("receipts", receipt(step, batch.sha256, result.loss, result.grad_norm, lr))
        figures = self.meter.figures(step, batch, result, lr, seconds, waited)
        self.records.show(figures)
        shown = {key: figures[key] for key in ("loss", "lr", "tokens_per_second")}
        tokens = sum(count.tokens for count in self.ledger.counts.values())
        self.progress.step(step + 1, total, tokens=tokens, **shown, **batch.metrics)
        for line in self.rewinds.incidents(step):
            self.records.add("incidents", line)
        if finding is not None:
            self._deal_with(step, batch, result, finding)

    def _update(self, step: int, batch: StepBatch, lr: float) -> tuple[StepResult, Finding | None]:
        """Train one step, if nothing speaks against it; also what does."""
        self.guards.enter(batch.phase)
        finding: Finding | None = None
        withheld = self.rewinds.withheld(step)

        def accept(loss: float, grad_norm: float) -> bool:
            nonlocal finding
            self.meter.before_update(step)
            finding = None if withheld else self.guards.judge(loss, grad_norm)
            return not withheld and (finding is None or finding.policy == "record")

        result = self.engine.train_step(batch, self.meter.loss, lr, accept)
        if result.skipped and finding is None and not withheld:
            finding = self.guards.judge_unapplied(result)
        self.guards.observe(result)
        self.state.withheld += withheld
        return result, finding

    def _deal_with(self, step: int, batch: StepBatch, result: StepResult, finding: Finding) -> None:
        """Write down a step that went wrong, and do what the profile says."""
        line = incident(step, finding, result, batch.sha256, pedigree(batch, self.engine))
        path, stage, limit = self.path / "incidents.jsonl", self.job.stage, self.job.training.guards.limit
        self.records.add("incidents", line)
        self.records.sync()
        self.progress.say(f"step {step} {OUTCOMES[finding.policy]}: {finding.text}")
        if finding.policy == "stop":
            raise stopped(stage, step, finding, path)
        if finding.policy == "record":
            return
        if self.state.skipped + len(self.rewinds.records) >= limit:
            raise gave_up(stage, step, finding, limit, path)
        if finding.policy == "rewind":
            self.close()  # the next attempt finds everything as this one leaves it
            self.rewinds.add(step, self.job.training.guards.rewind_steps, line)
            raise Rewind(stage, step)
        self.state.skipped += 1

    def close(self) -> None:
        """Leave checkpoints and records to whoever goes on. Safe to repeat."""
        self.checkpoints.close()
        self.records.close()

    # --- checkpoints and the end -------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Save everything, after checking that the plan was kept."""
        compare(self.objective.planned(self.state.step), self.ledger)
        self.state.monitors = self.monitors.state_dict()
        self.state.guards = self.guards.state_dict()
        self.state.ledger = self.ledger.to_json()
        self.state.objective = self.objective.state_dict()
        self.state.decided_by = self.rewinds.decided_by(self.state.step)
        self.state.logs = self.records.sync()
        self.checkpoints.save(self.state.step, asdict(self.state))

    def _finish(self) -> dict[str, Any]:
        """Write what the artifact consists of. Safe to repeat: each file is a function of the checkpoint."""
        self._found(self.monitors.end(self.state.step))
        after = self.validator.measure() if self.validator else {}
        planned = self.objective.planned(self.state.step)
        compare(planned, self.ledger)
        self.engine.write_hf(self.path / "hf", **special_ids(Path(self.job.tokenizer) / "hf"))
        summary: dict[str, Any] = {}
        if self.engine.rank == 0:
            evaluation = {"before": self.state.before, "after": after}
            if self.validator:
                evaluation["protocol"] = self.validator.protocol
            write_json(self.path / "evaluation.json", evaluation)
            ledger = {"planned": planned.to_json(), "realized": self.ledger.to_json()}
            write_json(self.path / "ledger.json", ledger)
            self.records.finish()
            self.checkpoints.finish(self.state.step)
            summary = self._summary(after)
        return summary

    def _summary(self, after: dict[str, float]) -> dict[str, Any]:
        losses = [float.fromhex(line["loss"]) for line in read_jsonl(self.path / "receipts.jsonl")]
        losses = [loss for loss in losses if math.isfinite(loss)]  # others were never applied
        tokens = sum(count.tokens for count in self.ledger.counts.values())
        return {
            "tokens": tokens,
            "steps": self.state.step,
            "loss_first": losses[0] if losses else None,
            "loss_last": losses[-1] if losses else None,
            "bits_per_byte": {"before": self.state.before, "after": after},
            "tokens_per_second": round(tokens / self.state.seconds, 1),
            "skipped_steps": self.state.skipped + self.state.withheld,
            "resumed_from": self.resumed_from,
        }


def _any_rank(engine: Engine, flag: bool) -> bool:
    """Whether the flag is set on some rank: ranks must stop after the same step."""
    if engine.world_size == 1:
        return flag
    seen = torch.tensor(int(flag), device=engine.device)
    dist.all_reduce(seen, dist.ReduceOp.MAX)
    return bool(seen)
