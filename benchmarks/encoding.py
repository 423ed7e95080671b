"""Our encoder against Hugging Face ``tokenizers`` and tiktoken: same vocabulary, same text, equal ids.

Texts are those of the installed packages by kind (source code, documentation), or a corpus artifact's by
domain. The vocabulary is an artifact's, or learned here from the texts. Rounds are interleaved and medians
are compared; each encoder gets the threads asked for. Then one call with all texts of a kind as one string,
which no encoder divides among threads.

    python -m benchmarks.encoding [--tokenizer ARTIFACT] [--corpus ARTIFACT] [--megabytes 16] [--threads 2]
"""

import argparse
import os
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ENTRIES = 32_000  # learned where no artifact is given
SUFFIXES = {"code": (".py", ".pyi", ".h", ".js"), "documentation": (".md", ".rst", ".txt")}
Encode = Callable[[Sequence[str]], Sequence[Sequence[int]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer artifact")
    parser.add_argument("--corpus", type=Path, help="folder of a corpus artifact")
    parser.add_argument("--megabytes", type=float, default=16, help="text of each kind, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    # Hugging Face's pool of threads has its size from the environment, once.
    os.environ.update(RAYON_NUM_THREADS=str(arguments.threads), TOKENIZERS_PARALLELISM="true")
    size = int(arguments.megabytes * 1e6)
    kinds = corpus(arguments.corpus, size) if arguments.corpus else installed(size)
    compare(kinds, arguments.tokenizer, arguments.rounds, arguments.threads)


def compare(kinds: dict[str, list[str]], artifact: Path | None, rounds: int, threads: int) -> None:
    import tiktoken

    from tokenizer.encoding.encoder import Encoder
    from tokenizer.export.hf import to_tokenizers
    from tokenizer.learning.hf_trainer import train_hf
    from tokenizer.load import token_bytes
    from tokenizer.splitting.cascade import PATTERN
    from tokenizer.vocabulary import VOCABULARY_FILE, Entry, Vocabulary

    if artifact:
        vocabulary = Vocabulary.load(artifact / VOCABULARY_FILE)
    else:
        learned = token_bytes(train_hf(ENTRIES, [text for texts in kinds.values() for text in texts]))
        vocabulary = Vocabulary().extended([Entry(text, "here") for text in learned[256:]])
    began = time.perf_counter()
    ours = Encoder(vocabulary, threads=threads)
    ours.encode("begin")
    print(f"{len(vocabulary):,} entries; ours was ready after {time.perf_counter() - began:.2f} s")
    theirs = to_tokenizers(vocabulary)
    ranks = {text: rank for rank, text in enumerate(vocabulary.texts)}
    open_ai = tiktoken.Encoding("same", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    encoders: dict[str, Encode] = {
        "ours": ours.encode_batch,
        "tokenizers": lambda texts: [
            encoding.ids for encoding in theirs.encode_batch_fast(texts, add_special_tokens=False)
        ],
        "tiktoken": lambda texts: open_ai.encode_ordinary_batch(list(texts), num_threads=threads),
    }
    print(f"MB/s, medians of {rounds} rounds, {threads} threads; in brackets ours by it")
    print(f"{'':>24} {'MB':>6} {'bytes/token':>12} {'ours':>8} {'tokenizers':>18} {'tiktoken':>18}")
    for kind, texts in kinds.items():
        for shape, batch in ((f"{len(texts):,} texts", texts), ("one text", ["\n".join(texts)])):
            measure(f"{kind}, {shape}", batch, encoders, rounds)


def measure(title: str, texts: list[str], encoders: dict[str, Encode], rounds: int) -> None:
    size = sum(len(text.encode()) for text in texts)
    found = {name: [list(ids) for ids in encode(texts)] for name, encode in encoders.items()}  # and warm up
    for name, ids in found.items():
        if ids != found["ours"]:
            sys.exit(f"{title}: {name} gives other ids")
    tokens = sum(map(len, found["ours"]))
    del found
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(rounds):
        for name, encode in encoders.items():
            began = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - began)
    speed = {name: size / 1e6 / statistics.median(values) for name, values in seconds.items()}
    others = (f"{speed[name]:9.1f} ({speed['ours'] / speed[name]:5.1f}x)" for name in list(encoders)[1:])
    print(f"{title:>24} {size / 1e6:6.1f} {size / tokens:12.2f} {speed['ours']:8.1f}", *others, sep=" ")


def installed(size: int) -> dict[str, list[str]]:
    """Texts of the installed packages and the standard library, ``size`` bytes of each kind."""
    folders = [Path(sysconfig.get_paths()[name]) for name in ("purelib", "stdlib")]
    paths = sorted({path for folder in folders for path in folder.rglob("*") if path.is_file()})
    kinds: dict[str, list[str]] = {}
    for kind, suffixes in SUFFIXES.items():
        files = (path for path in paths if path.suffix in suffixes)
        kinds[kind] = until(size, (path.read_text(encoding="utf-8", errors="replace") for path in files))
    return kinds


def corpus(folder: Path, size: int) -> dict[str, list[str]]:
    """Documents of a corpus artifact by domain, ``size`` bytes of each."""
    import pyarrow.parquet as pq

    kinds: dict[str, list[str]] = {}
    for path in sorted((folder / "documents").glob("*/*.parquet")):
        table = pq.read_table(path, columns=["text", "domain"])
        for text, domain in zip(table["text"].to_pylist(), table["domain"].to_pylist(), strict=True):
            kinds.setdefault(domain, []).append(text)
    return {domain: until(size, iter(texts)) for domain, texts in sorted(kinds.items())}


def until(size: int, texts: Iterator[str]) -> list[str]:
    """The first texts, as many as ``size`` bytes hold."""
    kept, held = [], 0
    for text in texts:
        held += len(text.encode())
        if held > size:
            break
        kept.append(text)
    return kept


if __name__ == "__main__":
    main()
