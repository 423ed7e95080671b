"""Training samples as text with their pedigree: a random few of a stage, or all rows of one step."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.curriculum.plan import Location, Plan
from data_pipeline.inspection.lookup import decoder, describe_documents, load_plan, shard_of
from data_pipeline.tokens.shards import TokenShard
from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError
from stemma.core.files import read_jsonl


@dataclass(frozen=True)
class Piece:
    """A stretch of one document in a sample.

    Attributes:
        document: the sidecar's row: id, origin, tokens, cluster, decisions.
        first, last: which of the document's tokens, counted from 0.
        text: decoded; empty where only the pedigree was asked for.
    """

    document: dict[str, Any]
    first: int
    last: int
    text: str = ""

    @property
    def tokens(self) -> int:
        """Tokens of the stretch."""
        return self.last - self.first + 1


@dataclass(frozen=True)
class SampleView:
    """One sample of a stage.

    Attributes:
        stage, sample: which one, counted from 0.
        step, row: where it is trained.
        phase: the phase's name.
        source, domain, epoch: what it reads, and how often that had been read before.
        start_token: in the source's shard.
        sequence_length: predicted tokens.
        pieces: the documents in it, in order.
    """

    stage: str
    sample: int
    step: int
    row: int
    phase: str
    source: str
    domain: str
    epoch: int
    start_token: int
    sequence_length: int
    pieces: list[Piece]


@dataclass(frozen=True)
class StepView:
    """One training step.

    Attributes:
        stage, step: which one.
        rows: its samples.
        receipt: what the step left: loss, gradient norm, learning rate, hash of the batch; None before it is
            trained.
        losses: ``loss/SOURCE`` and ``loss/DOMAIN`` of the step's metrics, nats per token.
    """

    stage: str
    step: int
    rows: list[SampleView]
    receipt: dict[str, Any] | None = None
    losses: dict[str, float] = field(default_factory=dict)


def draw_samples(
    artifacts: Mapping[str, Artifact], stage: str, count: int, source: str = "", seed: int = 0
) -> list[SampleView]:
    """A few samples of a stage at random, in the order they are trained, decoded.

    Args:
        artifacts: the run's, by node name.
        stage: a stage with a plan.
        count: how many; all there are, if there are fewer.
        source: only of this source.
        seed: another one gives other samples.

    Raises:
        StemmaError: there is no such stage, or it does not read the source; lists those it does.
    """
    plan = load_plan(artifacts, stage)
    if not source:
        population: Sequence[int] = range(plan.total_samples)
        chosen = random.Random(seed).sample(population, min(count, plan.total_samples))
    else:
        chosen = _of_source(plan, stage, source, count, random.Random(seed))
    return view_samples(artifacts, stage, plan, sorted(chosen), decoder(artifacts))


def _of_source(plan: Plan, stage: str, source: str, count: int, rng: random.Random) -> list[int]:
    """Sample numbers of one source, by the inverse of the layout: nothing is scanned."""
    total = sum(phase.counts.get(source, 0) for phase in plan.phases)
    if not total:
        read = sorted({name for phase in plan.phases for name in phase.counts})
        raise StemmaError(f"stage {stage} reads nothing of {source!r}; it reads: {', '.join(read)}")
    found = []
    for number in rng.sample(range(total), min(count, total)):
        for phase in plan.phases:
            if number < (here := phase.counts.get(source, 0)):
                found.append(phase.first_sample + phase.layout.position(phase.sources.index(source), number))
                break
            number -= here
    return found


def trace_step(
    artifacts: Mapping[str, Artifact], stage: str, step: int, folder: Path | None = None
) -> StepView:
    """All rows of a training step with their documents.

    Args:
        artifacts: the run's, by node name.
        stage: a stage with a plan.
        step: counted from 0, as in receipts.
        folder: where the stage's receipts and metrics are, if it has begun.

    Raises:
        StemmaError: there is no such stage or step.
    """
    plan = load_plan(artifacts, stage)
    if not 0 <= step < plan.total_steps:
        raise StemmaError(f"stage {stage} has steps 0 to {plan.total_steps - 1}, not {step}")
    batch = plan.batch(step)
    rows = view_samples(
        artifacts, stage, plan, range(batch.first_sample, batch.first_sample + batch.samples), None
    )
    if folder is None:
        return StepView(stage, step, rows)
    receipt = next((line for line in read_jsonl(folder / "receipts.jsonl") if line["step"] == step), None)
    metrics = next((line for line in read_jsonl(folder / "metrics.jsonl") if line["step"] == step), {})
    losses = {name: value for name, value in metrics.items() if name.startswith("loss/")}
    return StepView(stage, step, rows, receipt, losses)


def view_samples(
    artifacts: Mapping[str, Artifact], stage: str, plan: Plan, samples: Sequence[int], decode: Any
) -> list[SampleView]:
    """Samples with their documents; ``decode`` turns token ids into text, None leaves the text out."""
    located = [(sample, plan.locate(sample)) for sample in samples]
    shards = {
        name: shard_of(artifacts, stage, plan, name) for name in sorted({at.source for _, at in located})
    }
    parts = [stretches(shards[at.source], at.start_token, at.sequence_length) for _, at in located]
    rows = {
        name: describe_documents(
            shard,
            [part[0] for (_, at), found in zip(located, parts) if at.source == name for part in found],
        )
        for name, shard in shards.items()
    }
    views = []
    for (sample, at), found in zip(located, parts):
        shard = shards[at.source]
        pieces = []
        for number, first, last in found:
            begin = int(shard.offsets[number])
            text = decode(shard.read(begin + first, last - first + 1).tolist()) if decode else ""
            document = rows[at.source][number]
            pieces.append(Piece(document, document["start"] + first, document["start"] + last, text))
        views.append(view(stage, plan, sample, at, at.start_token, pieces))
    return views


def view(
    stage: str, plan: Plan, sample: int, at: Location, start_token: int, pieces: list[Piece]
) -> SampleView:
    """A sample with where the plan has it.

    Args:
        stage: the training stage.
        plan: its plan.
        sample: which one, counted over the stage.
        at: what ``plan.locate`` says of it.
        start_token: the token of its source at which it begins.
        pieces: its documents.
    """
    phase = plan.phases[at.phase]
    step, row = divmod(sample - phase.first_sample, phase.batch_samples)
    return SampleView(
        stage,
        sample,
        phase.first_step + step,
        row,
        phase.name,
        at.source,
        at.domain,
        at.epoch,
        start_token,
        at.sequence_length,
        pieces,
    )


def stretches(shard: TokenShard, start: int, length: int) -> list[tuple[int, int, int]]:
    """``(document, first, last)`` of every document in a window of a shard."""
    found, token, end = [], start, start + length
    while token < end:
        number = shard.document_at(token)
        begin, size = int(shard.offsets[number]), int(shard.lengths[number])
        found.append((number, token - begin, min(end, begin + size) - 1 - begin))
        token = begin + size
    return found
