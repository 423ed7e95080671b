"""Learning a byte-level BPE vocabulary: ours against Hugging Face's trainer, time and memory.

Both read the same documents files, cut at the same places, and count words; then both merge. ``counting`` is
what the run took up to the first merge (Hugging Face's trainer is asked for the 256 bytes alone), ``merging``
the rest. Each run is a process of its own; rounds are interleaved and medians compared. Memory is the peak of
what the process and its workers hold together, pages they share counted once.

Text is a corpus artifact's, or that of the installed packages (source code and documentation). On the same
words both must learn the same entries; how many of them are the same is printed.

    python -m benchmarks.bpe_training [--corpus ARTIFACT] [--megabytes 100] [--entries 65536] [--rounds 3]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.counting import train_theirs, write

LOOK = 0.05  # seconds between two looks at the memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="folder of a corpus artifact")
    parser.add_argument("--megabytes", type=float, default=100, help="text of installed packages, at most")
    parser.add_argument("--entries", type=int, default=65_536)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="processes of ours, threads of theirs")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        RUNS[given.run](given.corpus, given.workers, given.entries, given.output)
        return
    with tempfile.TemporaryDirectory(prefix="stemma-bpe-") as folder:
        corpus = given.corpus or write(Path(folder), given.megabytes * 1e6)
        compare(corpus, Path(folder), given)


def compare(corpus: Path, folder: Path, given: argparse.Namespace) -> None:
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    measured("ours", corpus, folder / "ours.json", given)  # compiles the kernels, fills the page cache
    for _ in range(given.rounds):
        for name in RUNS:
            figures[name].append(measured(name, corpus, folder / f"{name}.json", given))
    medians = {
        name: {key: statistics.median(found[key] for found in every) for key in every[0]}
        for name, every in figures.items()
    }
    ours, theirs, counting = (medians[name] for name in RUNS)
    theirs["counting"] = counting["seconds"]
    theirs["merging"] = theirs["seconds"] - counting["seconds"]
    print(
        f"{ours['bytes'] / 1e6:.1f} MB, {ours['words']:,.0f} distinct words, {given.entries:,} entries, "
        f"{given.workers} workers, {given.rounds} rounds"
    )
    print(f"{'':>12} {'counting s':>11} {'merging s':>10} {'together s':>11} {'peak MB':>8}")
    for name, row in (("ours", ours), ("tokenizers", theirs)):
        print(
            f"{name:>12} {row['counting']:>11.2f} {row['merging']:>10.2f} {row['seconds']:>11.2f} "
            f"{row['peak_mb']:>8.0f}"
        )
    print(
        f"ours takes {ours['seconds'] / theirs['seconds']:.2f} of the time "
        f"(merging alone: {ours['merging'] / theirs['merging']:.2f}), "
        f"{ours['peak_mb'] / theirs['peak_mb']:.2f} of the memory"
    )
    learned = [json.loads((folder / f"{name}.json").read_text()) for name in ("ours", "theirs")]
    same = sum(a == b for a, b in zip(*learned, strict=True))
    print(f"{same:,} of {len(learned[0]):,} entries are the same in the same place")


def measured(name: str, corpus: Path, output: Path, given: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bpe_training", "--run", name, "--corpus", str(corpus)]
    command += ["--workers", str(given.workers), "--entries", str(given.entries), "--output", str(output)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        peak = 0.0
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(LOOK):
                peak = max(peak, held(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        printed, _ = process.communicate()
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{name} failed")
    return {**json.loads(printed), "peak_mb": peak / 1e6}


def held(pid: int) -> float:
    """Bytes a process and its children hold, a shared page divided among those that share it; 0 once gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    shares = [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")]
    return sum(shares) + sum(held(int(child)) for child in children)


def learn_ours(corpus: Path, workers: int, entries: int, output: Path) -> None:
    from tokenizer.config import TokenizerConfig, VocabularyStage
    from tokenizer.learning.combine import combine
    from tokenizer.learning.counting import count_parts
    from tokenizer.learning.merging import extend
    from tokenizer.learning.sample import survey
    from tokenizer.learning.wordfiles import text_bytes
    from tokenizer.vocabulary import Vocabulary

    with tempfile.TemporaryDirectory(prefix="stemma-bpe-") as folder:
        began = time.perf_counter()
        parts = survey([corpus], TokenizerConfig(source_bytes=1 << 50))
        files = count_parts([corpus], parts, Path(folder), workers=workers)
        as_it_is: dict[str, float] = {}
        for part, path in files.items():
            as_it_is[part.domain] = as_it_is.get(part.domain, 0) + text_bytes(path)
        words = combine(files, VocabularyStage(name="all", weights=as_it_is))
        counted = time.perf_counter()
        vocabulary = extend(Vocabulary(), words, entries - 256, stage="all")
        merged = time.perf_counter()
    output.write_text(json.dumps([text.hex() for text in vocabulary.texts]))
    print(
        json.dumps(
            {
                "counting": counted - began,
                "merging": merged - counted,
                "seconds": merged - began,
                "words": len(words),
                "bytes": sum(as_it_is.values()),
            }
        )
    )


def learn_theirs(corpus: Path, workers: int, entries: int, output: Path) -> None:
    tokenizer, seconds = train_theirs(corpus, workers, entries)
    from tokenizers.pre_tokenizers import ByteLevel

    from tokenizer.vocabulary import byte_order

    numbers = tokenizer.get_vocab(with_added_tokens=False)
    by_character = dict(zip(sorted(ByteLevel.alphabet()), byte_order(), strict=True))
    ordered = sorted(numbers, key=lambda entry: numbers[entry])
    output.write_text(json.dumps([bytes(map(by_character.__getitem__, entry)).hex() for entry in ordered]))
    print(json.dumps({"seconds": seconds}))


def count_theirs(corpus: Path, workers: int, entries: int, output: Path) -> None:
    learn_theirs(corpus, workers, 256, output)


RUNS = {"ours": learn_ours, "theirs": learn_theirs, "theirs_counting": count_theirs}

if __name__ == "__main__":
    main()
