"""Branching: what a run takes from another, under which name, and what is said where that cannot be."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from pretrain.checkpoint.chain import CHECKPOINTS
from pretrain.checkpoint.folder import entries_of, seal, step_folder
from stemma.branch import default_name, joined_on, load_branch, parse_start, part
from stemma.cli import app
from stemma.core.artifact import Store
from stemma.core.config import identity
from stemma.core.errors import LockedError, StemmaError
from stemma.core.files import read_json, write_atomic, write_json
from stemma.core.progress import Progress
from stemma.core.stage import Stage, Workspace, execute, holder, lock, lock_path
from stemma.nodes import nodes
from stemma.pipeline import Run, begin, open_run
from stemma.profile import TRAINING_STAGES, load_profile
from stemma.runs import run_lock
from stemma.standing import standing
from tests.micro import PROFILE, surroundings

MICRO, TRAINED = str(PROFILE), (*TRAINING_STAGES, "sft", "rl")
STEPS = 6


class Pretended(Stage):
    """Seals at once; a training stage leaves receipts, a milestone and its last checkpoint."""

    kind = "pretended"

    def run(self, work: Workspace) -> dict[str, Any]:
        if self.name in TRAINED:
            write_atomic(work.path / "receipts.jsonl", "".join(f'{{"step":{at}}}\n' for at in range(STEPS)))
            write_atomic(work.path / CHECKPOINTS, "")
            for step, folder in (
                (4, step_folder(work.path / "milestones", 4)),
                (STEPS, work.path / "checkpoint"),
            ):
                checkpoint(folder, step)
        return {}


def checkpoint(folder: Path, step: int, decided_by: int = 0) -> None:
    logs = {"receipts": {"bytes": 11 * step, "sha256": f"{step:064x}"}}
    write_json(folder / "extra.json", {"extra": {"step": step, "logs": logs, "decided_by": decided_by}})
    write_json(folder / "record.json", {"step": step, "state_sha256": f"state-{step}", "previous": ""})
    seal(folder, entries_of(folder, folder.glob("*.json")))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A run ``micro`` that pretends to have made every node."""
    return pretend(Store(tmp_path_factory.mktemp("pretended")), "micro")


def pretend(store: Store, name: str, upto: str = "export", *overrides: str) -> Store:
    run = Run(load_profile(MICRO, overrides), store, name)
    for node in run.order(upto):
        wanted = run.nodes[node]
        inputs = {role: run.artifacts[source] for role, source in wanted.inputs.items()}
        stage = Pretended(node, wanted.config(run.profile), inputs)
        run.artifacts[node] = execute(stage, store)
        made_from = {role: str(artifact) for role, artifact in inputs.items()}
        entry = {"fingerprint": stage.fingerprint, "sealed": True, "reason": ""}
        entry["identity"] = {**stage.identity(), "inputs": made_from}
        run._remember(node, entry)
    return store


# --- what is taken ---------------------------------------------------------------------------------------


def test_all_that_is_not_made_from_the_stage_is_taken_as_it_is(made: Store) -> None:
    artifacts, everything = open_run(made, "micro"), {node.name for node in nodes()}
    branch = part(made, "micro", "stem")
    again = {"plan.stem", "plan.general", "plan.agentic", "stem", "general", "agentic", "sft", "rl", "export"}
    again |= {f"eval.{stage}" for stage in TRAINED if stage != "commonsense"}
    assert set(branch.taken) == everything - again
    assert all(artifacts[name].fingerprint == found for name, found in branch.taken.items())
    assert (branch.step, branch.point, branch.start) == (None, None, "stem")
    # a leaf takes all but itself and what quotes it; a root takes what does not come from it
    assert set(part(made, "micro", "eval.stem").taken) == everything - {"eval.stem", "export"}
    assert set(part(made, "micro", "corpus").taken) == {"trajectories"}


