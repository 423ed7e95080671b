"""The external sort: the same files whatever runs the rows came in, none lost, pieces as large as asked."""

import hashlib
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.cleaning.records import REJECTS
from data_pipeline.corpus.sorting import WriteRuns, cuts, groups_of, plan_ranges, read_range
from tests.data_pipeline.corpora import jsonl, local, section, texts

RULES = ["contaminated", "exact_duplicate", "too_short"]


def reject(number: int, rule: str, source: str, size: int) -> dict[str, str]:
    name = hashlib.sha256(f"{number}".encode()).hexdigest()[:20]
    return dict.fromkeys(REJECTS.names, "") | {"id": name, "rule": rule, "source": source, "text": "x" * size}


def write(folder, rows, files):
    folder.mkdir(parents=True)
    for number in range(files):
        part = pa.Table.from_pylist(rows[number::files], REJECTS)
        pq.write_table(part, folder / f"{number}.parquet")
    return sorted(folder.glob("*.parquet"))


def sort_all(folder, files, per_group, limit):
    """What the ranks of both passes give: (source, number) -> rows."""
    groups = [files[start : start + per_group] for start in range(0, len(files), per_group)]
    step = WriteRuns(groups, REJECTS, folder)
    for rank in range(len(groups)):
        list(step.run(iter(()), rank, len(groups)))
    return {(r.source, r.number): read_range(r, REJECTS).to_pylist() for r in plan_ranges(folder, limit)}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(RULES), st.sampled_from("ab"), st.integers(0, 400)), min_size=1, max_size=60
    ),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(200, 3000),
    st.randoms(use_true_random=False),
)
def test_any_runs_give_the_same_sorted_pieces(tmp_path_factory, drawn, files, per_group, limit, random):
    rows = [reject(number, *entry) for number, entry in enumerate(drawn)]
    folder = tmp_path_factory.mktemp("sort")
    found = sort_all(folder / "one", write(folder / "in", rows, 1), 1, limit)
    random.shuffle(rows)
    assert found == sort_all(folder / "many", write(folder / "mixed", rows, files), per_group, limit)
    for source in {row["source"] for row in rows}:
        pieces = [piece for (name, _), piece in sorted(found.items()) if name == source]
        everything = [row for piece in pieces for row in piece]
        assert everything == sorted(
            (row for row in rows if row["source"] == source), key=lambda row: (row["rule"], row["id"])
        )


def test_a_rule_with_many_rows_is_cut_at_ids_and_small_rules_share_a_piece():
    assert cuts({"": 100}, 1000) == []
    assert cuts({"": 4000}, 1000) == [("", "40000000"), ("", "80000000"), ("", "c0000000")]
    assert cuts({"a": 400, "b": 500, "c": 300, "d": 100}, 1000) == [("c", "")]
    assert cuts({"a": 400, "b": 2000}, 1000) == [("b", ""), ("b", "80000000")]


def test_pieces_of_many_documents_are_about_as_large_as_asked(tmp_path):
    rows = [reject(number, "too_short", "a", 100) for number in range(4000)]
    found = sort_all(tmp_path / "runs", write(tmp_path / "in", rows, 4), 1, 40_000)
    sizes = [sum(len(row["text"]) for row in piece) for piece in found.values()]
    assert len(sizes) == 10
    assert max(sizes) < 48_000


def test_groups_depend_on_the_files_alone(tmp_path):
    for number in range(40):
        (tmp_path / f"{number:02d}").write_bytes(b"x" * 300_000)
    files = sorted(tmp_path.iterdir())
    groups = groups_of(reversed(files))
    assert [path for group in groups for path in group] == files
    assert {len(group) for group in groups} == {3, 1}


SCRIPT = """
import json, resource, sys
from pathlib import Path
from data_pipeline.config import CorpusConfig
from data_pipeline.corpus import sorting, stage, writing
from stemma.core.artifact import Store
from stemma.core.stage import Execution, execute

if __name__ == "__main__":
    # constants of a corpus a hundred times as large
    sorting.RUN_BYTES = sorting.LEAST_RUN_BYTES = 300_000
    stage.FILE_BYTES = writing.FILE_BYTES = 1_000_000
    made = execute(
        stage.CorpusStage("corpus", CorpusConfig(**json.load(open(sys.argv[1]))), {}),
        Store(Path(sys.argv[2])),
        Execution(workers=1),
    )
    status = Path("/proc/self/status").read_text()  # ru_maxrss of this process would be that of its parent
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peaks = [int(status.split("VmHWM:")[1].split()[0]), workers]
    print(json.dumps({"peaks": peaks, "bytes": made.summary["bytes"]}))
"""
BOUND = 12_000  # KiB by which the peak of any process may grow with 12 MB more of text


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    peaks = {}
    for number, size in ((40, 1), (160, 4)):
        folder = tmp_path / str(size)
        for part in range(number):
            jsonl(folder / f"{part}.jsonl", texts(130, seed=part))
        (folder / "section.json").write_text(json.dumps(section({"a": local(f"{folder}/*.jsonl")})))
        command = [sys.executable, str(tmp_path / "script.py"), f"{folder}/section.json", f"{folder}/store"]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        told = json.loads(done.stdout.splitlines()[-1])
        peaks[size] = told["peaks"]
        print(size, told)
    grown = [after - before for before, after in zip(peaks[1], peaks[4])]
    assert max(grown) < BOUND, (peaks, grown)
