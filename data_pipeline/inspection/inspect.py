"""Looking into a run: the planned and realized mix of its stages, and the pedigree of a token or a document.

Every function takes the run's artifacts by node name (``stemma.pipeline.open_run``) and returns plain data,
which ``render.py`` puts on a terminal. Both directions of a trace are arithmetic: a step and a row give a
sample number, which the plan locates; a document's token range gives the samples that read it, by the plan's
inverse.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from data_pipeline.curriculum.cursor import Reader
from data_pipeline.curriculum.plan import SPLIT, Plan
from data_pipeline.tokens.shards import Tokens
from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError
from stemma.core.files import read_json
from stemma.core.ledger import Count, Ledger, LedgerMismatch, compare
from tokenizer.load import load

PLAN = "plan."
CONTEXT = 24  # tokens shown on either side of a traced one


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
        phases: name, sequence length, samples and steps of each phase.
        rows: one per source, by domain and name.
        trained: its ledger exists.
        mismatch: how planned and realized counts differ; empty if they are equal or there is no ledger.
    """

    stage: str
    phases: list[dict[str, Any]]
    rows: list[MixRow]
    trained: bool
    mismatch: str = ""

    @property
    def tokens(self) -> int:
        """Planned tokens of the stage."""
        return sum(row.planned.tokens for row in self.rows)


@dataclass(frozen=True)
class TokenTrace:
    """Where one token of a training step comes from.

    Attributes:
        stage, step, row, pos: which token was asked for; steps, rows and positions count from 0.
        sample: number of the row's sample in the stage.
        phase: name of the phase.
        source, domain, epoch: what it was read from, and how often that had been read before.
        shard_token: its place in the source's shard.
        token, predicts: ids of the token and of the one the model had to predict there.
        document: the sidecar's row: id, origin, cluster, decisions, tokens, bytes.
        offset: its place in the document, in tokens.
        before, text, after: decoded text around it.
    """

    stage: str
    step: int
    row: int
    pos: int
    sample: int
    phase: str
    source: str
    domain: str
    epoch: int
    shard_token: int
    token: int
    predicts: int
    document: dict[str, Any]
    offset: int
    before: str
    text: str
    after: str


@dataclass(frozen=True)
class Sighting:
    """A row of a step that read a document's tokens ``first .. last``, counted from its beginning."""

    stage: str
    step: int
    row: int
    epoch: int
    first: int
    last: int


@dataclass(frozen=True)
class DocumentTrace:
    """What became of a document.

    Attributes:
        identifier: its id.
        source, split: where it is; the split is ``rejected`` where the corpus dropped it.
        facts: the sidecar's row, or the rejected row without its text.
        beginning: how its text begins.
        sightings: every row of every planned stage that reads it, in the order of training.
    """

    identifier: str
    source: str
    split: str
    facts: dict[str, Any]
    beginning: str
    sightings: list[Sighting] = field(default_factory=list)


def mix_tables(artifacts: Mapping[str, Artifact]) -> list[StageMix]:
    """The mix of every planned stage, in the order of training."""
    return [
        _stage_mix(stage, artifacts[PLAN + stage], artifacts.get(stage))
        for stage in planned_stages(artifacts)
    ]


def planned_stages(artifacts: Mapping[str, Artifact]) -> list[str]:
    """Stages with a plan, in the order of training: a plan comes after the one whose cursors it takes on."""

    def depth(name: str) -> int:
        before = artifacts[name].manifest["inputs"].get("previous")
        return 1 + depth(before["name"]) if before and before["name"] in artifacts else 0

    plans = [name for name in artifacts if name.startswith(PLAN)]
    return [name.removeprefix(PLAN) for name in sorted(plans, key=depth)]


def _stage_mix(stage: str, plan_artifact: Artifact, trained: Artifact | None) -> StageMix:
    plan = Plan.load(plan_artifact.path)
    planned = plan.counts(plan.total_samples)
    realized = Ledger.from_json(read_json(trained.file("ledger.json"))["realized"]) if trained else None
    cursors = plan.cursors()
    rows = []
    for name in sorted(plan.sources, key=lambda name: (plan.sources[name].domain, name)):
        if name not in planned.counts and name not in cursors:
            continue
        source = plan.sources[name]
        epochs = 0.0
        if name in cursors:
            unread = Reader(source.universe, cursors[name], 1, 1).unread
            epochs = cursors[name].epoch + 1 - unread / source.universe.positions
        rows.append(
            MixRow(
                name,
                source.domain,
                planned.counts.get(name, Count()),
                realized.counts.get(name, Count()) if realized else None,
                epochs,
                sum(phase.waste.get(name, 0) for phase in plan.phases),
            )
        )
    mismatch = ""
    if realized:
        try:
            compare(planned, realized)
        except LedgerMismatch as error:
            mismatch = str(error)
    phases = [
        {
            "name": phase.name,
            "sequence_length": phase.sequence_length,
            "samples": phase.samples,
            "steps": phase.steps,
            "tokens": phase.tokens,
        }
        for phase in plan.phases
    ]
    return StageMix(stage, phases, rows, realized is not None, mismatch)


