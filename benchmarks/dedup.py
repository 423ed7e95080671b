"""Our deduplication against datatrove's MinHash: recall and precision by exact Jaccard, speed, increments.

The sample is real text, source code and documentation of the installed Python packages, with copies planted
in it of which 1, 2, 5 or 10% of the words are changed. Truth is the exact Jaccard similarity of all pairs,
over word 5-grams that neither side uses (lower case, `\\w+`, as strings). With the same bands, the same
process pool, and the same pass over the documents afterwards,

    recall      share of pairs at or above a similarity of which at least one was dropped
    precision   share of dropped documents that have another document at or above it

    python -m benchmarks.dedup [--megabytes 8] [--rounds 3] [--workers 2]
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.config import DedupConfig

SHARDS = 8
LONGEST = 3_000  # characters of a document; longer files are cut at line ends
SHORTEST = 200
PLANTED = (0.01, 0.02, 0.05, 0.1)  # shares of changed words
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
N = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=8, help="real text, before the planted copies")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are printed")
    parser.add_argument("--workers", type=int, default=2, help="processes, for both sides")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from data_pipeline.executor.local import worker_pool

    with tempfile.TemporaryDirectory(prefix="stemma-dedup-") as name:
        folder = Path(name)
        texts = sample(given.megabytes * 1e6)
        size = sum(len(text.encode()) for text in texts) / 1e6
        write(folder / "all", texts, SHARDS)
        write(folder / "old", texts[: len(texts) * 9 // 10], SHARDS)
        write(folder / "new", texts[len(texts) * 9 // 10 :], 1)
        print(f"{len(texts):,} documents, {size:.1f} MB, {given.workers} workers")
        pairs = similar_pairs(texts, min(LEVELS))
        with worker_pool(given.workers, folder / "logs") as pool:
            runs: dict[str, Callable[[Path], set[str]]] = {
                "ours": lambda at: ours(pool, folder / "all", at, DedupConfig()),
                "stock": lambda at: stock(pool, folder / "all", at, DedupConfig()),
                "ours, 90%": lambda at: ours(pool, folder / "old", at, DedupConfig()),
                "ours, then 10%": lambda at: ours(
                    pool, folder / "new", at, DedupConfig(), folder / "last" / "ours, 90%" / "index"
                ),
            }
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            dropped: dict[str, set[str]] = {}
            for number in range(given.rounds + 1):
                for run, work in runs.items():
                    shutil.rmtree(folder / "last" / run, ignore_errors=True)
                    started = time.perf_counter()
                    dropped[run] = work(folder / "last" / run)
                    if number:  # the first round loads code into the workers
                        seconds[run].append(time.perf_counter() - started)
            verified = ours(pool, folder / "all", folder / "verified", DedupConfig(threshold=0.75))
        index = sum(path.stat().st_size for path in (folder / "last" / "ours" / "index").rglob("*.*"))
    median = {run: statistics.median(values) for run, values in seconds.items()}
    results = {"stock": dropped["stock"], "ours": dropped["ours"], "ours, threshold 0.75": verified}
    print("\nrecall by exact Jaccard similarity\n" + head())
    for result, gone in results.items():
        print(f"{result:<22}" + "".join(f"{recall(pairs, gone, level):8.3f}" for level in LEVELS))
    print(f"{'pairs':<22}" + "".join(f"{sum(v >= level for v in pairs.values()):8,}" for level in LEVELS))
    print("\nprecision by exact Jaccard similarity\n" + head(" dropped"))
    for result, gone in results.items():
        print(
            f"{result:<22}"
            + "".join(f"{precision(pairs, gone, level):8.3f}" for level in LEVELS)
            + f"{len(gone):8,}"
        )
    print("\nspeed")
    for run in ("stock", "ours"):
        print(f"{run:<22}{size / median[run]:8.1f} MB/s")
    ratios = [a / b for a, b in zip(seconds["stock"], seconds["ours"])]
    print(f"{'ratio':<22}{statistics.median(ratios):8.1f}")
    print("\nincrements: 90% first, then 10% against the kept index")
    print(f"{'time of the 10%':<22}{median['ours, then 10%'] / median['ours']:8.2f} of doing all again")
    one_by_one = dropped["ours, 90%"] | dropped["ours, then 10%"]
    print(
        f"{'dropped':<22}{len(one_by_one):8,}, all at once {len(dropped['ours']):,}; "
        f"index {index / len(texts):.0f} bytes per document"
    )
    started = time.perf_counter()
    rate = hashing(texts, size)
    print(f"\nsignatures alone      {rate:8.1f} MB/s on one core ({time.perf_counter() - started:.1f} s)")


def head(last: str = "") -> str:
    return (
        f"{'':<22}" + "".join(f"{f'>={level}':>8}" for level in LEVELS) + f"{last:>8}" * (last == "dropped")
    )


def sample(size: float) -> list[str]:
    """About ``size`` bytes of real documents, and changed copies of a fifth of them, shuffled."""
    root = Path(sysconfig.get_paths()["purelib"])
    files = [
        path
        for pattern in ("*.py", "*.md", "*.rst", "*.txt", "*.pyi")
        for path in root.rglob(pattern)
        if path.is_file()
    ]
    files.sort(key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
    texts: list[str] = []
    total = 0
    for path in files:
        for text in cut(path.read_text(encoding="utf-8", errors="replace")):
            texts.append(text)
            total += len(text.encode())
        if total >= size:
            break
    rng = random.Random(0)
    for number, text in enumerate(rng.sample(texts, len(texts) // 5)):
        texts.append(edited(text, PLANTED[number % len(PLANTED)], rng))
    rng.shuffle(texts)
    return texts


def cut(text: str) -> list[str]:
    """Parts of whole lines; what is shorter than a document is left out."""
    parts, part = [], ""
    for line in text.splitlines(keepends=True):
        if part and len(part) + len(line) > LONGEST:
            parts.append(part)
            part = ""
        part += line[:LONGEST]
    return [
        part for part in [*parts, part] if len(part) >= SHORTEST and len(re.findall(r"\w+", part)) >= 2 * N
    ]


def edited(text: str, share: float, rng: random.Random) -> str:
    """A text with some of its words replaced."""
    pieces = re.split(r"(\w+)", text)
    words = range(1, len(pieces), 2)
    for place in rng.sample(words, max(1, round(share * len(words)))):
        pieces[place] = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=7))
    return "".join(pieces)


def write(folder: Path, texts: list[str], shards: int) -> None:
    """Documents as the corpus stage hands them to deduplication. Ids are the texts' hashes."""
    from data_pipeline.cleaning.records import DRAFTS

    folder.mkdir()
    for shard in range(shards):
        rows = [
            dict.fromkeys(DRAFTS.names, "") | {"id": name_of(text), "text": text, "source": "packages"}
            for text in texts[shard::shards]
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=DRAFTS), folder / f"{shard:05d}.parquet")


