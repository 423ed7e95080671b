"""The one training loop: pretraining, mid-training, SFT and RL differ in their objective only.

Everything a resumed run needs is in a checkpoint: weights and optimizer (the engine's), and ``TrainingState``
below. What was written after it (receipts, metrics) is cut off and written again, so a run that
was killed anywhere leaves the same bytes as one that was not.
"""

import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from pretrain.batch import Objective, StepBatch
from pretrain.checkpoint import list_checkpoints, prune, step_folder
from pretrain.convert import write_hf
from pretrain.engine import Engine, StepResult
from pretrain.launch import Job
from pretrain.receipts import JsonlLog, receipt
from pretrain.schedule import learning_rate
from pretrain.validation import Validator
from stemma.core.errors import DamagedError, StageFailed
from stemma.core.files import read_json, read_jsonl, sync_folder, write_json
from stemma.core.ledger import Ledger, compare
from stemma.core.progress import Progress

SKIP_LIMIT = 5
"""Steps of one stage whose loss or gradient may be NaN or infinite before the stage gives up."""


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
        skipped: steps that were not applied.
        seconds: spent in steps.
    """

    step: int = 0
    ledger: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, Any] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    seconds: float = 0.0


def train(
    job: Job, engine: Engine, objective: Objective, progress: Progress, stop: Callable[[], bool]
) -> dict[str, Any]:
    """Train a stage from its last good checkpoint to its end, and write the artifact's files.

    Called by every rank. Returns the stage's summary.

    Raises:
        Stopped: ``stop()`` became true on some rank; the last step is checkpointed.
        StageFailed: too many steps had a NaN or infinite loss or gradient.
        LedgerMismatch: what was consumed is not what was planned.
        DamagedError: no checkpoint, or the record of an earlier attempt, is usable.
    """
    return _Run(job, engine, objective, progress, stop).train()


class _Run:
    """The loop's working parts. Only rank 0 writes files; every rank keeps the same state."""

    def __init__(
        self, job: Job, engine: Engine, objective: Objective, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self.job, self.engine, self.objective, self.progress, self.stop = (
            job,
            engine,
            objective,
            progress,
            stop,
        )
        self.path = Path(job.path)
        self.checkpoints = Path(job.scratch) / "checkpoint"
        self.validator = Validator(job, engine) if job.validation else None
        self.state = TrainingState()
        self.resumed_from: int | None = None
        self._start()
        self.logs: dict[str, JsonlLog] = {}
        if engine.rank == 0:
            self.logs = {
                name: JsonlLog(self.path / f"{name}.jsonl", self.state.logs.get(name))
                for name in ("receipts", "metrics", "incidents")
            }
        domains = objective.planned(0).domains
        self.ledger = Ledger.from_json(self.state.ledger) if self.state.ledger else Ledger(domains)

    # --- beginning ---------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Load the last good checkpoint, else the stage before, else keep the fresh weights."""
        candidates = _from_first(self.engine, _candidates(self.path, self.checkpoints))
        damaged: list[str] = []
        for folder in map(Path, candidates):
            try:
                self.state = TrainingState(**self.engine.load(folder))
            except DamagedError as error:
                damaged.append(str(error))
                self.progress.say(f"a damaged checkpoint is passed over: {error}")
                if self.engine.rank == 0:
                    _set_aside(folder, self.checkpoints)
                continue
            self.resumed_from = self.state.step
            self.objective.load_state_dict(self.state.objective)
            where = step_folder(Path("checkpoint"), self.state.step)
            self.progress.say(f"continuing {self.job.stage} from step {self.state.step} ({where})")
            return
        if damaged:
            self.progress.say(f"no good checkpoint of {self.job.stage} is left; it starts from its beginning")
        if self.job.init:
            self.engine.load(Path(self.job.init), weights_only=not self.job.training.carry_optimizer)
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
        total, every = self.objective.total_steps, self.job.training.checkpoint_every
        while self.state.step < total:
            self._step(self.state.step, total)
            self.state.step += 1
            stopping = self.state.step < total and _any_rank(self.engine, self.stop())
            if stopping or self.state.step == total or self.state.step % every == 0:
                self._checkpoint()
            if stopping:
                raise Stopped(self.state.step)
        return self._finish()

    def _step(self, step: int, total: int) -> None:
        started = time.perf_counter()
        batch = self.objective.batch(step, self.engine)
        waited = time.perf_counter() - started
        lr = learning_rate(self.job.training.schedule, step, total)
        result = self.engine.train_step(batch, self.objective.loss, lr)
        for source, (samples, tokens, supervised) in batch.counts.items():
            self.ledger.record(source, samples, tokens, supervised)
        seconds = time.perf_counter() - started
        self.state.seconds += seconds
        if self.engine.rank == 0:
            line = receipt(step, batch.sha256, result.loss, result.grad_norm, lr)
            self.logs["receipts"].append(line)
            metrics = self._metrics(step, batch, result, lr, seconds, waited)
            self.logs["metrics"].append(metrics)
            shown = {key: metrics[key] for key in ("loss", "lr", "tokens_per_second")}
            self.progress.step(step + 1, total, **shown, **batch.metrics)
        self._guard(step, batch, result)

    def _metrics(
        self, step: int, batch: StepBatch, result: StepResult, lr: float, seconds: float, waited: float
    ) -> dict[str, Any]:
        """One line of ``metrics.jsonl``: figures for people; clocks are allowed here. NaN becomes null."""
        tokens = sum(tokens for _, tokens, _ in batch.counts.values())
        figures = {
            "step": step,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": lr,
            "tokens": tokens,
            "seconds": round(seconds, 4),
            "data_seconds": round(waited, 5),
            "tokens_per_second": round(tokens / seconds, 1),
            **losses(batch, result.metrics, self.ledger.domains),
            **batch.metrics,
        }
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}

    def _guard(self, step: int, batch: StepBatch, result: StepResult) -> None:
        """Record a step whose loss or gradient is not finite; the engine did not apply it."""
        finite = math.isfinite(result.loss) and math.isfinite(result.grad_norm)
        overflow = result.skipped and self.job.training.precision == "fp16" and math.isfinite(result.loss)
        if finite or overflow:  # a dynamic loss scale finds its level by overflowing now and then
            return
        self.state.skipped += 1
        incident = {"step": step, "loss": repr(result.loss), "grad_norm": repr(result.grad_norm)}
        if self.engine.rank == 0:
            self.logs["incidents"].append({**incident, "batch_sha256": batch.sha256, "batch": batch.pedigree})
            self.logs["incidents"].sync()
        self.progress.say(
            f"step {step} was not applied: loss {result.loss}, gradient norm {result.grad_norm}"
        )
        if self.state.skipped > SKIP_LIMIT:
            raise StageFailed(
                f"{self.job.stage}: loss or gradient was not finite in {self.state.skipped} steps, "
                f"the last one step {step}. Their batches are listed in {self.path / 'incidents.jsonl'}. "
                "Lower the learning rate, or look at these documents."
            )

    # --- checkpoints and the end -------------------------------------------------------------------------

    def _checkpoint(self) -> None:
        """Save everything, after checking that the plan was kept; then drop the oldest."""
        compare(self.objective.planned(self.state.step), self.ledger)
        self.state.ledger = self.ledger.to_json()
        self.state.objective = self.objective.state_dict()
        self.state.logs = {name: log.sync() for name, log in self.logs.items()}
        self.engine.save(step_folder(self.checkpoints, self.state.step), asdict(self.state))
        if self.engine.rank == 0:
            prune(self.checkpoints, self.job.training.keep_checkpoints)

    def _finish(self) -> dict[str, Any]:
        """Write what the artifact consists of. Safe to repeat: each file is a function of the checkpoint."""
        after = self.validator.measure() if self.validator else {}
        planned = self.objective.planned(self.state.step)
        compare(planned, self.ledger)
        weights = self.engine.hf_state_dict()
        summary: dict[str, Any] = {}
        if self.engine.rank == 0:
            self._write_hf(weights)
            evaluation = {"before": self.state.before, "after": after}
            if self.validator:
                evaluation["protocol"] = self.validator.protocol
            write_json(self.path / "evaluation.json", evaluation)
            ledger = {"planned": planned.to_json(), "realized": self.ledger.to_json()}
            write_json(self.path / "ledger.json", ledger)
            for log in self.logs.values():
                log.close()
            if self.logs["incidents"].bytes == 0:
                (self.path / "incidents.jsonl").unlink()
            final = step_folder(self.checkpoints, self.state.step)
            if final.exists():  # else an earlier attempt moved it and was killed before sealing
                os.rename(final, self.path / "checkpoint")
                sync_folder(self.path)
            summary = self._summary(after)
        return summary

    def _write_hf(self, weights: dict[str, torch.Tensor]) -> None:
        dtype = next(iter(weights.values())).dtype
        ids = special_ids(Path(self.job.tokenizer) / "hf")
        write_hf(self.path / "hf", weights, self.job.model, self.engine.rope_theta, dtype, **ids)

    def _summary(self, after: dict[str, float]) -> dict[str, Any]:
        receipts = list(read_jsonl(self.path / "receipts.jsonl"))
        tokens = sum(count.tokens for count in self.ledger.counts.values())
        return {
            "tokens": tokens,
            "steps": self.state.step,
            "loss_first": float.fromhex(receipts[0]["loss"]),
            "loss_last": float.fromhex(receipts[-1]["loss"]),
            "bits_per_byte": {"before": self.state.before, "after": after},
            "tokens_per_second": round(tokens / self.state.seconds, 1),
            "skipped_steps": self.state.skipped,
            "resumed_from": self.resumed_from,
        }


