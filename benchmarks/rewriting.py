"""The steps that rewrite or judge texts against the stock ones: ftfy, datatrove's PII and n-gram filters.

The sample is real text of the installed Python packages: source code and documentation. Each pair reads the
same documents in one process, in interleaved rounds; medians are compared. Beside speed:

    normalise        modules whose syntax tree changes (as technical text: docstrings lose trailing spaces)
    pii              documents changed
    decontaminate    13-grams of documents planted into others: share of such documents found, and of
                     documents with nothing planted that are flagged all the same

    python -m benchmarks.rewriting [--megabytes 8] [--rounds 3]
"""

import argparse
import ast
import contextlib
import os
import random
import statistics
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ftfy
import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.utils.text import ngrams, simplify_text

from data_pipeline.cleaning.evaluation_build import build
from data_pipeline.cleaning.normalise import normalise
from data_pipeline.cleaning.pii import replace_pii
from data_pipeline.config.decontamination import DecontaminationConfig

SUFFIXES = (".py", ".md", ".rst", ".txt")
LONGEST = 20_000  # characters of a document
ITEMS = 2_000  # evaluation items, of 60 words each
PLANTED = 200  # documents into which 13 words of an item are put


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=8, help="of text")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    texts = sample(given.megabytes * 1e6)
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} documents, {size:.1f} MB, {given.rounds} rounds")
    stock_pii = PIIFormatter()
    compare("normalise", texts, size, given.rounds, lambda t: normalise(t, "technical"), ftfy.fix_text)
    damage(texts)
    compare("pii", texts, size, given.rounds, replace_pii, stock_pii.format)
    ours, stock = (
        {k for k, text in enumerate(texts) if f(text) != text}
        for f in (lambda text: replace_pii(text)[0], stock_pii.format)
    )
    print(f"  documents changed by ours {len(ours)}, stock {len(stock)}, both {len(ours & stock)}")
    decontaminate(texts, size, given.rounds)


def sample(size: float) -> list[str]:
    """Documents of about ``size`` bytes, in an order that has nothing to do with the packages."""
    folders = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    files = sorted({file for folder in folders for file in folder.rglob("*") if file.suffix in SUFFIXES})
    random.Random(0).shuffle(files)
    texts: list[str] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if len(text) > 200:
            texts.append(text[:LONGEST])
            size -= len(texts[-1])
        if size < 0:
            break
    return texts


def compare(
    name: str,
    texts: list[str],
    size: float,
    rounds: int,
    ours: Callable[[str], object],
    stock: Callable[[str], object],
) -> None:
    """Print the median speeds of two functions of a text, and their ratio."""
    seconds = median_seconds(rounds, lambda: [ours(t) for t in texts], lambda: [stock(t) for t in texts])
    report(name, size, seconds)


def median_seconds(rounds: int, *runs: Callable[[], object]) -> list[float]:
    taken: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for times, run in zip(taken, runs):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
    return [statistics.median(times) for times in taken]


def report(name: str, size: float, seconds: list[float]) -> None:
    ours, stock = (size / each for each in seconds)
    print(f"{name}: ours {ours:.1f} MB/s, stock {stock:.1f} MB/s, {ours / stock:.1f} times as fast")


def damage(texts: list[str]) -> None:
    """Print how many Python modules are another program after normalisation."""
    ways = {
        "ours, as code": lambda text: normalise(text, "code")[0],
        "ours, as technical text": lambda text: normalise(text, "technical")[0],
        "ftfy.fix_text": ftfy.fix_text,
    }
    trees = {}
    for text in texts:
        with contextlib.suppress(SyntaxError, ValueError):
            trees[text] = ast.dump(ast.parse(text))
    changed = {way: sum(not same(tree, f(text)) for text, tree in trees.items()) for way, f in ways.items()}
    counts = "; ".join(f"{way}: {number}" for way, number in changed.items())
    print(f"  of {len(trees)} modules, another syntax tree by {counts}")


def same(tree: str, text: str) -> bool:
    try:
        return ast.dump(ast.parse(text)) == tree
    except (SyntaxError, ValueError):
        return False


def decontaminate(texts: list[str], size: float, rounds: int) -> None:
    """Plant parts of items in documents; print speed, recall and false alarms of both."""
    rng = random.Random(1)
    vocabulary = sorted({word for text in texts[:300] for word in text.split() if word.isalpha()})
    items = [" ".join(rng.choices(vocabulary, k=60)) for _ in range(ITEMS)]
    chosen = set(rng.sample(range(len(texts)), min(PLANTED, len(texts) // 2)))
    planted = []
    for number, text in enumerate(texts):
        words = rng.choice(items).split()
        start = rng.randrange(60 - 13)
        place = text.find(" ", len(text) // 2) if number in chosen else -1
        if place >= 0:
            text = f"{text[:place]} {' '.join(words[start : start + 13])} {text[place:]}"
        planted.append(text)
        chosen -= {number} if place < 0 else set()
    index = build([("planted", str(k), item) for k, item in enumerate(items)], DecontaminationConfig())
    with tempfile.TemporaryDirectory(prefix="stemma-rewriting-") as folder:
        stock = stock_filter(items, Path(folder))

        def ours() -> set[int]:
            found = set()
            for start in range(0, len(planted), 50):
                for k, overlaps in enumerate(index.overlaps_of(planted[start : start + 50])):
                    found |= {start + k} if overlaps else set()
            return found

        def theirs() -> set[int]:
            return {k for k, text in enumerate(planted) if stock.filter(Document(text, str(k))) is not True}

        report("decontaminate", size, median_seconds(rounds, ours, theirs))
        for name, found in (("ours", ours()), ("stock", theirs())):
            print(f"  {name}: {len(found & chosen)} of {len(chosen)} planted, {len(found - chosen)} others")


def stock_filter(items: list[str], folder: Path) -> NGramsDecontFilter:
    """datatrove's filter with an index of the items (its indexer asks for lighteval; its hashes do not)."""
    config = NGramsDecontConfig(n_grams=13)
    stock = NGramsDecontFilter(str(folder), config)
    hashes = {
        stock.hash_func(" ".join(gram))
        for item in items
        for gram in ngrams(stock.tokenizer.word_tokenize(simplify_text(item, config.norm_config)), 13)
    }
    np.array(sorted(hashes), config.hash_config.np_descr).tofile(folder / "planted.index.hashes")
    stock.load_index_hashes()
    return stock


if __name__ == "__main__":
    main()
