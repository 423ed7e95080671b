"""Editing a run's mix: what is proposed, what is kept with the run, and what a run makes of it."""

import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from data_pipeline.config import PlanEdit
from data_pipeline.curriculum.plan import Plan
from stemma.branch import Branch, save_branch
from stemma.cli import app
from stemma.core.artifact import Store
from stemma.core.errors import ProfileError, StemmaError
from stemma.core.files import read_json, write_json
from stemma.edits import EDITS_FILE, fold, load_edits, propose, read_edit, save_edit, with_edits
from stemma.pipeline import Run, open_run
from stemma.profile import load_profile
from tests.data_pipeline.test_inspect import make_run
from tests.data_pipeline.test_inspect_run import record_run


def edit(at_step: int, name: str = "rest", tokens: int = 1_280, length: int = 64) -> PlanEdit:
    phase = {"name": name, "tokens": tokens, "sequence_length": length, "weights": {"sums": 1.0}}
    return PlanEdit.model_validate({"at_step": at_step, "phases": [phase]})


def write_edit(path: Path, **phase: object) -> Path:
    fields = {"name": "rest", "tokens": 1_280, "sequence_length": 64, "weights": {"sums": 1.0}}
    path.write_text(yaml.safe_dump({"phases": [fields | phase]}))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("made"))
    record_run(store, make_run(store))
    return store


@pytest.fixture
def store(made: Store, tmp_path: Path) -> Store:
    """A run ``demo``: ``commonsense`` is trained, ``stem`` has trained 8 steps and kept a checkpoint at 6."""
    shutil.copytree(made.root, tmp_path / "runs")
    return Store(tmp_path / "runs")


def test_an_edit_is_planned_beside_the_run(store: Store) -> None:
    before = sorted(path for path in store.root.rglob("*") if path.is_file())
    found = propose(store, "demo", "", edit(7))
    assert (found.stage, found.trained, found.resume, found.sealed) == ("stem", 8, 6, False)
    assert found.schedule_ends is None
    assert [mix.stage for mix in found.after] == ["stem"]
    old, new = found.before[0], found.after[0]
    assert old.phases[0]["name"] == new.phases[0]["name"] == "p0"
    assert (new.phases[0]["steps"], new.phases[0]["ended_early"]) == (7, True)
    assert new.phases[1]["sources"] == {"sums": 1_280}
    assert before == sorted(path for path in store.root.rglob("*") if path.is_file())


def test_an_edit_is_proposed_on_top_of_those_the_run_was_not_planned_with_yet(store: Store) -> None:
    save_edit(store.root / "demo", "stem", edit(3, "first", tokens=2_560))
    found = propose(store, "demo", "stem", edit(9, "second"))
    shown = [[(p["name"], p["steps"]) for p in mixes[0].phases] for mixes in (found.before, found.after)]
    assert shown == [[("p0", 3), ("first", 10)], [("p0", 3), ("first", 6), ("second", 5)]]
    assert (found.trained, found.resume, found.replaced) == (8, 0, ())  # its checkpoint is of step 6
    with pytest.raises(StemmaError, match="give one from 1 to 13"):
        propose(store, "demo", "stem", edit(14, "second"))
    replacing = propose(store, "demo", "stem", edit(3, "second"))
    assert [entry.at_step for entry in replacing.replaced] == [3]
    save_edit(store.root / "demo", "commonsense", edit(10, tokens=640, length=32))
    later = propose(store, "demo", "stem", edit(9, "second"))
    assert later.before[0].rows != found.before[0].rows  # other parts of the sources are left


