"""What goes wrong while data is read, labelled and tokenized, and with what lies in the store."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

from tests.data_pipeline.conftest import put, wheel_bytes
from tests.faults.scene import Fault, Scene
from tests.faults.training import KILLED, STEP, kill, kill_run, saved
from tests.micro import NAME, own

WHEEL = "stemma_sample-1.0-py3-none-any.whl"
TEACHER = (
    "quality.min_labels=10",
    "quality.folds=2",
    "quality.resamples=100",
    "quality.endpoint={model: teacher, documents: 24, concurrency: 1, backoff: 0.2, connection_attempts: 3, "
    "base_url: 'http://127.0.0.1:{teacher}/v1'}",
)


def killed_at(name: str, where: str, node: str, point: str, **more: object) -> Fault:
    """SIGKILL of ``stemma run`` at a place."""
    what = "SIGKILL of `stemma run`"
    return Fault(name, what, where, node, KILLED, point, kill_run, **more)  # type: ignore[arg-type]


def flip(path: Path, at: int) -> None:
    """Change a byte, and neither size nor time."""
    times = path.stat()
    content = bytearray(own(path).read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


# --- the teacher ---


def start_teacher(scene: Scene) -> None:
    scene.teacher.start()


def teacher_leaves(scene: Scene) -> None:
    scene.teacher.stop()


def teacher_comes_back(scene: Scene) -> None:
    scene.teacher.start()


def teacher_blinks(scene: Scene) -> None:
    """Gone for less than the client's patience."""
    scene.teacher.stop()
    threading.Timer(0.3, scene.teacher.start).start()


# --- a registry ---


def no_registry(scene: Scene) -> None:
    folder = scene.folder / "index"
    text = "\n\n".join(f"Paragraph {at} tells what the function of number {at} returns." for at in range(20))
    made = wheel_bytes("stemma_sample", "1.0", {"stemma_sample/a.txt": text.encode()})
    scene.values["wheel"] = put(folder / WHEEL, made)
    scene.environment |= {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": os.devnull,
    }
    folder.rename(scene.folder / "elsewhere")


def registry_is_back(scene: Scene) -> None:
    (scene.folder / "elsewhere").rename(scene.folder / "index")


# --- the store ---


def shards(scene: Scene) -> Path:
    return next((scene.artifact("tokens").path / "train").glob("*.bin"))


def edit_tokens(scene: Scene) -> None:
    flip(shards(scene), 100)


def delete_tokens(scene: Scene) -> None:
    shards(scene).unlink()


def make_tokens_anew(scene: Scene) -> None:
    shutil.rmtree(scene.artifact("tokens").path)


def tear_record(scene: Scene) -> None:
    path = scene.root / NAME / "run.json"
    path.write_bytes(path.read_bytes()[:200])


def delete_record(scene: Scene) -> None:
    (scene.root / NAME / "run.json").unlink()


def leave_locks(scene: Scene) -> None:
    """As a crashed machine leaves them: with the number of a process that is another one now."""
    locks = scene.root / "artifacts" / ".locks"
    locks.mkdir()
    for folder in (scene.root / "artifacts").glob("*-*"):
        (locks / f"{folder.name}.lock").write_text("1")


def move(scene: Scene) -> None:
    scene.root = scene.root.rename(scene.root.with_name("moved"))


def truncate_checkpoint(scene: Scene) -> None:
    path = max((scene.checkpoints()[-1] / "state").glob("*.distcp"))
    os.truncate(path, path.stat().st_size // 2)


def alter_checkpoint(scene: Scene) -> None:
    path = max((scene.checkpoints()[-1] / "state").glob("*.distcp"))
    flip(path, path.stat().st_size // 2)


def tear_receipts(scene: Scene) -> None:
    with open(scene.work / "receipts.jsonl", "a") as handle:
        handle.write('{"step":7,"batch_sha')


def alter_receipts(scene: Scene) -> None:
    """Before the checkpoint: no run goes on from records that are not its own."""
    flip(scene.work / "receipts.jsonl", 5)
    scene.attempt(3, "receipts.jsonl: its first .* are not those recorded in the checkpoint")
    shutil.rmtree(scene.work)


def make_read_only(scene: Scene) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(scene.root)], check=True)


def make_writable(scene: Scene) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(scene.root)], check=True)


def start_another(scene: Scene) -> None:
    """The same command, while the first is in a step; it has to wait or to say why it does not."""
    other = scene.start()
    scene.others.append(other)
    scene.wait(lambda: other.poll() is not None or "waiting" in scene.said_by(other))
    assert scene.held.is_running()


