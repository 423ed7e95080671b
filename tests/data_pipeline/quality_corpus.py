"""A small made-up corpus with labels that a scorer can learn."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.quality.taxonomy import load_taxonomy
from stemma.core.artifact import Artifact

TOPICS = {
    "food": "butter onion oven recipe flour simmer pepper garlic bake sauce",
    "physics": "force mass energy momentum quantum field velocity electron wave charge",
    "law": "court judge appeal statute contract plaintiff ruling clause counsel verdict",
}
FILLER = "the of and to in a is that for it as was with be by on"


def make_text(rng: random.Random, subdomain: str, good: bool) -> str:
    words, filler = TOPICS[subdomain].split(), FILLER.split()
    sentences = []
    for _ in range(rng.randint(4, 12)):
        picked = [rng.choice(words if rng.random() < 0.4 else filler) for _ in range(rng.randint(6, 14))]
        line = " ".join(picked)
        sentences.append(f"{line.capitalize()}." if good else f"CLICK {line} !!! >> buy now")
    return "\n".join(sentences)


def write_corpus(folder: Path, sources: dict[str, int], seed: int = 0, files: int = 1) -> list[dict]:
    """Write ``documents/<source>/*.parquet``; returns label rows of every document."""
    taxonomy = load_taxonomy()
    labels = []
    for source, count in sources.items():
        rng = random.Random(f"{seed} {source}")
        rows = []
        for number in range(count):
            subdomain, good = rng.choice(list(TOPICS)), rng.random() < 0.5
            text = make_text(rng, subdomain, good)
            identifier = f"{source}-{number:05d}"
            rows.append(
                {
                    "id": identifier,
                    "text": text,
                    "source": source,
                    "domain": "web",
                    "origin": f"{source}.jsonl#{number}",
                    "split": "valid" if number % 20 == 0 else "train",
                    "cluster": "",
                }
            )
            scores = {name: (highest if good else 0) for name, highest in taxonomy.highest.items()}
            labels.append(
                {
                    "origin": rows[-1]["origin"],
                    "source": source,
                    "subdomain": subdomain,
                    "scores": scores,
                    "annotator": "maker",
                    "taxonomy": taxonomy.version,
                }
            )
        place = folder / "documents" / source
        place.mkdir(parents=True)
        size = -(-count // files)
        for part in range(files):
            table = pa.Table.from_pylist(rows[part * size : (part + 1) * size])
            pq.write_table(table, place / f"{part:05d}.parquet")
    return labels


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_artifact(folder: Path) -> Artifact:
    return Artifact("corpus", "corpus", "f" * 64, folder, {"files": {}, "summary": {}})
