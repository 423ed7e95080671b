"""The pedigree of a token or a document: both directions are arithmetic.

A step and a row give a sample number, which the plan locates; a document's token range gives the samples that
read it, by the plan's inverse.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from data_pipeline.curriculum.plan import SPLIT
from data_pipeline.inspection.lookup import decoder, load_plan, need, parsed, planned_stages, shard_of
from data_pipeline.tokens.shards import Tokens, TokenShard
from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError

CONTEXT = 24  # tokens shown on either side of a traced one


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
    plan = load_plan(artifacts, stage)
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
    shard = shard_of(artifacts, stage, plan, at.source)
    place = at.start_token + pos
    number = shard.document_at(place)
    begin, end = int(shard.offsets[number]), int(shard.offsets[number] + shard.lengths[number])
    decode = decoder(artifacts)
    left, right = max(begin, place - CONTEXT), min(end, place + 1 + CONTEXT)
    token, predicts = shard.read(place, 2).tolist()
    document = parsed(shard.describe(number))
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
        document=document,
        offset=document["start"] + place - begin,
        before=decode(shard.read(left, place - left).tolist()),
        text=decode([token]),
        after=decode(shard.read(place + 1, right - place - 1).tolist()),
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
                if not (numbers := shard.pieces(identifier)):
                    continue
                begin, length = int(shard.offsets[numbers[0]]), int(shard.lengths[numbers[0]])
                text = decoder(artifacts)(shard.read(begin, min(length, 2 * CONTEXT)).tolist())
                facts = parsed(shard.describe(numbers[0]))
                found = _sightings(artifacts, name, source, shard, numbers) if split == SPLIT else []
                return DocumentTrace(identifier, source, split, facts, text, found)
    for path in sorted(need(artifacts, "corpus").path.glob("rejects/*/*.parquet")):
        for row in pq.read_table(path, filters=[("id", "==", identifier)]).to_pylist():
            text = str(row.pop("text"))[: 8 * CONTEXT]
            return DocumentTrace(identifier, row["source"], "rejected", parsed(row), text)
    raise StemmaError(f"no document {identifier!r} in this run's tokens, nor among what its corpus rejected")


def _sightings(
    artifacts: Mapping[str, Artifact], tokens: str, source: str, shard: TokenShard, numbers: list[int]
) -> list[Sighting]:
    """Every row that reads a piece of a document, in the order of training."""
    pieces = []
    for number in numbers:
        begin = int(shard.offsets[number])
        pieces.append((begin, begin + int(shard.lengths[number]), parsed(shard.describe(number))["start"]))
    found = []
    for order, stage in enumerate(planned_stages(artifacts)):
        plan = load_plan(artifacts, stage)
        if source not in plan.sources or plan.sources[source].fingerprint != artifacts[tokens].fingerprint:
            continue
        for start, stop, offset in pieces:
            for sample in plan.samples_reading(source, start, stop):
                at = plan.locate(sample)
                phase = plan.phases[at.phase]
                step, row = divmod(sample - phase.first_sample, phase.batch_samples)
                first = max(at.start_token, start) - start + offset
                last = min(at.start_token + at.sequence_length, stop - 1) - start + offset
                seen = Sighting(stage, phase.first_step + step, row, at.epoch, first, last)
                found.append((order, sample, first, seen))
    return [seen for *_, seen in sorted(found, key=lambda item: item[:3])]
