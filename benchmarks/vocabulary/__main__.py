"""Learn vocabularies of 128,256 entries and measure them on sources nothing was learned from.

    python -m benchmarks.vocabulary --work FOLDER [--recipes staged from_o200k one_shot] [--workers 2]

Fetches about 1 GB once. Prints two tables: sources that the recipes were chosen by (``use: measure``), and
sources that no choice was made by (``use: test``). By domain and source: Llama-3.1's bytes per token, and how
many tokens it takes for one of ours (above 1: ours are fewer). The ceiling is that ratio for an unlimited
vocabulary: no entry crosses a cut of the pre-tokenizer. ``llama3_1_cut`` and ``o200k_cut`` are those
vocabularies' entries behind our cuts, single digits among them. ``measure.json`` and ``test.json`` have all
that a tokenizer's report has.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks.vocabulary import goals, run
from benchmarks.vocabulary.recipes import RECIPES

TABLES = {
    "measure": "development: the sources that the recipes were chosen by",
    "test": "test: sources that no choice was made by",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for texts, counts and vocabularies")
    parser.add_argument("--cache", type=Path, help="folder of fetched archives (default: cache/ in --work)")
    parser.add_argument("--recipes", nargs="+", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    cache = given.cache or given.work / "cache"
    given.work.mkdir(parents=True, exist_ok=True)
    counted, missing = run.count(given.work, cache, given.workers)
    for name, reason in missing.items():
        print(f"not there: {name}: {reason}")
    vocabularies = {name: run.learned(name, counted, given.work, cache) for name in given.recipes}
    for use, title in TABLES.items():
        report = run.report(vocabularies, use, given.work, cache)
        (given.work / f"{use}.json").write_text(json.dumps(report, indent=1))
        print(f"\n=== {title}")
        show(report, given.recipes)


def show(report: dict[str, Any], recipes: list[str]) -> None:
    """Print the table and the goals."""
    anchors = [each["name"] for each in report["tokenizers"] if each["name"] not in recipes]
    print(
        f"\n{'':28}{'llama3_1':>9}{'ceiling':>9}"
        + "".join(f"{name:>14}" for name in [*recipes, *anchors[1:]])
    )
    for row in report["groups"]:
        if row["group"] == "language" or not row["by"]["llama3_1"]["tokens"]:
            continue
        theirs = row["by"]["llama3_1"]["tokens"]
        label = row["name"] if row["group"] != "source" else "  " + row["name"]
        ratios = [theirs / row["by"][name]["tokens"] for name in [*recipes, *anchors[1:]]]
        ceiling = row["ratios"]["llama3_1"]["ceiling_ratio"]
        figures = "".join(f"{ratio:14.3f}" for ratio in ratios)
        print(f"{label:28}{row['bytes'] / theirs:9.3f}{ceiling:9.3f}{figures}")
    for name in recipes:
        print(f"\n{name}")
        for line in goals.judge(report, name):
            print("  " + line)


if __name__ == "__main__":
    main()
