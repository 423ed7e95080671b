"""Small corpora for the tests: word salad that no filter minds; how to make and read an artifact of it."""

import json
import random

import pyarrow.parquet as pq

from data_pipeline.config import CorpusConfig
from data_pipeline.corpus.stage import CorpusStage
from stemma.core.artifact import Store
from stemma.core.stage import Execution, execute

STEMS = "ba ce di fo gu la me ni po ru"
WORDS = [stem + ending for stem in STEMS.split() for ending in ["sten", "mar", "lin", "dor", "vek"]]


def texts(number: int, seed: int, lines: int = 12) -> list[str]:
    rng = random.Random(seed)
    return ["\n".join(" ".join(rng.choices(WORDS, k=10)) for _ in range(lines)) for _ in range(number)]


def make(folder, section, workers=2, listeners=None, **execution):
    stage = CorpusStage("corpus", CorpusConfig(**section), {})
    return execute(stage, Store(folder / "store"), Execution(workers=workers, **execution), listeners)


def hashes(artifact):
    return {
        name: entry["sha256"] for name, entry in artifact.manifest["files"].items() if name != "stage.json"
    }


def rows(artifact, kind, source):
    return [
        row
        for path in sorted((artifact.path / kind / source).glob("*"))
        for row in pq.read_table(path).to_pylist()
    ]


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    return path


def local(*paths, use="train", **about):
    """A source of JSON lines."""
    filters = {"filters": "plain"} if use == "train" else {}
    about = {"domain": "web", "licence": "MIT", **filters, **about}
    return {"type": "local", "urls": [str(path) for path in paths], "format": "jsonl", "use": use, **about}


def section(sources, **fields):
    """A profile's `data` section."""
    return {"sources": sources, "filters": {"plain": ["technical"]}, "valid_fraction": 0.05, **fields}