def trace_token(artifacts: Mapping[str, Artifact], stage: str, step: int, row: int, pos: int) -> TokenTrace:
    """From a token of a training step to its document.

    Args:
        artifacts: the run's, by node name.
        stage: a stage with a plan.
        step: counted from 0, as in receipts.
        row: of the global batch, from 0.
        pos: in the row, from 0.

    Raises:
        StemmaError: there is no such stage, step, row or position; says how many there are.
    """
    plan = _plan(artifacts, stage)
    if not 0 <= step < plan.total_steps:
        raise StemmaError(f"stage {stage} has steps 0 to {plan.total_steps - 1}, not {step}")
    batch = plan.batch(step)
    if not 0 <= row < batch.samples:
        raise StemmaError(f"step {step} of {stage} has rows 0 to {batch.samples - 1}, not {row}")
    at = plan.locate(batch.first_sample + row)
    if not 0 <= pos < at.sequence_length:
        raise StemmaError(
            f"rows of step {step} of {stage} have positions 0 to {at.sequence_length - 1}, not {pos}"
        )
    shard = _tokens(artifacts, stage, plan, at.source).shard(at.source)
    place = at.start_token + pos
    number = shard.document_at(place)
    begin, end = int(shard.offsets[number]), int(shard.offsets[number] + shard.lengths[number])
    tokenizer = load(_need(artifacts, "tokenizer").path / "hf")
    left, right = max(begin, place - CONTEXT), min(end, place + 1 + CONTEXT)
    token, predicts = shard.read(place, 2).tolist()
    return TokenTrace(
        stage=stage,
        step=step,
        row=row,
        pos=pos,
        sample=batch.first_sample + row,
        phase=plan.phases[at.phase].name,
        source=at.source,
        domain=at.domain,
        epoch=at.epoch,
        shard_token=place,
        token=token,
        predicts=predicts,
        document=_parsed(shard.describe(number)),
        offset=place - begin,
        before=_decode(tokenizer, shard.read(left, place - left).tolist()),
        text=_decode(tokenizer, [token]),
        after=_decode(tokenizer, shard.read(place + 1, right - place - 1).tolist()),
    )


def trace_document(artifacts: Mapping[str, Artifact], identifier: str) -> DocumentTrace:
    """From a document to every step and row that reads it, over all planned stages.

    Raises:
        StemmaError: no tokens artifact of the run holds it, and the corpus did not reject it either.
    """
    for name, artifact in artifacts.items():
        if artifact.kind != "tokens":
            continue
        tokens = Tokens(artifact.path)
        for source, entry in sorted(tokens.index["sources"].items()):
            for split in entry["splits"]:
                shard = tokens.shard(source, split)
                if (number := shard.find(identifier)) is None:
                    continue
                begin, length = int(shard.offsets[number]), int(shard.lengths[number])
                tokenizer = load(_need(artifacts, "tokenizer").path / "hf")
                text = _decode(tokenizer, shard.read(begin, min(length, 2 * CONTEXT)).tolist())
                facts = _parsed(shard.describe(number))
                found = _sightings(artifacts, name, source, begin, begin + length) if split == SPLIT else []
                return DocumentTrace(identifier, source, split, facts, text, found)
    for path in sorted(_need(artifacts, "corpus").path.glob("rejects/*/*.parquet")):
        for row in pq.read_table(path, filters=[("id", "==", identifier)]).to_pylist():
            text = str(row.pop("text"))[: 8 * CONTEXT]
            return DocumentTrace(identifier, row["source"], "rejected", _parsed(row), text)
    raise StemmaError(f"no document {identifier!r} in this run's tokens, nor among what its corpus rejected")


def _sightings(
    artifacts: Mapping[str, Artifact], tokens: str, source: str, start: int, stop: int
) -> list[Sighting]:
    found = []
    for stage in planned_stages(artifacts):
        plan = _plan(artifacts, stage)
        if source not in plan.sources or plan.sources[source].fingerprint != artifacts[tokens].fingerprint:
            continue
        for sample in plan.samples_reading(source, start, stop):
            at = plan.locate(sample)
            phase = plan.phases[at.phase]
            step, row = divmod(sample - phase.first_sample, phase.batch_samples)
            first = max(at.start_token, start) - start
            last = min(at.start_token + at.sequence_length, stop - 1) - start
            found.append(Sighting(stage, phase.first_step + step, row, at.epoch, first, last))
    return found


def _decode(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))


def _need(artifacts: Mapping[str, Artifact], name: str) -> Artifact:
    if name not in artifacts:
        raise StemmaError(f"this run has no {name} yet; it has: {', '.join(artifacts) or 'nothing'}")
    return artifacts[name]


def _plan(artifacts: Mapping[str, Artifact], stage: str) -> Plan:
    if PLAN + stage not in artifacts:
        known = ", ".join(planned_stages(artifacts)) or "none yet"
        raise StemmaError(f"this run has no plan of a stage {stage!r}; planned stages: {known}")
    return Plan.load(artifacts[PLAN + stage].path)


def _tokens(artifacts: Mapping[str, Artifact], stage: str, plan: Plan, source: str) -> Tokens:
    planned = plan.sources[source]
    name = artifacts[PLAN + stage].manifest["inputs"][planned.role]["name"]
    if name not in artifacts or artifacts[name].fingerprint != planned.fingerprint:
        raise StemmaError(
            f"the plan of {stage} was made from {name}-{planned.fingerprint[:12]}, which is not this "
            f"run's {name} any more; run it again"
        )
    return Tokens(artifacts[name].path)


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    """A sidecar's row with its decisions as JSON values."""
    return {**row, "decisions": json.loads(row["decisions"]) if row.get("decisions") else {}}
