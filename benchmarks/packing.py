"""How many documents training windows cut, concatenated and packed by best fit, and how long packing takes.

The lengths are those of a run's own training text; each source is packed by itself, as in its shards.

    python -m benchmarks.packing runs/artifacts/tokens-... [--windows 256 512 1024 4096]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from data_pipeline.tokens.packing import Cut, Pieces, best_fit, concatenate, count_cut
from data_pipeline.tokens.shards import Tokens

MANY = 1_000_000  # documents of the speed measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokens", type=Path, help="folder of a tokens artifact")
    parser.add_argument("--windows", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    arguments = parser.parse_args()
    sources = {name: lengths_of(arguments.tokens, name) for name in Tokens(arguments.tokens).sources("train")}
    every = np.concatenate(list(sources.values()))
    print(f"{len(every):,} documents, {every.sum():,} tokens, median length {np.median(every):.0f}")
    print("cut: of all documents, and tokens in cut documents of all tokens")
    columns = ("window", "longer than it", "docs concat", "docs packed", "tokens concat", "tokens packed")
    print(*(f"{name:>14}" for name in (*columns, "pieces/doc")))
    for window in arguments.windows:
        plain, packed, pieces = Cut(0, 0), Cut(0, 0), 0
        for lengths in sources.values():
            plain = add(plain, concatenate(lengths), lengths, window)
            order = best_fit(lengths, window)
            packed = add(packed, order, lengths, window)
            pieces += len(order.tokens)
        shares = [
            (every > window).mean(),
            plain.documents / len(every),
            packed.documents / len(every),
            plain.tokens / every.sum(),
            packed.tokens / every.sum(),
        ]
        print(f"{window:>14}", *(f"{share:>14.2%}" for share in shares), f"{pieces / len(every):>14.3f}")
    many = np.random.default_rng(0).choice(every, MANY)
    for window in (arguments.windows[-1], 8 * arguments.windows[-1]):
        began = time.perf_counter()
        best_fit(many, window)
        print(
            f"packing {MANY:,} such documents into windows of {window}: {time.perf_counter() - began:.2f} s"
        )


def lengths_of(folder: Path, source: str) -> np.ndarray:
    """Tokens of each document of a source, however its shard was packed."""
    shard = Tokens(folder).shard(source)
    if "start" not in pq.ParquetFile(shard.sidecar).schema_arrow.names:
        return shard.lengths.astype(np.int64)
    table = pq.read_table(shard.sidecar, columns=["start", "document_tokens"])
    return table.column("document_tokens").to_numpy()[table.column("start").to_numpy() == 0]


def add(so_far: Cut, pieces: Pieces, lengths: np.ndarray, window: int) -> Cut:
    cut = count_cut(pieces, lengths, window)
    return Cut(so_far.documents + cut.documents, so_far.tokens + cut.tokens)


if __name__ == "__main__":
    main()
