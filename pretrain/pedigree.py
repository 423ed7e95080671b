"""Which documents a batch read: resolved when somebody asks, which is when a step went wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.tokens.shards import TokenShard
from pretrain.batch import Sample


def documents_of(samples: Sequence[Sample], shards: Mapping[str, TokenShard]) -> list[list[dict[str, Any]]]:
    """The documents of each sample of a plan, in the order in which they are read.

    Args:
        samples: whose pedigree says where in its source's shard each begins.
        shards: by source; their sidecars name the documents.

    Returns:
        For each sample a list of ``id`` (as in the corpus), ``origin``, and ``first`` and ``last``: which of
        the document's tokens, counted from 0.

    Raises:
        DamagedError: a shard's sidecar is missing.
    """
    from data_pipeline.inspection.lookup import describe_documents
    from data_pipeline.inspection.samples import stretches  # both are slow to import and seldom needed

    found = [
        stretches(shards[sample.source], sample.pedigree["start_token"], len(sample.tokens))
        for sample in samples
    ]
    known = {}
    for source in {sample.source for sample in samples}:
        pieces = [piece for sample, read in zip(samples, found) if sample.source == source for piece in read]
        known[source] = describe_documents(shards[source], [number for number, _, _ in pieces])
    return [
        [_entry(known[sample.source][number], first, last) for number, first, last in read]
        for sample, read in zip(samples, found)
    ]


def _entry(row: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
    begin = row["start"]  # where the piece begins in its document
    return {"id": row["id"], "origin": row["origin"], "first": begin + first, "last": begin + last}
