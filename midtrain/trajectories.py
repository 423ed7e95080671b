"""Synthesis of agentic trajectories: experts act in environments, and what they did is kept if it worked.

Nothing is invented: every tool output comes from running the call in a sandbox, and every trajectory is
scored by its environment before it is kept. Work is cut into chunks that depend on the config alone, so that
any number of workers writes the same bytes, and a killed run continues with the chunks it lacks.
"""

import hashlib
import json
import multiprocessing
import os
import platform
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from environments.base import FIRST_INDEX, Environment, Message, Task
from environments.catalog import make_environment
from environments.sandbox import Sandbox, open_sandbox
from midtrain.config import FamilyConfig, TrajectoriesConfig
from stemma.core.errors import StageFailed, StemmaError
from stemma.core.files import read_json, write_atomic, write_json
from stemma.core.lifeline import die_with
from stemma.core.stage import Stage, Workspace

CHUNK = 128
COLUMNS = (
    "id", "text", "source", "domain", "language", "licence", "origin", "split", "cluster", "decisions",
    "messages",
)  # fmt: skip


@dataclass(frozen=True)
class Chunk:
    """Trajectories `start .. stop - 1` of a family."""

    family: str
    config: FamilyConfig
    seed: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.family}-{self.start:06d}"


class TrajectoriesStage(Stage):
    """Runs experts and writes `trajectories.jsonl` and `documents/<family>/00000.parquet`.

    Tasks are `draw`n from the training side of each environment (`environments.base.is_held_out`), at indices
    below `FIRST_INDEX["rl"]`, so that neither RL nor evaluation meets them again.
    """

    kind: ClassVar[str] = "trajectories"
    config: TrajectoriesConfig

    def identity(self) -> dict[str, Any]:
        """Adds what the text comes from: the standard library being repaired, reasoning-gym's generators."""
        libraries = {"python": platform.python_version(), "reasoning_gym": version("reasoning-gym")}
        return {**super().identity(), "libraries": libraries}

    def chunks(self) -> list[Chunk]:
        """All work, cut independently of the number of workers."""
        return [
            Chunk(name, family, self.config.seed, start, min(start + CHUNK, family.count))
            for name, family in self.config.families.items()
            for start in range(0, family.count, CHUNK)
        ]

    def run(self, work: Workspace) -> dict[str, Any]:
        """Make what is missing, then write everything in order.

        Raises:
            SandboxUnavailable: no sandbox works here.
            StemmaError: an environment's config is wrong, or hardly any expert succeeded.
        """
        sandbox = open_sandbox(work.execution.sandbox)
        chunks = self.chunks()
        missing = [chunk for chunk in chunks if not (work.scratch / f"{chunk.name}.json").exists()]
        done = len(chunks) - len(missing)
        if done:
            work.progress.say(f"continuing: {done} of {len(chunks)} chunks are there")
        for chunk in self._made(missing, work, sandbox.name):
            done += 1
            work.progress.step(done, len(chunks), "chunks", chunk.family)
        return {"sandbox": sandbox.name, **self._write(chunks, work)}

    def _made(self, missing: list[Chunk], work: Workspace, sandbox: str) -> Iterator[Chunk]:
        workers = min(work.execution.workers, len(missing))
        if workers <= 1:
            for chunk in missing:
                make_chunk(chunk, sandbox, work.scratch)
                yield chunk
            return
        # spawned, not forked: the parent may hold threads and locks of torch, Arrow or a flow engine
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, spawn, initializer=die_with, initargs=(os.getpid(),)) as pool:
            futures = {pool.submit(make_chunk, chunk, sandbox, work.scratch): chunk for chunk in missing}
            try:
                for future in as_completed(futures):
                    future.result()
                    yield futures[future]
            except BrokenProcessPool as error:
                raise StageFailed(
                    "a worker process was killed, perhaps for lack of memory. Finished chunks are kept; "
                    "run again to continue, with fewer workers if it happens again."
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _write(self, chunks: list[Chunk], work: Workspace) -> dict[str, Any]:
        lines: list[str] = []
        families: dict[str, dict[str, Any]] = {}
        for name, family in self.config.families.items():
            records: list[dict[str, Any]] = []
            seen: set[str] = set()
            tally: Counter[str] = Counter()
            for chunk in chunks:
                if chunk.family != name:
                    continue
                for record in read_json(work.scratch / f"{chunk.name}.json"):
                    if not record["verified"]:
                        tally["unverified"] += 1
                        continue
                    text = conversation(record)
                    if text in seen:
                        tally["duplicates"] += 1
                        continue
                    seen.add(text)
                    record["split"] = split_of(name, record["messages"], self.config.valid_fraction)
                    records.append(record)
            if len(records) < family.count // 4:
                raise StemmaError(
                    f"family {name}: {len(records)} of {family.count} trajectories are usable "
                    f"({tally['unverified']} did not reach the goal, {tally['duplicates']} are duplicates). "
                    "Ask for fewer, or widen its environments."
                )
            lines += [json.dumps(record, sort_keys=True, ensure_ascii=False) for record in records]
            rows = [document(name, record) for record in records]
            write_documents(work.path / "documents" / name / "00000.parquet", rows)
            families[name] = {
                "trajectories": len(records),
                "valid": sum(record["split"] == "valid" for record in records),
                "bytes": sum(len(row["messages"].encode()) for row in rows),
                "tool_calls": sum(
                    len(m.get("tool_calls", ())) for record in records for m in record["messages"]
                ),
                "unverified": tally["unverified"],
                "duplicates": tally["duplicates"],
            }
        write_atomic(work.path / "trajectories.jsonl", "\n".join(lines) + "\n")
        total = sum(facts["trajectories"] for facts in families.values())
        return {
            "trajectories": total,
            "bytes": sum(facts["bytes"] for facts in families.values()),
            "families": families,
        }


_environments: dict[str, tuple[Environment, ...]] = {}  # of this process: opening one can take seconds


def open_environments(chunk: Chunk, sandbox: Sandbox) -> tuple[Environment, ...]:
    """The environments of a chunk's family, opened once per process."""
    key = f"{sandbox.name} {chunk.config.model_dump_json()}"
    if key not in _environments:
        _environments[key] = tuple(make_environment(config, sandbox) for config in chunk.config.environments)
    return _environments[key]


def make_chunk(chunk: Chunk, sandbox_name: str, folder: Path) -> None:
    """Run and score the experts of a chunk, and write their records to `folder/<chunk>.json`."""
    environments = open_environments(chunk, open_sandbox(sandbox_name))
    records: dict[int, dict[str, Any]] = {}
    for offset, environment in enumerate(environments):
        numbers = [n for n in range(chunk.start, chunk.stop) if n % len(environments) == offset]
        first = FIRST_INDEX["trajectories"] + chunk.config.first_index
        tasks = [environment.draw(chunk.seed, first + number // len(environments)) for number in numbers]
        episodes = environment.experts(tasks)
        rewards = environment.score_many(list(zip(tasks, episodes)))
        for number, task, episode, reward in zip(numbers, tasks, episodes, rewards):
            records[number] = trajectory(chunk.family, environment, task, episode, reward)
    write_json(folder / f"{chunk.name}.json", [records[number] for number in sorted(records)])


def trajectory(
    family: str, environment: Environment, task: Task, episode: list[Message], reward: float
) -> dict[str, Any]:
    """A record of `trajectories.jsonl`, without its split."""
    return {
        "id": task.id,
        "family": family,
        "environment": task.environment,
        "seed": task.seed,
        "index": task.index,
        "messages": [*task.messages, *episode],
        "tools": list(task.tools),
        "reward": reward,
        "verified": reward == 1.0,
        "meta": {**task.meta, "licence": environment.licence},
    }


def conversation(record: dict[str, Any]) -> str:
    """What the chat template is given, as JSON."""
    value = {"messages": record["messages"], "tools": record["tools"]}
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def split_of(family: str, messages: list[Message], valid_fraction: float) -> str:
    """`train` or `valid`, by the question: the same question never falls on both sides."""
    question = next(message["content"] for message in messages if message["role"] == "user")
    draw = int.from_bytes(hashlib.sha256(f"{family}\n{question}".encode()).digest()[:8], "big") / 2**64
    return "valid" if draw < valid_fraction else "train"


def document(family: str, record: dict[str, Any]) -> dict[str, str]:
    """A record as a row of the documents table; `text` is for readers, `messages` for training."""
    turns = [f"{message['role']}: {message['content']}" for message in record["messages"]]
    text = "\n".join(turns)
    origin = f"{family}#{record['seed']}:{record['index']}"
    return {
        "id": hashlib.sha256("\n".join((family, origin, text)).encode()).hexdigest()[:20],
        "text": text,
        "source": family,
        "domain": "agent",
        "language": "en",
        "licence": record["meta"]["licence"],
        "origin": origin,
        "split": record["split"],
        "cluster": "",
        "decisions": json.dumps({"reward": record["reward"], "verified": record["verified"]}),
        "messages": conversation(record),
    }


def write_documents(path: Path, rows: list[dict[str, str]]) -> None:
    """Write documents as zstd parquet, sorted by id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(rows, key=lambda row: row["id"])
    table = pa.table({name: pa.array([row[name] for row in ordered], pa.string()) for name in COLUMNS})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue().to_pybytes())