def test_a_step_adds_the_checkpoint_as_an_artifact_that_both_plan_and_stage_are_made_from(
    made: Store,
) -> None:
    branch, whole = part(made, "micro", "stem@4"), part(made, "micro", "stem")
    assert branch.taken == whole.taken
    assert branch.point is not None
    stem = open_run(made, "micro")["stem"]
    assert branch.point["trained_by"] == stem.fingerprint
    assert (branch.point["state_sha256"], branch.point["receipts_sha256"]) == ("state-4", f"{4:064x}")
    grown = {node.name: node for node in branch.nodes(imported=False)}
    assert next(iter(grown)) == "branch.stem"
    assert grown["plan.stem"].inputs["branch"] == grown["stem"].inputs["branch"] == "branch.stem"
    assert "branch" not in grown["general"].inputs
    last = part(made, "micro", f"stem@{STEPS}")
    assert last.point is not None
    assert last.point["state_sha256"] == f"state-{STEPS}"
    sft = part(made, "micro", "sft@4")
    assert {node.name for node in sft.nodes(False) if "branch" in node.inputs} == {"sft"}


@pytest.mark.parametrize(
    ("run", "start", "said"),
    [
        ("micro", "stam", "there is no stage 'stam'; stages are: corpus, quality"),
        ("micro", "stem@five", "after the @ comes a step, as in stem@120"),
        ("micro", "tokens@3", "tokens has no steps; stages that train are: commonsense, stem, general"),
        ("micro", "stem@5", r"no checkpoint of stem at step 5; it keeps: 4 \(milestone\), 6 \(last\)"),
        ("micro", "sft@5", "--set sft.training.keep_every=N"),
        ("none", "stem", "there is no run 'none' in .*; runs are: .*micro"),
    ],
)
def test_what_is_not_there_is_said_with_what_there_is(made: Store, run: str, start: str, said: str) -> None:
    with pytest.raises(StemmaError, match=said):
        part(made, run, start)


def test_a_run_that_has_not_come_so_far_says_what_is_missing(tmp_path: Path) -> None:
    store = pretend(Store(tmp_path), "micro", "commonsense")
    with pytest.raises(StemmaError, match="has not made stem yet, which general is made from"):
        part(store, "micro", "general")
    assert part(store, "micro", "stem").taken.keys() >= {"commonsense", "plan.commonsense"}


def test_a_step_that_a_later_one_left_out_is_refused(tmp_path: Path) -> None:
    store = pretend(Store(tmp_path), "micro", "commonsense")
    folder = open_run(store, "micro")["commonsense"].path / "milestones"
    checkpoint(step_folder(folder, 5), 5, decided_by=6)
    with pytest.raises(StemmaError, match="among steps that run 'micro' left out because of a later one"):
        part(store, "micro", "commonsense@5")


# --- the run -----------------------------------------------------------------------------------------------


def test_asking_again_means_the_same_run_and_another_profile_another(made: Store) -> None:
    first = begin(MICRO, root=made.root, start_from="sft")
    again = begin(MICRO, root=made.root, start_from="sft", from_run="micro")
    other = begin(MICRO, ["sft.steps=5"], made.root, start_from="sft")
    how = begin(MICRO, ["execution.workers=1"], made.root, start_from="sft")
    assert first.name == again.name == how.name != other.name
    assert first.name.startswith("micro-sft-")
    assert first.branch == load_branch(first.folder) == again.branch
    assert default_name("micro", "stem@4", first.profile).startswith("micro-stem-4-")
    assert begin(MICRO, root=made.root, start_from=" stem@04").name.startswith("micro-stem-4-")
    assert begin(MICRO, root=made.root, start_from=" stem@04").branch == part(made, "micro", "stem@4")
    # without start_from, the name alone goes on with it
    assert begin(MICRO, root=made.root, name=first.name).branch == first.branch