def losses(batch: StepBatch, means: dict[str, float], domains: dict[str, str]) -> dict[str, float]:
    """What an objective reports, ready to be read: ``loss/SOURCE`` per token of it, and ``loss/DOMAIN``.

    Args:
        batch: the step's batch.
        means: the objective's sums over all supervised tokens of the batch, as ``StepResult.metrics``
            holds them.
        domains: domain of each source.
    """
    found: dict[str, float] = {}
    by_domain: dict[str, tuple[float, int]] = {}
    for name, mean in means.items():
        source = name.removeprefix("loss/")
        if source == name:
            found[name] = mean
        elif supervised := batch.counts.get(source, (0, 0, 0))[2]:
            value = mean * batch.denominator
            found[name] = value / supervised
            total, tokens = by_domain.get(domains[source], (0.0, 0))
            by_domain[domains[source]] = total + value, tokens + supervised
    return found | {f"loss/{domain}": total / tokens for domain, (total, tokens) in by_domain.items()}


def special_ids(tokenizer: Path) -> dict[str, int]:
    """``bos_token_id`` and its like for ``config.json``, without importing transformers: it takes seconds.

    Args:
        tokenizer: the ``hf`` folder of a tokenizer artifact.
    """
    named = read_json(tokenizer / "tokenizer_config.json")
    vocabulary = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    ids = {}
    for role in ("bos_token", "eos_token"):
        token = named.get(role)
        text = token["content"] if isinstance(token, dict) else token
        if text is not None:
            ids[f"{role}_id"] = vocabulary.token_to_id(text)
    return ids


def _from_first(engine: Engine, value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if engine.world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def _any_rank(engine: Engine, flag: bool) -> bool:
    """Whether the flag is set on some rank: ranks must stop after the same step."""
    if engine.world_size == 1:
        return flag
    seen = torch.tensor(int(flag), device=engine.device)
    dist.all_reduce(seen, dist.ReduceOp.MAX)
    return bool(seen)


def _candidates(path: Path, checkpoints: Path) -> list[str]:
    """Where this stage may be continued from, best first: a finished stage's checkpoint was moved already."""
    final = [path / "checkpoint"] if (path / "checkpoint").exists() else []
    return [str(folder) for folder in [*final, *reversed(list_checkpoints(checkpoints))]]


def _set_aside(folder: Path, checkpoints: Path) -> None:
    """Keep a damaged checkpoint for inspection, out of the way of the one that will take its name."""
    aside = checkpoints / f".{folder.name}.damaged"
    checkpoints.mkdir(exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
