"""Trajectories: the same bytes however they are made, nothing unverified, nothing lost to a crash."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import midtrain.trajectories as module
from environments.base import DRAWS, FIRST_INDEX, is_held_out
from environments.catalog import make_environment
from midtrain.config import TrajectoriesConfig
from midtrain.trajectories import COLUMNS, TrajectoriesStage, split_of
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import StemmaError
from stemma.core.files import read_jsonl
from stemma.core.stage import Execution, execute

MATHS = {"kind": "python_math", "templates": ["sum", "factorial", "letter"], "mistakes": 0.3}
CONFIG: dict[str, Any] = {
    "seed": 7,
    "valid_fraction": 0.2,
    "families": {
        "maths": {"count": 150, "environments": [MATHS]},
        "repair": {"count": 20, "environments": [{"kind": "code_repair"}]},
        "chat": {
            "count": 60,
            "environments": [
                {"kind": "reasoning", "dataset": "aiw"},
                {"kind": "reasoning", "dataset": "spell_backward"},
            ],
        },
    },
}


def make(root: Path, workers: int = 1, sandbox: str = "auto", **changes: Any) -> Artifact:
    config = TrajectoriesConfig.model_validate({**CONFIG, **changes})
    return execute(
        TrajectoriesStage("trajectories", config, {}),
        Store(root),
        Execution(workers=workers, sandbox=sandbox),
    )


def hashes(artifact: Artifact) -> dict[str, str]:
    return {name: facts["sha256"] for name, facts in artifact.manifest["files"].items()}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Artifact]:
    return make(tmp_path_factory.mktemp("store"), sandbox="monty")


def test_the_bytes_depend_on_neither_workers_nor_sandbox(artifact: Artifact, tmp_path: Path) -> None:
    assert hashes(make(tmp_path, workers=2)) == hashes(artifact)


def test_records_are_verified_and_complete(artifact: Artifact) -> None:
    records = list(read_jsonl(artifact.file("trajectories.jsonl")))
    assert {record["family"] for record in records} == set(CONFIG["families"])
    for record in records:
        assert set(record) == {
            "id", "family", "environment", "seed", "index", "split", "messages", "tools", "reward",
            "verified", "meta",
        }  # fmt: skip
        assert record["reward"] == 1.0
        assert record["verified"] is True
        assert record["split"] in ("train", "valid")
    splits = [record["split"] for record in records]
    assert 0.1 < splits.count("valid") / len(splits) < 0.35
    summary = artifact.summary
    assert summary["trajectories"] == len(records)
    assert summary["families"]["repair"]["tool_calls"] >= 4 * summary["families"]["repair"]["trajectories"]


def test_documents_hold_what_training_reads(artifact: Artifact) -> None:
    records = {
        (r["family"], r["seed"], r["index"], r["environment"]): r
        for r in read_jsonl(artifact.file("trajectories.jsonl"))
    }
    count = 0
    for family in CONFIG["families"]:
        rows = pq.read_table(artifact.file(f"documents/{family}/00000.parquet"), schema=None).to_pylist()
        assert tuple(rows[0]) == COLUMNS
        ids = [row["id"] for row in rows]
        assert ids == sorted(set(ids))
        for row in rows:
            conversation = json.loads(row["messages"])
            seed, index = (int(part) for part in row["origin"].removeprefix(f"{family}#").split(":"))
            known = [
                record for key, record in records.items()
                if key[:3] == (family, seed, index) and record["messages"] == conversation["messages"]
            ]  # fmt: skip
            assert len(known) == 1
            assert conversation["tools"] == known[0]["tools"]
            assert (row["source"], row["domain"], row["split"]) == (family, "agent", known[0]["split"])
            count += 1
    assert count == len(records)


def test_no_question_is_in_both_splits_or_held_out(artifact: Artifact) -> None:
    environments = {
        name: {
            item.kind if item.kind != "reasoning" else item.dataset: make_environment(item)
            for item in family.environments
        }
        for name, family in TrajectoriesConfig.model_validate(CONFIG).families.items()
    }
    sides: dict[str, set[str]] = {}
    for record in read_jsonl(artifact.file("trajectories.jsonl")):
        sides.setdefault(record["family"] + record["messages"][0]["content"], set()).add(record["split"])
        task = environments[record["family"]][record["environment"]].task(record["seed"], record["index"])
        assert task.messages[0] == record["messages"][0]
        assert not is_held_out(task)
    assert all(len(found) == 1 for found in sides.values())


def test_a_killed_run_continues_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Artifact
) -> None:
    made: list[str] = []
    real = module.make_chunk

    def dies_at_third(chunk: module.Chunk, sandbox: str, folder: Path) -> None:
        if len(made) == 2:
            (folder / f".{chunk.name}.json.1.tmp").write_text("half a")  # what a killed atomic write leaves
            raise KeyboardInterrupt
        made.append(chunk.name)
        real(chunk, sandbox, folder)

    monkeypatch.setattr(module, "make_chunk", dies_at_third)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    monkeypatch.setattr(
        module, "make_chunk", lambda chunk, *rest: (made.append(chunk.name), real(chunk, *rest))
    )
    resumed = make(tmp_path)
    assert len(made) == len(set(made)) == 4  # maths twice, repair, chat: none made again
    assert hashes(resumed) == hashes(artifact)


def test_workers_die_with_the_stage_and_nothing_is_lost(tmp_path: Path, artifact: Artifact) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.midtrain import test_trajectories as t\n"
        "if __name__ == '__main__':\n    t.make(Path(sys.argv[1]), workers=2, sandbox='monty')\n"
    )
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    store = tmp_path / "store"
    process = subprocess.Popen([sys.executable, str(script), str(store)], env=environment, cwd=repository)
    children: list[psutil.Process] = []
    while not list(store.glob("artifacts/*/.scratch/*.json")):
        assert process.poll() is None, "it ended before it could be killed"
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert hashes(make(store)) == hashes(artifact)


def test_failed_experts_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from environments.python_math import PythonMath

    def grudging(self: PythonMath, episodes: list[Any]) -> list[float]:
        return [float(task.index // DRAWS % 2) for task, _ in episodes]

    monkeypatch.setattr(PythonMath, "score_many", grudging)
    families = {"maths": {"count": 40, "environments": [MATHS]}}
    summary = make(tmp_path, sandbox="monty", families=families).summary["families"]["maths"]
    assert summary["unverified"] > 5
    assert summary["trajectories"] + summary["unverified"] + summary["duplicates"] == 40


def test_too_few_successes_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from environments.python_math import PythonMath

    monkeypatch.setattr(PythonMath, "score_many", lambda self, episodes: [0.0] * len(episodes))
    with pytest.raises(
        StemmaError, match=r"family maths: 0 of 40 trajectories are usable \(40 did not reach the goal"
    ):
        make(tmp_path, sandbox="monty", families={"maths": {"count": 40, "environments": [MATHS]}})


def test_the_fingerprint_covers_what_the_text_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrajectoriesConfig.model_validate(CONFIG)
    before = TrajectoriesStage("trajectories", config, {}).fingerprint
    monkeypatch.setattr(module.platform, "python_version", lambda: "3.11.99")
    assert TrajectoriesStage("trajectories", config, {}).fingerprint != before


def test_bad_config_is_refused_by_path() -> None:
    with pytest.raises(ValidationError, match=r"families\.maths\.count"):
        TrajectoriesConfig.model_validate({"families": {"maths": {"count": 0, "environments": [MATHS]}}})
    with pytest.raises(ValidationError, match="family name 'My Family'"):
        TrajectoriesConfig.model_validate({"families": {"My Family": {"count": 1, "environments": [MATHS]}}})
    with pytest.raises(ValidationError, match="first_index"):
        TrajectoriesConfig.model_validate(
            {"families": {"maths": {"count": 1, "environments": [MATHS], "first_index": FIRST_INDEX["rl"]}}}
        )


def test_the_split_share_is_what_was_asked() -> None:
    sides = [split_of("f", [{"role": "user", "content": str(n)}], 0.03) for n in range(5000)]
    assert 0.02 < sides.count("valid") / 5000 < 0.04
    assert {split_of("f", [{"role": "user", "content": str(n)}], 0.0) for n in range(100)} == {"train"}