def test_what_was_taken_stays_though_the_other_run_goes_on(tmp_path: Path) -> None:
    store = pretend(Store(tmp_path), "micro", "commonsense")
    before = begin(MICRO, root=tmp_path, name="kept", start_from="stem").branch
    pretend(store, "micro", "commonsense", "training.commonsense.seed=7")
    after = begin(MICRO, root=tmp_path, name="kept", start_from="stem").branch
    assert before == after
    assert part(store, "micro", "stem").taken != after.taken  # type: ignore[union-attr]
    shutil.rmtree(store.root / "micro")
    assert begin(MICRO, root=tmp_path, name="kept", start_from="stem").branch == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"name": "micro", "start_from": "sft"},
            "run 'micro' is there and is no such branch; give another name",
        ),
        (
            {"name": "kept", "start_from": "rl"},
            "run 'kept' is there and was branched from sft of run 'micro'; give another",
        ),
        ({"from_run": "micro"}, "say where with start_from"),
        ({"from_run": "../micro", "start_from": "sft"}, "cannot be the name of a run"),
        ({"name": "../out"}, "cannot be the name of a run"),
        ({"name": "artifacts"}, "cannot be the name of a run"),
    ],
)
def test_a_name_that_cannot_be_is_refused(made: Store, given: dict[str, str], said: str) -> None:
    with begin(MICRO, root=made.root, name="kept", start_from="sft").held():
        pass
    with pytest.raises(StemmaError, match=said):
        begin(MICRO, root=made.root, **given)  # type: ignore[arg-type]


def test_a_branch_that_nobody_has_begun_may_become_another(made: Store) -> None:
    first = begin(MICRO, root=made.root, name="changed", start_from="sft")
    second = begin(MICRO, root=made.root, name="changed", start_from="rl")
    assert second.branch == part(made, "micro", "rl")
    with pytest.raises(StemmaError, match="'changed' was made another branch"), first.held():
        pass
    with second.held():
        pass


@pytest.mark.parametrize(
    ("start", "asked", "said"),
    [
        ("stem", ("commonsense", ""), "commonsense would not be made, but taken from run 'micro'"),
        (
            "stem@4",
            ("", "tokenizer"),
            "tokenizer would not be made, .* parts from it at stem@4. Stop there or later",
        ),
    ],
)
def test_a_branch_that_ends_before_it_parts_is_refused(
    made: Store, start: str, asked: tuple[str, str], said: str
) -> None:
    run = begin(MICRO, root=made.root, start_from=start)
    with pytest.raises(StemmaError, match=said):
        run.order(*asked)
    assert "plan.stem" in run.order(group="data")  # of what is made again


def test_what_is_taken_is_verified_recorded_and_told_where_the_profile_has_it_otherwise(made: Store) -> None:
    events: list[Any] = []
    run = begin(MICRO, ["data.sources.python_code.max_bytes=500"], made.root, "taken", "tokenizer")
    run.listeners.append(events.append)
    with run.held():
        assert run.make("corpus") == open_run(made, "micro")["corpus"]
    (said,) = [event.text for event in events if event.kind == "say"]
    assert said.startswith("kept as it is, though now asked for otherwise: sources.python_code.max_bytes: ")
    assert list(open_run(made, "taken")) == ["corpus"]
    run.branch.taken["corpus"] = "0" * 64  # type: ignore[union-attr]
    write_json(run.folder / "branch.json", vars(run.branch))
    with pytest.raises(StemmaError, match=r"begins with what run 'micro' has made, but .* is gone"):
        Run(load_profile(MICRO), made, "taken")


def test_edits_of_the_mix_go_with_the_branch(tmp_path: Path) -> None:
    store = pretend(Store(tmp_path), "micro", "commonsense")
    edits = {"stem": [{"at_step": 3, "phases": [{"name": "rest", "tokens": 2048, "sequence_length": 64}]}]}
    edits["stem"][0]["phases"][0]["weights"] = {"code": 1.0}  # type: ignore[index]
    write_atomic(store.root / "micro" / "edits.yaml", json.dumps(edits))
    run = begin(MICRO, root=tmp_path, start_from="stem")
    assert [edit.at_step for edit in run.profile.curriculum.stem.edits] == [3]


