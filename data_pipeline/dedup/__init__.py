"""Exact and near-duplicate removal, within a run and against a kept index.

    deduplicate(pool, config, clean, kept, scratch, rejects, tallies, index, base=None)   # deduplicate.py
    dedup_steps(config) -> tuple[str, ...]      # the names of its tallies, in order, for a funnel

reads ``clean/*.parquet`` (rows of ``DRAFTS``) and writes ``kept/*.parquet``, ``rejects/<rule>/*.parquet``,
``tallies/<rule>/*.json`` and the kept index ``index/<nnnnn>/``, which a later run takes as ``base``.
`cluster` of a document is the id of its cluster's survivor, also where that is in ``base``, or "".
``index/*/clusters.parquet`` lists who was dropped for whom.

One pass, with nothing but texts: ``signatures(texts, config)`` and ``band_keys`` in minhash.py.
"""
