"""A first look at trajectories before they are made: how long they are, how they read."""

import json
import tempfile
from pathlib import Path

from data_pipeline.inspection.glance import BYTES_PER_TOKEN, Glance, Sample
from environments.sandbox import open_sandbox
from midtrain.config import TrajectoriesConfig
from midtrain.trajectories import Chunk, make_chunk
from stemma.core.errors import StemmaError
from stemma.core.files import read_json

EACH = 3  # tasks of an environment


def glance_at_families(config: TrajectoriesConfig, sandbox: str) -> dict[str, Glance]:
    """Let the experts of every family solve a few of its tasks.

    Args:
        config: the families.
        sandbox: backend for what they run.

    Returns:
        By family; one that cannot be had says why.
    """
    found = {}
    with tempfile.TemporaryDirectory(prefix="stemma-glance-") as scratch:
        for name, family in config.families.items():
            chunk = Chunk(name, family, config.seed, 0, min(family.count, EACH * len(family.environments)))
            try:
                make_chunk(chunk, open_sandbox(sandbox).name, Path(scratch))
            except StemmaError as error:
                found[name] = Glance(name, "agent", problem=str(error))
                continue
            records = [line for line in read_json(Path(scratch) / f"{chunk.name}.json") if line["verified"]]
            texts = [json.dumps(line["messages"], ensure_ascii=False) for line in records]
            size = sum(len(text.encode()) for text in texts)
            found[name] = Glance(
                name,
                "agent",
                len(texts),
                size,
                len(texts) / family.count if texts else 0.0,
                1.0,
                chunk.stop,
                {},
                BYTES_PER_TOKEN,
                tuple(Sample(line["id"], line["id"], text) for line, text in zip(records, texts)),
                "" if texts else "no expert solved a task",
            )
    return found
