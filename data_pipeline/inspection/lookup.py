"""What every question about a run begins with: its plans, its tokens, its tokenizer.

Functions take the run's sealed artifacts by node name (``stemma.pipeline.open_run``) and, where a stage that
is still being made has something to tell, the folders of those (``stemma.pipeline.open_work``).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_pipeline.curriculum.plan import Plan
from data_pipeline.tokens.shards import Tokens, TokenShard
from stemma.core.artifact import Artifact
from stemma.core.errors import StemmaError
from tokenizer.load import load

PLAN = "plan."
RECEIPTS = "receipts.jsonl"
CARRIED = ("id", "origin", "tokens", "start", "document_tokens", "cluster", "decisions")


def need(artifacts: Mapping[str, Artifact], name: str) -> Artifact:
    """An artifact of the run.

    Raises:
        StemmaError: the run does not have it yet; lists what it has.
    """
    if name not in artifacts:
        raise StemmaError(f"this run has no {name} yet; it has: {', '.join(artifacts) or 'nothing'}")
    return artifacts[name]


def planned_stages(artifacts: Mapping[str, Artifact]) -> list[str]:
    """Stages with a plan, in the order of training: a plan comes after the one whose cursors it takes on."""

    def depth(name: str) -> int:
        before = artifacts[name].manifest["inputs"].get("previous")
        return 1 + depth(before["name"]) if before and before["name"] in artifacts else 0

    plans = [name for name in artifacts if name.startswith(PLAN)]
    return [name.removeprefix(PLAN) for name in sorted(plans, key=depth)]


def load_plan(artifacts: Mapping[str, Artifact], stage: str) -> Plan:
    """The plan of a stage.

    Raises:
        StemmaError: it has none; lists the stages that do.
    """
    if PLAN + stage not in artifacts:
        known = ", ".join(planned_stages(artifacts)) or "none yet"
        raise StemmaError(f"this run has no plan of a stage {stage!r}; planned stages: {known}")
    return Plan.load(artifacts[PLAN + stage].path)


def shard_of(artifacts: Mapping[str, Artifact], stage: str, plan: Plan, source: str) -> TokenShard:
    """The shard that a stage reads a source from.

    Raises:
        StemmaError: the plan was made from tokens that are not the run's any more.
    """
    planned = plan.sources[source]
    name = artifacts[PLAN + stage].manifest["inputs"][planned.role]["name"]
    if name not in artifacts or artifacts[name].fingerprint != planned.fingerprint:
        raise StemmaError(
            f"the plan of {stage} was made from {name}-{planned.fingerprint[:12]}, which is not this "
            f"run's {name} any more; run it again"
        )
    return Tokens(artifacts[name].path).shard(source)


def stage_folder(artifacts: Mapping[str, Artifact], working: Mapping[str, Path], stage: str) -> Path:
    """Where a stage's receipts and metrics are: its artifact, or the folder it is being made in.

    Raises:
        StemmaError: it has not begun; lists the stages that have.
    """
    folders = {name: artifact.path for name, artifact in artifacts.items()} | dict(working)
    if stage in folders and (folders[stage] / RECEIPTS).exists():
        return folders[stage]
    begun = [name for name, folder in folders.items() if (folder / RECEIPTS).exists()]
    raise StemmaError(
        f"stage {stage!r} of this run has no receipts yet; stages that have: {', '.join(begun) or 'none'}"
    )


def describe_documents(shard: TokenShard, numbers: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Sidecar rows of many documents of a shard, each row group read once."""
    wanted = sorted(set(numbers))
    file = pq.ParquetFile(shard.sidecar)
    columns = [name for name in CARRIED if name in file.schema_arrow.names]
    found: dict[int, dict[str, Any]] = {}
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if inside := [number for number in wanted if first <= number < first + rows]:
            table = file.read_row_group(group, columns=columns)
            picked = table.take([number - first for number in inside]).to_pylist()
            found.update(zip(inside, map(parsed, picked)))
        first += rows
    return found


def parsed(row: dict[str, Any]) -> dict[str, Any]:
    """A sidecar's row with its decisions as JSON values, and ``tokens`` of the whole document.

    A packed document may be cut: its row then stands for the piece that begins at token ``start`` of it.
    """
    decisions = json.loads(row["decisions"]) if row.get("decisions") else {}
    found = {**row, "decisions": decisions}
    if "tokens" in row:
        whole = row.get("document_tokens", row["tokens"])
        found |= {"tokens": whole, "document_tokens": whole, "start": row.get("start", 0)}
    return found


def decoder(artifacts: Mapping[str, Artifact]) -> Any:
    """A function from token ids to text, by the run's tokenizer."""
    tokenizer = load(need(artifacts, "tokenizer").path / "hf")
    return lambda ids: str(tokenizer.decode(ids))
