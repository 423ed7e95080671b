"""The corpus is the same, byte for byte, wherever its ranks ran."""

import shutil
import subprocess

import pytest

from stemma.core.errors import StemmaError
from tests.data_pipeline.corpora import hashes, jsonl, local, make, section, texts


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(profile section, the corpus that the local pool makes of it)."""
    folder = tmp_path_factory.mktemp("executors")
    web = texts(40, seed=41)
    near = web[5].replace(web[5].split()[60], "changed", 1)
    sources = {
        "web": local(jsonl(folder / "web.jsonl", [*web, web[3], near, "tiny"])),
        "stem": local(jsonl(folder / "stem.jsonl", texts(20, seed=42)), domain="stem"),
        "exam": local(jsonl(folder / "exam.jsonl", [web[7], *texts(3, seed=43)]), use="eval"),
    }
    return section(sources), make(folder, section(sources), workers=1)


def test_a_corpus_made_on_ray_is_the_same(whole, tmp_path):
    profile, made = whole
    again = make(tmp_path, {**profile, "executor": {"type": "ray"}})
    assert again.fingerprint == made.fingerprint
    assert hashes(again) == hashes(made)


def slurm_answers() -> bool:
    if shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo"], capture_output=True, check=False, timeout=20).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not slurm_answers(), reason="needs a Slurm cluster: sbatch and a controller")
def test_a_corpus_made_on_slurm_is_the_same(whole, tmp_path):
    profile, made = whole
    slurm = {"type": "slurm", "poll_seconds": 0.5, "memory_per_cpu_mb": 500, "time": "00:05:00"}
    again = make(tmp_path, {**profile, "executor": slurm})
    assert again.fingerprint == made.fingerprint
    assert hashes(again) == hashes(made)


def test_a_run_that_one_executor_began_another_ends(whole, tmp_path):
    profile, made = whole

    def stop(event):
        if event.text.startswith("read "):
            raise StemmaError("stopped")

    with pytest.raises(StemmaError, match="stopped"):
        make(tmp_path, {**profile, "executor": {"type": "ray"}}, listeners=[stop])
    events = []
    again = make(tmp_path, profile, listeners=[events.append])
    assert hashes(again) == hashes(made)
    assert not [event for event in events if event.unit == "shards" and event.text == "read"]