FAULTS = [
    killed_at(
        "killed_while_the_corpus_is_read",
        "sources are read, nothing is filtered",
        "corpus",
        "data_pipeline.corpus.stage:CorpusStage._filter",
    ),
    killed_at(
        "killed_before_the_corpus_is_written",
        "documents are deduplicated, not written",
        "corpus",
        "data_pipeline.corpus.stage:CorpusStage._write",
    ),
    Fault(
        name="datatrove_worker_killed",
        what="SIGKILL of a datatrove worker",
        where="filtering the corpus",
        node="corpus",
        code=5,
        point="data_pipeline.cleaning.chain:Decide.run",
        do=kill,
        says="killed",
        holds="noticed at once, where datatrove alone would wait for ever",
        quick=True,
    ),
    Fault(
        name="tokens_worker_killed",
        what="SIGKILL of a worker process",
        where="tokenizing the corpus",
        node="tokens",
        code=5,
        point="data_pipeline.tokens.encode:encode_batch",
        do=kill,
        says="killed",
    ),
    killed_at(
        "killed_while_tokens_are_written",
        "documents are encoded, shards are not written",
        "tokens",
        "data_pipeline.tokens.stage:TokensStage._write",
    ),
    killed_at(
        "killed_while_the_tokenizer_learns",
        "entries are learned, the report is not written",
        "tokenizer",
        "tokenizer.stage:TokenizerStage._report",
    ),
    Fault(
        name="trajectories_worker_killed",
        what="SIGKILL of a worker process",
        where="synthesising trajectories",
        node="trajectories",
        code=5,
        point="midtrain.trajectories:make_chunk",
        do=kill,
        says="killed",
    ),
    killed_at(
        "killed_while_trajectories_are_written",
        "all chunks are made, their file is not written",
        "trajectories",
        "midtrain.trajectories:TrajectoriesStage._write",
    ),
    killed_at(
        "killed_while_planning",
        "about to plan a mix",
        "plan.stem",
        "data_pipeline.curriculum.stage:PlanStage.run",
    ),
    Fault(
        name="teacher_gone",
        what="the endpoint of the teacher does not answer any more",
        where="labelling documents",
        node="quality",
        code=5,
        point="data_pipeline.quality.endpoint:Endpoint.label#9",
        before=start_teacher,
        do=teacher_leaves,
        says="did not answer in 3 tries.*Labels it has given are kept",
        mend=teacher_comes_back,
        then_says="8 known before",
        holds="no question is asked twice",
        overrides=TEACHER,
        own=True,
    ),
    Fault(
        name="teacher_gone_for_a_moment",
        what="the endpoint of the teacher is gone and comes back",
        where="labelling documents",
        node="quality",
        code=0,
        point="data_pipeline.quality.endpoint:Endpoint.label#9",
        before=start_teacher,
        do=teacher_blinks,
        overrides=TEACHER,
        own=True,
    ),
    Fault(
        name="registry_gone",
        what="the registry's client finds nothing",
        where="fetching a source",
        node="corpus",
        code=0,
        before=no_registry,
        says="source sample is left out",
        mend=registry_is_back,
        again=True,
        then_says="made anew, because",
        holds="made without the source it is another artifact; the full one follows when it is in reach",
        overrides=(
            "execution.offline=false",
            "data.sources.sample={type: package, package: stemma-sample, version: '1.0', "
            f"archive: {WHEEL}, sha256: {{wheel}}, members: ['stemma_sample/*.txt'], format: text, "
            "domain: code, licence: MIT, filters: technical}",
        ),
        own=True,
    ),
    Fault(
        name="sealed_artifact_edited",
        what="a byte of a sealed artifact is changed",
        where="the tokens a training reads",
        node="commonsense",
        code=3,
        before=edit_tokens,
        says="does not match its manifest.*SHA-256 is not the sealed one.*delete that folder",
        mend=make_tokens_anew,
        holds="refused before anything reads it",
        quick=True,
    ),
    Fault(
        name="tokens_deleted",
        what="a file of a sealed artifact is deleted",
        where="the tokens a training reads",
        node="commonsense",
        code=3,
        before=delete_tokens,
        says="missing",
        mend=make_tokens_anew,
    ),
    Fault(
        name="run_record_torn",
        what="run.json is not readable",
        where="before a run",
        node="commonsense",
        code=3,
        before=tear_record,
        says="run.json is not readable JSON.*Delete it and run again",
        mend=delete_record,
        holds="artifacts are found by their fingerprints without it",
    ),
    Fault(
        name="stale_locks",
        what="lock files of processes that are gone",
        where="before a run",
        node="commonsense",
        code=0,
        before=leave_locks,
        holds="the kernel holds locks, not files",
    ),
    Fault(
        name="run_folder_moved",
        what="the folder of runs is moved after a SIGKILL",
        where="in a step",
        node="commonsense",
        code=KILLED,
        point=STEP,
        do=saved(kill_run),
        mend=move,
        then_says="continuing commonsense from step 4",
    ),
    Fault(
        name="checkpoint_truncated",
        what="a checkpoint is half as long after a SIGKILL",
        where="the last one of two",
        node="commonsense",
        code=KILLED,
        point="pretrain.loop:_Run._step#11",
        do=saved(kill_run, 8),
        mend=truncate_checkpoint,
        then_says=r"a damaged checkpoint is passed over.*continuing commonsense from step 4",
    ),
    Fault(
        name="checkpoint_altered",
        what="a byte of a checkpoint is changed after a SIGKILL",
        where="the only one",
        node="commonsense",
        code=KILLED,
        point=STEP,
        do=saved(kill_run),
        mend=alter_checkpoint,
        then_says="a damaged checkpoint is passed over.*it starts from its beginning",
    ),
    Fault(
        name="receipts_torn",
        what="half a line of receipts after a SIGKILL",
        where="behind the last checkpoint",
        node="commonsense",
        code=KILLED,
        point=STEP,
        do=saved(kill_run),
        mend=tear_receipts,
        then_says="continuing commonsense from step 4",
    ),
    Fault(
        name="receipts_altered",
        what="a byte of the receipts is changed after a SIGKILL",
        where="before the last checkpoint",
        node="commonsense",
        code=KILLED,
        point=STEP,
        do=saved(kill_run),
        mend=alter_receipts,
        holds="refused, until somebody deletes the stage's folder",
    ),
    Fault(
        name="read_only",
        what="the folder of runs cannot be written",
        where="before a stage begins",
        node="commonsense",
        code=1,
        before=make_read_only,
        says="cannot be written|not writable|Read-only",
        mend=make_writable,
        disk=64,
    ),
    Fault(
        name="two_runs_at_once",
        what="the same command a second time",
        where="in a step of the first",
        node="commonsense",
        code=0,
        point=STEP,
        do=start_another,
        holds="the second waits; never both work",
        quick=True,
    ),
]