def test_an_edit_before_the_step_a_run_was_branched_at_is_refused(store: Store) -> None:
    save_branch(store.root / "demo", Branch("other", "stem", 6, {"commonsense": "0" * 64}))
    with pytest.raises(StemmaError, match=r"goes on from step 6 of run 'other', .* changed from step 6 on"):
        propose(store, "demo", "stem", edit(5))
    assert propose(store, "demo", "", edit(7)).resume == 6
    with pytest.raises(StemmaError, match=r"has commonsense from run 'other', as it is: .* from stem@6 on"):
        propose(store, "demo", "commonsense", edit(5))
    # though the branch has not come to what it takes yet
    record = read_json(store.root / "demo" / "run.json")
    del record["nodes"]["commonsense"]
    write_json(store.root / "demo" / "run.json", record)
    assert propose(store, "demo", "", edit(7)).stage == "stem"


def test_a_stage_that_is_edited_changes_the_plans_after_it(store: Store) -> None:
    found = propose(store, "demo", "commonsense", edit(10, tokens=640, length=32))
    assert [mix.stage for mix in found.after] == ["commonsense", "stem"]
    assert found.sealed
    assert found.resume == 0
    assert found.after[1].rows != found.before[1].rows
    assert found.after[1].tokens == found.before[1].tokens