def name_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def similar_pairs(texts: list[str], least: float) -> dict[tuple[str, str], float]:
    """All pairs of different texts with at least this exact Jaccard similarity, by names."""
    texts = sorted(set(texts))
    grams: dict[str, list[int]] = {}
    sizes = np.zeros(len(texts), np.int64)
    for number, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        own = {" ".join(words[at : at + N]) for at in range(len(words) - N + 1)}
        sizes[number] = len(own)
        for gram in own:
            grams.setdefault(gram, []).append(number)
    common = np.zeros((len(texts), len(texts)), np.int32)
    for documents in grams.values():
        if len(documents) > 1:
            rows = np.array(documents)
            common[rows[:, None], rows] += 1
    pairs = {}
    for row in range(len(texts)):
        union = sizes[row] + sizes[row + 1 :] - common[row, row + 1 :]
        values = common[row, row + 1 :] / np.maximum(1, union)
        for other in np.flatnonzero(values >= least):
            pairs[name_of(texts[row]), name_of(texts[row + 1 + other])] = float(values[other])
    return pairs


def recall(pairs: dict[tuple[str, str], float], gone: set[str], level: float) -> float:
    true = [pair for pair, value in pairs.items() if value >= level]
    return sum(one in gone or other in gone for one, other in true) / max(1, len(true))


def precision(pairs: dict[tuple[str, str], float], gone: set[str], level: float) -> float:
    true = {name for pair, value in pairs.items() if value >= level for name in pair}
    return len(gone & true) / max(1, len(gone))


def ours(pool: Any, clean: Path, at: Path, config: DedupConfig, base: Path | None = None) -> set[str]:
    """Run our deduplication; return ids of near-duplicates."""
    from data_pipeline.dedup.deduplicate import NEAR, deduplicate

    fresh(pool, at)
    deduplicate(
        pool, config, clean, at / "kept", at / "scratch", at / "rejects", at / "tallies", at / "index", base
    )
    return ids(at / "rejects" / NEAR)


def stock(pool: Any, clean: Path, at: Path, config: DedupConfig) -> set[str]:
    """Run datatrove's four MinHash steps with the same bands; return ids of near-duplicates."""
    from datatrove.pipeline.dedup import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.utils.hashing import HashConfig

    from data_pipeline.cleaning.records import DRAFTS, REJECTS, Tally, to_draft, to_row, writer

    fresh(pool, at)
    tasks = len(list(clean.glob("*.parquet")))
    minhash = MinhashConfig(
        n_grams=config.n_grams,
        num_buckets=config.num_buckets,
        hashes_per_bucket=config.hashes_per_bucket,
        hash_config=HashConfig(precision=64),
    )
    found, pairs, clusters = (str(at / name) for name in ("signatures", "pairs", "clusters"))
    rejects = writer(
        at / "rejects", "${rank}.parquet", lambda self, document: to_row(document, REJECTS), REJECTS
    )
    pool.run("signatures", [ParquetReader(str(clean)), MinhashDedupSignature(found, minhash)], tasks)
    pool.run("buckets", [MinhashDedupBuckets(found, pairs, config=minhash)], config.num_buckets)
    pool.run("clusters", [MinhashDedupCluster(pairs, clusters, minhash)], 1)
    pipeline = [
        ParquetReader(str(clean)),
        MinhashDedupFilter(clusters, rejects),
        Tally(at / "tallies", "near"),
        writer(at / "kept", "${rank}.parquet", to_draft, DRAFTS),
    ]
    pool.run("filter", pipeline, tasks)
    return ids(at / "rejects")


def fresh(pool: Any, at: Path) -> None:
    """Logs of their own, or completed ranks of the last run would be left out."""
    pool.logs = at / "logs"


def ids(folder: Path) -> set[str]:
    return {name for path in folder.glob("*.parquet") for name in pq.read_table(path)["id"].to_pylist()}


def hashing(texts: list[str], size: float) -> float:
    from data_pipeline.dedup.minhash import signatures

    started = time.perf_counter()
    signatures(texts, DedupConfig())
    return size / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
