import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from stemma.core.artifact import MANIFEST, Store
from stemma.core.config import Config, execution_field
from stemma.core.errors import DamagedError, LockedError
from stemma.core.lineage import ancestry, mermaid
from stemma.core.progress import BEGIN, FAILED, SEALED, SKIPPED
from stemma.core.stage import Execution, Stage, execute


class WordsConfig(Config):
    words: tuple[str, ...] = ("a", "b")
    workers: int = execution_field(1)


class Words(Stage):
    kind = "words"
    runs = 0

    def run(self, work):
        type(self).runs += 1
        (work.path / "text").mkdir(exist_ok=True)
        (work.path / "text" / "words.txt").write_text("\n".join(self.config.words))
        (work.scratch / "draft").write_text("not sealed")
        return {"words": len(self.config.words)}


class Failing(Words):
    fail = True

    def run(self, work):
        (work.scratch / "half").write_text("kept")
        if type(self).fail:
            raise RuntimeError("broken on purpose")
        assert (work.scratch / "half").read_text() == "kept"
        return {}


@pytest.fixture
def store(tmp_path):
    Words.runs = 0
    return Store(tmp_path)


class Weather(Words):
    sky = "clear"

    def resolve(self, cache, execution, progress):
        self.resolved = {"sky": self.sky}


def test_what_was_found_outside_is_part_of_the_identity(store):
    clear = execute(Weather("words", WordsConfig(), {}), store)
    cloudy = type("Cloudy", (Weather,), {"sky": "grey"})("words", WordsConfig(), {})
    assert execute(cloudy, store).fingerprint != clear.fingerprint
    assert clear.manifest["resolved"] == {"sky": "clear"}


def kinds(events):
    return [event.kind for event in events]


def test_a_stage_runs_once_and_is_verified_afterwards(store):
    events = []
    first = execute(Words("words", WordsConfig(), {}), store, listeners=[events.append])
    again = execute(Words("words", WordsConfig(workers=7), {}), store, listeners=[events.append])
    assert Words.runs == 1
    assert first == again
    assert first.summary == {"words": 2}
    assert first.file("text/words.txt").read_text() == "a\nb"
    assert kinds(events) == [BEGIN, SEALED, SKIPPED]
    assert not (first.path / ".scratch").exists()


def test_config_recipe_and_inputs_are_identity(store):
    base = execute(Words("words", WordsConfig(), {}), store)
    other = Words("words", WordsConfig(words=("c",)), {})
    with_input = Words("words", WordsConfig(), {"source": base})
    recipe = type("Recipe2", (Words,), {"recipe": 2})("words", WordsConfig(), {})
    assert len({base.fingerprint, other.fingerprint, with_input.fingerprint, recipe.fingerprint}) == 4


@pytest.mark.parametrize("damage", ["alter", "truncate", "remove", "add"])
def test_a_damaged_artifact_is_refused_by_name_and_left_alone(store, damage):
    artifact = execute(Words("words", WordsConfig(), {}), store)
    path = artifact.path / "text" / "words.txt"
    if damage == "alter":
        path.write_text("a\nc")
    elif damage == "truncate":
        path.write_text("a")
    elif damage == "remove":
        path.unlink()
    else:
        path = artifact.path / "text" / "more.txt"
        path.write_text("x")
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(DamagedError, match=f"text/{path.name}"):
        execute(Words("words", WordsConfig(), {}), store)
    assert Words.runs == 1
    assert (path.read_bytes() if path.exists() else None) == before


@pytest.mark.parametrize("content", ["{", "{}", '{"schema": 99}'])
def test_a_damaged_manifest_is_refused_by_name(store, content):
    artifact = execute(Words("words", WordsConfig(), {}), store)
    (artifact.path / MANIFEST).write_text(content)
    with pytest.raises(DamagedError, match=r"manifest\.json"):
        execute(Words("words", WordsConfig(), {}), store)
    assert (artifact.path / MANIFEST).read_text() == content


def test_a_symbolic_link_cannot_be_sealed(store, tmp_path):
    class Linking(Words):
        def run(self, work):
            (work.path / "link").symlink_to("/etc/passwd")
            return {}

    with pytest.raises(DamagedError, match="link"):
        execute(Linking("words", WordsConfig(), {}), store)


def test_a_failed_stage_keeps_its_scratch_and_continues(store):
    events = []
    with pytest.raises(RuntimeError, match="on purpose"):
        execute(Failing("words", WordsConfig(), {}), store, listeners=[events.append])
    Failing.fail = False
    try:
        execute(Failing("words", WordsConfig(), {}), store, listeners=[events.append])
    finally:
        Failing.fail = True
    assert kinds(events) == [BEGIN, FAILED, BEGIN, SEALED]
    assert events[2].text == "continuing"


def test_what_a_killed_writer_left_before_its_rename_is_not_sealed(store):
    class Killed(Words):
        def run(self, work):
            (work.path / ".words.json.4711.tmp").write_text("half")
            (work.path / ".index.tmp").mkdir()
            (work.path / ".index.tmp" / "part").write_text("half")
            return super().run(work)

    artifact = execute(Killed("words", WordsConfig(), {}), store)
    assert sorted(artifact.manifest["files"]) == ["stage.json", "text/words.txt"]
    assert not list(artifact.path.rglob("*.tmp"))


def test_a_work_folder_of_another_identity_is_refused(store):
    stage = Failing("words", WordsConfig(), {})
    with pytest.raises(RuntimeError):
        execute(stage, store)
    record = store.folder("words", stage.fingerprint) / "stage.json"
    record.write_text(json.dumps({"fingerprint": "0" * 64}))
    with pytest.raises(DamagedError, match="holds work of"):
        execute(stage, store)


HOLDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from stemma.core.progress import Progress
    from stemma.core.stage import lock
    with lock(Path(sys.argv[1]), 5, Progress("holder")):
        print("held", flush=True)
        time.sleep(60)
    """
)


def test_a_second_process_is_refused_and_a_killed_owner_frees_the_lock(store):
    stage = Words("words", WordsConfig(), {})
    path = store.artifacts / ".locks" / f"{store.folder('words', stage.fingerprint).name}.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(LockedError, match=f"process {holder.pid}"):
            execute(stage, store, Execution(lock_timeout=0.3))
        assert Words.runs == 0
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    execute(stage, store, Execution(lock_timeout=5))
    assert Words.runs == 1


def test_lineage_walks_inputs_first_and_draws_them(store):
    base = execute(Words("base", WordsConfig(), {}), store)
    left = execute(Words("left", WordsConfig(words=("l",)), {"source": base}), store)
    top = execute(Words("top", WordsConfig(), {"a": base, "b": left}), store)
    assert [artifact.name for artifact in ancestry(top, store)] == ["base", "left", "top"]
    drawing = mermaid(top, store)
    assert drawing.count("-->") == 3
    assert "base<br/>" in drawing


def test_artifact_names_cannot_leave_the_store(store):
    with pytest.raises(ValueError, match="artifact name"):
        store.folder("../evil", "0" * 64)
