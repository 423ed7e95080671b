"""Our scanner against the regular expressions it stands for: same text, equal cuts, one core.

The cascade in Hugging Face ``tokenizers`` (its time includes handing the pieces to Python; it offers nothing
barer), and the single pattern in Python's ``regex``, which only counts matches. Texts are those of
``benchmarks.encoding``. Rounds are interleaved; seconds are of this thread's processor time, medians.

    python -m benchmarks.splitting [--corpus ARTIFACT] [--file TEXT ...] [--megabytes 2] [--rounds 5]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import regex
from tokenizers import Regex
from tokenizers.pre_tokenizers import Sequence, Split

from benchmarks.encoding import corpus, installed
from tokenizer.splitting.cascade import CJK_RUNS, PATTERN, WORDS
from tokenizer.splitting.scan import cut, split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="folder of a corpus artifact")
    parser.add_argument("--file", type=Path, action="append", help="a UTF-8 text instead")
    parser.add_argument("--megabytes", type=float, default=2, help="text of each kind, at most")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    size = int(given.megabytes * 1e6)
    if given.file:
        kinds = {path.name: [path.read_bytes()[:size].decode(errors="ignore")] for path in given.file}
    else:
        kinds = corpus(given.corpus, size) if given.corpus else installed(size)
    print(f"MB/s of a core, medians of {given.rounds} rounds; in brackets ours by it")
    print(f"{'':>24} {'MB':>6} {'bytes/piece':>12} {'ours':>8} {'tokenizers':>18} {'regex':>18}")
    for kind, texts in kinds.items():
        measure(kind, texts, given.rounds)


def measure(kind: str, texts: list[str], rounds: int) -> None:
    cascade = Sequence([Split(Regex(CJK_RUNS), "isolated"), Split(Regex(WORDS), "isolated")])
    single = regex.compile(PATTERN)
    for text in texts:
        if [piece.encode() for piece, _ in cascade.pre_tokenize_str(text)] != cut(text):
            sys.exit(f"{kind}: other cuts in {text[:60]!r}")
    data = [np.frombuffer(text.encode(), np.uint8) for text in texts]
    splitters: dict[str, Callable[[], int]] = {
        "ours": lambda: sum(len(split(part)) for part in data),
        "tokenizers": lambda: sum(len(cascade.pre_tokenize_str(text)) for text in texts),
        "regex": lambda: sum(1 for text in texts for _ in single.finditer(text)),
    }
    size, pieces = sum(map(len, data)), splitters["ours"]()
    seconds: dict[str, list[float]] = {name: [] for name in splitters}
    for _ in range(rounds):
        for name, splitter in splitters.items():
            began = time.thread_time()
            splitter()
            seconds[name].append(time.thread_time() - began)
    speed = {name: size / 1e6 / statistics.median(values) for name, values in seconds.items()}
    others = (f"{speed[name]:9.1f} ({speed['ours'] / speed[name]:5.0f}x)" for name in list(splitters)[1:])
    print(
        f"{kind:>24} {size / 1e6:6.1f} {size / pieces:12.2f} {speed['ours']:8.1f}",
        *others,
        sep=" ",
        flush=True,
    )


if __name__ == "__main__":
    main()
