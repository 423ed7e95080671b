"""Counting the words of a corpus: ours against Hugging Face ``tokenizers``, time and memory.

Text is a corpus artifact's, or that of the installed packages (source code and documentation). Both read the
same documents files. ``tokenizers`` has no counting of its own, so it trains a vocabulary of the 256 bytes:
it cuts, counts, and finds that there is nothing to merge. Each run is a process of its own; rounds are
interleaved and medians compared. Memory is the peak resident size of the process, and for ours that of the
largest other process times the workers besides (little text takes one process).

    python -m benchmarks.counting [--corpus ARTIFACT] [--megabytes 100] [--rounds 3] [--workers 2]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # either side imports only what it runs
    from tokenizers import Tokenizer

SUFFIXES = (".py", ".pyi", ".h", ".js", ".md", ".rst", ".txt")
FILES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="folder of a corpus artifact")
    parser.add_argument("--megabytes", type=float, default=100, help="text of installed packages, at most")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes of ours, threads of theirs")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(RUNS[given.run](given.corpus, given.workers)))
        return
    with tempfile.TemporaryDirectory(prefix="stemma-counting-") as folder:
        corpus = given.corpus or write(Path(folder), given.megabytes * 1e6)
        compare(corpus, given.rounds, given.workers)


def compare(corpus: Path, rounds: int, workers: int) -> None:
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for number in range(rounds + 1):
        for name in RUNS:
            command = [sys.executable, "-m", "benchmarks.counting", "--run", name, "--corpus", str(corpus)]
            found = subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.PIPE)
            if number:  # the first round compiles and fills the page cache
                figures[name].append(json.loads(found.stdout))
    ours, theirs = (median(figures[name]) for name in RUNS)
    size = ours["bytes"] / 1e6
    print(f"{size:.1f} MB, {ours['words']:,.0f} distinct words, {workers} workers, {rounds} rounds")
    print(f"{'':>12} {'seconds':>9} {'MB/s':>7} {'peak MB':>9}")
    for name, found in (("ours", ours), ("tokenizers", theirs)):
        print(f"{name:>12} {found['seconds']:>9.2f} {size / found['seconds']:>7.1f} {found['peak_mb']:>9.0f}")
    faster, memory = theirs["seconds"] / ours["seconds"], ours["peak_mb"] / theirs["peak_mb"]
    print(f"ours takes {1 / faster:.2f} of the time (x{faster:.1f}), {memory:.2f} of the memory")


def median(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(found[name] for found in figures) for name in figures[0]}


def count_ours(corpus: Path, workers: int) -> dict[str, float]:
    from tokenizer.config import TokenizerConfig
    from tokenizer.learning.counting import count_parts
    from tokenizer.learning.sample import survey
    from tokenizer.learning.wordfiles import sums, text_bytes

    with tempfile.TemporaryDirectory(prefix="stemma-counting-") as folder:
        began = time.perf_counter()
        parts = survey([corpus], TokenizerConfig(source_bytes=1 << 50))
        files = count_parts([corpus], parts, Path(folder), workers=workers)
        seconds = time.perf_counter() - began
        peak = peak_mb(resource.RUSAGE_SELF) + workers * peak_mb(resource.RUSAGE_CHILDREN)
        words = sum(len(part) for part in sums(list(files.values())))
        size = sum(map(text_bytes, files.values()))
    return {"seconds": seconds, "peak_mb": peak, "words": words, "bytes": size}


def count_theirs(corpus: Path, workers: int) -> dict[str, float]:
    _, seconds = train_theirs(corpus, workers, 256)
    return {"seconds": seconds, "peak_mb": peak_mb(resource.RUSAGE_SELF)}


def train_theirs(corpus: Path, workers: int, entries: int) -> tuple["Tokenizer", float]:
    """What ``tokenizers`` learns of a corpus as we read and cut it, and the seconds it takes."""
    os.environ.update(RAYON_NUM_THREADS=str(workers), TOKENIZERS_PARALLELISM="true")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from tokenizer.learning.sample import read_documents
    from tokenizer.splitting.cascade import pre_tokenizer

    def texts() -> Iterator[list[str]]:
        batch: list[str] = []
        for document in read_documents([corpus], "train"):
            batch += document.pieces()
            if len(batch) >= 256:
                yield batch
                batch = []
        yield batch

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=entries, initial_alphabet=alphabet, show_progress=False)
    began = time.perf_counter()
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer, time.perf_counter() - began


RUNS = {"ours": count_ours, "tokenizers": count_theirs}


def peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1000


def write(folder: Path, size: float) -> Path:
    """Documents files of the installed packages' text, as a corpus has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: list[dict[str, str]] = []
    taken = 0
    for root in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]):
        for path in sorted(path for suffix in SUFFIXES for path in Path(root).rglob(f"*{suffix}")):
            if taken >= size or not path.is_file():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            taken += len(text.encode())
            facts = {"source": "installed", "domain": "code", "language": "en", "split": "train"}
            rows.append({"id": f"{len(rows):020x}", "text": text, **facts})
    target = folder / "documents" / "installed"
    target.mkdir(parents=True)
    for number in range(FILES):
        table = pa.Table.from_pylist(rows[number::FILES])
        pq.write_table(table, target / f"{number:05d}.parquet", row_group_size=500, compression="zstd")
    return folder


if __name__ == "__main__":
    main()
