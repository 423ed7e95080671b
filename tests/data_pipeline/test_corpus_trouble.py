"""What goes wrong while a corpus is made: no room, no permission, a changed source, a kill in any phase."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from data_pipeline.config import CorpusConfig
from data_pipeline.corpus.stage import CorpusStage
from data_pipeline.executor.ranks import StorageError
from data_pipeline.sources.find import SourceError
from stemma.core.artifact import Store
from stemma.core.errors import StemmaError
from stemma.core.stage import Execution, execute
from tests.data_pipeline.corpora import hashes, jsonl, local, make, section, texts

SCRIPT = """
import json, sys
from pathlib import Path
from data_pipeline.config import CorpusConfig
from data_pipeline.corpus.stage import CorpusStage
from stemma.core.artifact import Store
from stemma.core.stage import Execution, execute

if __name__ == "__main__":
    def say(event):
        print(event.kind, event.text, event.step, flush=True)
    stage = CorpusStage("corpus", CorpusConfig(**json.load(open(sys.argv[1]))), {})
    execute(stage, Store(Path(sys.argv[2])), Execution(workers=1), [say])
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(profile section with every kind of phase in it, the corpus it gives)."""
    folder = tmp_path_factory.mktemp("trouble")
    web, exam = texts(60, seed=31), texts(4, seed=32)
    sources = {
        "web": local(jsonl(folder / "web.jsonl", [*web, web[0], "tiny", "\n".join([web[9], exam[1]])])),
        "stem": local(jsonl(folder / "stem.jsonl", texts(30, seed=33)), domain="stem"),
        "exam": local(jsonl(folder / "exam.jsonl", exam), use="eval"),
    }
    return section(sources), make(folder, section(sources))


def group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


MOMENTS = ["say indexing", "step filter", "say removing", "step sort documents", "step write documents"]


def test_a_run_killed_in_every_phase_continues_to_the_same_bytes_with_any_number_of_workers(whole, tmp_path):
    profile, made = whole
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "section.json").write_text(json.dumps(profile))
    store = tmp_path / "store"
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "section.json"), str(store)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    for moment in MOMENTS:  # each run takes up what the killed ones before it left
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        seen = next((line for line in process.stdout if line.startswith(moment)), None)
        os.kill(process.pid, signal.SIGKILL)  # the process alone: its workers must notice by themselves
        process.wait()
        assert seen, f"the run ended before it could be killed at {moment!r}"
        deadline = time.monotonic() + 10
        while group_alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not group_alive(process.pid)
        assert not list((store / "artifacts").glob("*/manifest.json"))
    again = execute(CorpusStage("corpus", CorpusConfig(**profile), {}), Store(store), Execution(workers=2))
    assert again.fingerprint == made.fingerprint
    assert hashes(again) == hashes(made)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; skipped where it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "stemma-test", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_seals_nothing_and_the_run_goes_on_when_there_is_room(whole, small_disk, tmp_path):
    profile, made = whole
    with pytest.raises(
        StorageError, match=rf"no room to write {small_disk}/\S+ .*Free space on the disk"
    ) as caught:
        make(small_disk, profile, workers=1)
    assert "Nothing was sealed" in str(caught.value)
    assert not list(small_disk.rglob("manifest.json"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    again = make(small_disk, profile, workers=1)
    assert hashes(again) == hashes(made)


def test_a_file_that_may_not_grow_is_told_like_a_full_disk(whole, tmp_path):
    profile, _ = whole
    (tmp_path / "section.json").write_text(json.dumps(profile))
    limited = SCRIPT.replace(
        "    def say",
        "    import resource\n    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))\n    def say",
    )
    (tmp_path / "script.py").write_text(limited)
    command = [sys.executable, str(tmp_path / "script.py"), f"{tmp_path}/section.json", f"{tmp_path}/store"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}, check=False
    )
    assert done.returncode == 1
    assert "StorageError" in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr.splitlines()[-1]


def test_a_source_that_changes_after_it_was_looked_at_stops_the_run(tmp_path):
    path = jsonl(tmp_path / "web.jsonl", texts(20, seed=34))
    stage = CorpusStage("corpus", CorpusConfig(**section({"web": local(path)})), {})

    def change(event):
        if event.kind == "begin":
            jsonl(path, texts(10, seed=35))

    with pytest.raises(SourceError, match=r"web\.jsonl"):
        execute(stage, Store(tmp_path / "store"), Execution(workers=1), [change])
    assert not list((tmp_path / "store").rglob("manifest.json"))
    made = make(tmp_path, section({"web": local(path)}), workers=1)  # looks again: another fingerprint
    assert made.summary["documents"] == 10


def test_work_of_another_config_is_never_gone_on_with(tmp_path):
    path = jsonl(tmp_path / "web.jsonl", texts(20, seed=36))
    profile = section({"web": local(path)})

    def stop(event):
        if event.text.startswith("removing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, profile, workers=1, listeners=[stop])
    other = {**profile, "filters": {"plain": [{"technical": {"min_bytes": 10_000}}, {"source_code": {}}]}}
    with pytest.raises(
        Exception, match="no document survived the filters; most frequent reasons: too_short 20"
    ):
        make(tmp_path, other, workers=1)
    folders = [
        path for path in (tmp_path / "store" / "artifacts").iterdir() if path.name.startswith("corpus-")
    ]
    assert len(folders) == 2
    assert make(tmp_path, profile, workers=1).summary["documents"] == 20


def test_a_folder_that_may_not_be_written_is_named(whole, small_disk):
    profile, _ = whole
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StemmaError, match=rf"{small_disk}/store cannot be written \(Read-only file system\)"):
        make(small_disk, profile, workers=1)