@pytest.mark.parametrize(
    ("stage", "at_step", "change", "message"),
    [
        ("moon", 5, {}, "which stage\\? 'moon' is not planned; planned stages: commonsense, stem"),
        ("stem", 5_000, {}, "give one from 1 to"),
        ("stem", 5, {"weights": {"moon": 1.0}}, "weights names 'moon'"),
        ("stem", 5, {"sequence_length": 128, "tokens": 128}, "above the model's max_position_embeddings, 64"),
        ("stem", 5, {"sequence_length": 24, "tokens": 2_400}, "does not divide"),
        ("stem", 5, {"tokens": 64_000_000}, "asks for more than"),
        ("stem", 5, {"name": "p0"}, "is there already"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(
    store: Store, tmp_path: Path, stage: str, at_step: int, change: dict[str, object], message: str
) -> None:
    path = write_edit(tmp_path / "edit.yaml", **change)
    with pytest.raises(StemmaError, match=message):
        propose(store, "demo", stage, read_edit(path, at_step))
    assert not (store.root / "demo" / EDITS_FILE).exists()


def test_a_file_that_is_no_edit_is_refused_with_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "edit.yaml"
    path.write_text("phases: [{name: A, tokens: 0, weights: {}}]\nmax_epoch: 3\n")
    with pytest.raises(ProfileError) as error:
        read_edit(path, 3)
    fields = ("name", "tokens", "sequence_length", "weights")
    for field in (*(f"phases.0.{name}" for name in fields), "max_epoch"):
        assert field in str(error.value)
    with pytest.raises(ProfileError, match="not readable"):
        read_edit(tmp_path / "nothing.yaml", 3)


@given(st.lists(st.integers(1, 20), max_size=12))
def test_an_edit_replaces_all_that_comes_after_it(steps: list[int]) -> None:
    edits: tuple[PlanEdit, ...] = ()
    for number, step in enumerate(steps):
        edits = fold(edits, edit(step, f"e{number}"))
        assert edits[-1].phases[0].name == f"e{number}"
    kept = [entry.at_step for entry in edits]
    assert kept == sorted(set(kept))


def test_edits_live_in_the_runs_folder_and_every_run_applies_them(tmp_path: Path) -> None:
    profile, store = load_profile("nano"), Store(tmp_path)
    assert Run(profile, store).profile == profile
    changed = edit(40, tokens=65_536, length=256)
    changed = changed.model_copy(
        update={"phases": (changed.phases[0].model_copy(update={"weights": {"code": 1.0}}),)}
    )
    path = save_edit(tmp_path / "nano", "stem", changed)
    assert "mix edit" in path.read_text()
    assert load_edits(tmp_path / "nano") == {"stem": (changed,)}
    run = Run(profile, store)
    assert run.profile.plan_stage("stem").edits == (changed,)
    assert run.profile.curriculum.general == profile.curriculum.general
    assert run.profile.model_copy(update={"curriculum": profile.curriculum}) == profile

    save_edit(tmp_path / "nano", "stem", changed.model_copy(update={"at_step": 20}))
    assert [entry.at_step for entry in Run(profile, store).profile.plan_stage("stem").edits] == [20]


def test_edits_that_no_longer_fit_the_profile_are_refused_by_their_file(tmp_path: Path) -> None:
    profile = load_profile("nano")
    too_long = edit(40, tokens=65_536, length=2_048)
    with pytest.raises(ProfileError, match="max_position_embeddings"):
        with_edits(profile, {"stem": (too_long,)}, "edits.yaml")
    with pytest.raises(ProfileError, match="moon: no such stage"):
        with_edits(profile, {"moon": (too_long,)}, "edits.yaml")
    for left in ("# nothing but the comment is left\n", "stem:\n"):
        (tmp_path / EDITS_FILE).write_text(left)
        assert load_edits(tmp_path) == {}
    (tmp_path / EDITS_FILE).write_text("stem: [{at_step: 0, phases: []}]\n")
    with pytest.raises(ProfileError, match=r"stem\.0\.at_step"):
        load_edits(tmp_path)


def test_the_command_shows_asks_and_keeps(store: Store, tmp_path: Path) -> None:
    path = str(write_edit(tmp_path / "edit.yaml"))
    kept = store.root / "demo" / EDITS_FILE

    def said(*arguments: str, answer: str = "") -> tuple[int, str]:
        command = ["mix", "edit", "demo", path, "--root", str(store.root), *arguments]
        result = CliRunner().invoke(app, command, input=answer)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, " ".join(result.output.split())

    code, shown = said("--at-step", "7", answer="n\n")
    assert code == 1
    assert not kept.exists()
    assert "goes on from its checkpoint at step 6; 2 steps are left behind" in shown
    code, shown = said("--at-step", "5", answer="y\n")
    assert code == 0
    assert "keeps no checkpoint at or before step 5 that fits" in shown
    assert load_edits(store.root / "demo") == {"stem": (edit(5),)}
    code, shown = said("--at-step", "4", "--yes")
    assert "earlier edits of stem at or after that step are replaced: at step 5" in shown
    assert [entry.at_step for entry in load_edits(store.root / "demo")["stem"]] == [4]

    Path(path).write_text(Path(path).read_text().replace("64", "32").replace("1280", "640"))
    with pytest.raises(StemmaError, match=r"is trained to its end, .* Nothing was changed"):
        said("--at-step", "10", "--stage", "commonsense", "--yes")
    assert "commonsense" not in load_edits(store.root / "demo")
    code, _ = said("--at-step", "10", "--stage", "commonsense", "--yes", "--force")
    assert code == 0
    assert load_edits(store.root / "demo")["commonsense"][0].at_step == 10
    assert open_run(store, "demo")["commonsense"].path.is_dir()


def test_a_schedule_that_follows_the_length_is_said_to_part(store: Store) -> None:
    record = read_json(store.root / "demo" / "run.json")
    schedule = {"peak_lr": 1.0, "shape": "cosine", "warmup_steps": 2}
    record["nodes"]["stem"]["identity"]["config"]["training"]["schedule"] = schedule
    write_json(store.root / "demo" / "run.json", record)
    record["nodes"]["commonsense"]["identity"]["config"]["training"]["schedule"] = schedule
    write_json(store.root / "demo" / "run.json", record)
    path = str(write_edit(store.root / "edit.yaml", sequence_length=32))
    command = ["mix", "edit", "demo", path, "--root", str(store.root), "--at-step", "46", "-y"]
    result = CliRunner().invoke(app, [*command, "--stage", "commonsense"])
    assert "Nothing was changed. Give --force to train them again" in str(result.exception)
    total = Plan.load(open_run(store, "demo")["plan.stem"].path).total_steps
    shorter = propose(store, "demo", "stem", edit(7))
    assert (shorter.schedule_ends, shorter.resume) == (2, 0)
    same = propose(store, "demo", "stem", edit(7, tokens=(total - 7) * 256))
    assert (same.schedule_ends, same.resume) == (None, 6)