def test_rates_go_on_from_the_stage_taken_not_from_the_profiles() -> None:
    profile = load_profile(MICRO)
    assert profile.training.stem.schedule.peak == profile.training.commonsense.schedule.final_lr == 3e-3
    config = identity(profile.training_stage("commonsense"))
    config["training"]["schedule"]["peak_lr"] = 2.5e-3
    taken = {"commonsense": SimpleNamespace(manifest={"config": config})}
    joined = joined_on(profile, taken)  # type: ignore[arg-type]
    assert joined.training.stem.schedule.peak == 2.5e-3
    assert (
        joined.training.general.schedule.peak == 2.5e-3
    )  # stem stays at its peak, and general goes on from it
    assert joined.training.agentic == profile.training.agentic  # general ends where the profile says
    assert joined.sft == profile.sft
    assert joined_on(profile, {}) == profile
    config["training"]["schedule"]["peak_lr"] = 1e-3  # general falls to 2e-3
    with pytest.raises(StemmaError, match=r"ended with: 0\.001\. Its schedule\.end_lr is 0\.002, above that"):
        joined_on(profile, taken)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found"), [("stem", ("stem", None)), ("sft@12", ("sft", 12)), ("plan.stem", ("plan.stem", None))]
)
def test_starts_are_read(text: str, found: tuple[str, int | None]) -> None:
    assert parse_start(text) == found


# --- one process at a time --------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from stemma.pipeline import begin
profile, timeout, root = sys.argv[1:]
run = begin(profile, [f"execution.lock_timeout={timeout}"], Path(root), "one")
with run.held(lambda event: print(event.text, flush=True)):
    print("held", flush=True)
    sys.stdin.readline()
"""


def hold(root: Path, timeout: float) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, MICRO, str(timeout), str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings(),
    )


def test_the_second_of_two_waits_says_so_and_goes_on_when_the_first_is_killed(tmp_path: Path) -> None:
    first = hold(tmp_path, 60)
    assert first.stdout is not None
    assert first.stdout.readline() == "held\n"
    second = hold(tmp_path, 60)
    assert second.stdout is not None
    assert second.stdout.readline() == f"waiting: process {first.pid} is making run one\n"
    assert standing(Store(tmp_path), "one").text == f"running (process {first.pid})"
    impatient = hold(tmp_path, 0)
    _, error = impatient.communicate(timeout=60)
    assert f"run one is being made by process {first.pid}; waited 0 s" in error
    assert "LockedError" in error
    first.kill()
    first.communicate()
    assert second.stdout.readline() == "held\n"
    second.communicate("\n", timeout=60)
    assert second.returncode == 0
    assert standing(Store(tmp_path), "one").process == ""


def test_who_waited_goes_on_from_what_the_first_has_written(tmp_path: Path) -> None:
    run = Run(load_profile(MICRO), Store(tmp_path), "one")
    assert run.record["nodes"] == {}
    pretend(Store(tmp_path), "one", "corpus")
    with run.held():
        assert list(run.record["nodes"]) == ["corpus"]
        with (
            pytest.raises(LockedError),
            Run(load_profile(MICRO, ["execution.lock_timeout=0"]), Store(tmp_path), "one").held(),
        ):
            pass


def test_who_looks_who_holds_a_lock_keeps_nobody_off(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    path.touch()
    with open(path) as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with lock(path, 0.0, Progress("one")):
            assert holder(path) == str(os.getpid())
    assert holder(path) == ""


# --- stemma runs -----------------------------------------------------------------------------------------


def test_runs_are_listed_with_where_they_stand_and_how_to_go_on(tmp_path: Path) -> None:
    runner = CliRunner()
    assert "There are no runs here yet" in runner.invoke(app, ["runs", "--root", str(tmp_path)]).output
    store = pretend(Store(tmp_path), "micro", "commonsense")
    run = begin(MICRO, ["training.stem.seed=3"], tmp_path, "mine", "stem")
    with run.held():
        for node in ("corpus", "trajectories", "quality"):
            run.make(node)
    output = runner.invoke(app, ["runs", "--root", str(tmp_path)]).output
    assert "stopped after commonsense" in output
    assert "stem of micro" in output
    assert (
        f"--profile {PROFILE.absolute()} --set training.stem.seed=3 --root {tmp_path} --name mine" in output
    )
    # begun and interrupted: how far, and from where it goes on
    stem = Pretended("stem", run.nodes["stem"].config(run.profile), open_run(store, "micro"))
    folder = store.folder("stem", stem.fingerprint)
    for step in (2, 4):
        checkpoint(step_folder(folder / ".scratch" / "checkpoint", step), step)
    write_atomic(folder / "receipts.jsonl", '{"step":0}\n' * 5 + '{"st')
    write_json(folder / "stage.json", {"fingerprint": stem.fingerprint})
    record = read_json(store.root / "micro" / "run.json")
    made_from = {role: str(artifact) for role, artifact in stem.inputs.items()}
    entry = {"fingerprint": stem.fingerprint, "identity": {**stem.identity(), "inputs": made_from}}
    record["nodes"]["stem"] = entry | {"sealed": False, "reason": ""}
    write_json(store.root / "micro" / "run.json", record)
    assert standing(store, "micro").text == "stopped in stem at step 5 (goes on from 4)"
    point = part(store, "micro", "stem@2").point  # of a stage that is not finished
    assert point is not None
    assert (point["folder"], point["state_sha256"]) == (folder.name, "state-2")
    one = runner.invoke(app, ["runs", "micro", "--root", str(tmp_path)]).output
    assert "2, 4" in one
    assert "--from-run micro --start-from stem@4" in one
    with open(run_lock_made(store, "micro"), "a+") as held, open(lock_path(folder), "a+") as making:
        for handle in (held, making):
            handle.write("77")
            handle.flush()
            fcntl.flock(handle, fcntl.LOCK_EX)
        assert standing(store, "micro").text == "running (process 77): stem at step 5"
    with begin(MICRO, root=tmp_path, name="mine").held():  # another time under a profile of that name
        pass
    assert standing(store, "mine").named
    write_json(store.root / "odd" / "run.json", {"nodes": {}})
    listed = runner.invoke(app, ["runs", "--root", str(tmp_path)]).output
    assert "is no record of a run" in " ".join(listed.split())
    (store.root / "mine" / "run.json").write_text('{"nodes": ')
    listed = runner.invoke(app, ["runs", "--root", str(tmp_path)]).output
    assert "stem at step 5" in listed
    assert "is not readable JSON" in " ".join(listed.split())
    assert "there is no run 'nope'" in str(
        runner.invoke(app, ["runs", "nope", "--root", str(tmp_path)]).exception
    )


def run_lock_made(store: Store, name: str) -> Path:
    path = run_lock(store, name)
    path.parent.mkdir(exist_ok=True)
    return path


def test_an_artifact_of_a_branch_says_what_it_was_branched_from(made: Store) -> None:
    """The identity holds stage, step and state: another checkpoint is another artifact."""
    from pretrain.branch import BranchStage
    from pretrain.config import BranchConfig

    def fingerprint(**changes: Any) -> str:
        point = part(made, "micro", "stem@4").point
        assert point is not None
        return BranchStage("branch.stem", BranchConfig.model_validate(point | changes), {}).fingerprint

    assert fingerprint() == fingerprint(run="other", folder="stem-000000000000")
    changed = [
        fingerprint(**{key: "x"}) for key in ("stage", "trained_by", "state_sha256", "receipts_sha256")
    ]
    assert len({fingerprint(), fingerprint(step=5), *changed}) == 6
