import subprocess
import sys

import pytest
import yaml

from stemma.core.config import digest, identity
from stemma.core.errors import ProfileError
from stemma.profile import TRAINING_STAGES, load_profile, profile_names, profile_path


def stemma(*arguments, cwd=None):
    command = [sys.executable, "-m", "stemma.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_that_comes_along_is_valid(name):
    profile = load_profile(name)
    assert profile.name == name
    for stage in TRAINING_STAGES:
        assert profile.plan_stage(stage).batch_tokens > 0
        assert profile.training_stage(stage).model == profile.model


def test_all_problems_are_listed_with_their_paths(tmp_path):
    tree = yaml.safe_load(profile_path("nano").read_text())
    tree["model"]["hidden_size"] = "wide"
    tree["model"]["hiden_size"] = 3
    tree["training"]["stem"]["schedule"]["peak_lr"] = -1
    del tree["export"]["title"]
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ProfileError) as raised:
        load_profile(str(path))
    text = str(raised.value)
    for field in ("model.hidden_size", "model.hiden_size", "training.stem.schedule.peak_lr", "export.title"):
        assert field in text
    assert "4 problems, nothing was started" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.vocab_size=9000", "model.vocab_size 9000 is not tokenizer.vocab_size 8192"),
        ("tokens.sequence_chunk=512", "does not divide tokens.sequence_chunk 512"),
        ("model.max_position_embeddings=512", "is above model.max_position_embeddings"),
        ("sft.families={poems: 1.0}", "['poems'] are not in trajectories.families"),
        ("training.stem.schedule.peak_lr=0.001", "training.stem.schedule.peak_lr 0.001 is not where"),
        ("rl.training.loss={name: mile}", "RL minimizes rl.loss"),
    ],
)
def test_sections_that_disagree_are_named(change, said):
    with pytest.raises(ProfileError) as raised:
        load_profile("nano", [change])
    assert said in str(raised.value)


def test_overrides_reach_a_field_and_bad_ones_are_listed():
    changed = load_profile("nano", ["training.stem.optimizer.adam_eps=0.001", "execution.workers=1"])
    assert changed.training.stem.optimizer.adam_eps == 0.001
    assert changed.execution.workers == 1
    with pytest.raises(ProfileError) as raised:
        load_profile("nano", ["nonsense", "name.deeper=1", "model.hidden_size=[1"])
    assert len(raised.value.problems) == 3


def test_a_stage_goes_on_from_the_learning_rate_of_the_one_before():
    plain = load_profile("nano")
    changes = [f"training.{stage}.schedule.peak_lr=null" for stage in ("stem", "general", "agentic")]
    joined = load_profile("nano", changes)
    assert joined == plain  # as the numbers that stand there
    assert joined.training_stage("agentic").training.schedule.peak_lr == 2e-3
    later = load_profile("nano", [*changes, "training.commonsense.schedule.peak_lr=0.004"])
    assert later.training_stage("stem").training.schedule.peak_lr == 4e-3


def test_execution_is_no_part_of_a_stage_identity():
    plain, other = load_profile("nano"), load_profile("nano", ["training.stem.checkpoint_every=7"])
    assert digest(identity(plain.training_stage("stem"))) == digest(identity(other.training_stage("stem")))


@pytest.mark.parametrize("text", ["name: [", "- a\n- b\n", "name: a\nname: b\n", ""])
def test_what_is_no_profile_is_refused(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=r"p\.yaml"):
        load_profile(str(path))


@pytest.mark.parametrize("command", ["run", "demo"])
def test_a_bad_profile_exits_with_2_before_anything_starts(tmp_path, command):
    done = stemma(command, "--set", "model.hidden_size=wide", "--root", str(tmp_path / "runs"))
    assert done.returncode == 2
    assert "model.hidden_size" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_unknown_profile_names_those_there_are(tmp_path):
    done = stemma("run", "--profile", "giant", "--root", str(tmp_path))
    assert done.returncode == 2
    assert "nano" in done.stderr


def test_an_unknown_run_is_a_clear_error(tmp_path):
    done = stemma("ledger", "nope", "--root", str(tmp_path))
    assert done.returncode == 1
    assert "there is no run 'nope'" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_sources_with_the_same_id_are_refused_with_the_line(tmp_path):
    """Plain YAML would silently let the second win."""
    text = profile_path("nano").read_text()
    assert text.count("\n    fineweb:\n") == 1
    path = tmp_path / "twice.yaml"
    path.write_text(text.replace("\n    fineweb:\n", "\n    wikipedia:\n"))
    with pytest.raises(ProfileError, match=r"the key 'wikipedia' is written twice\s.*line \d+"):
        load_profile(str(path))


def test_a_section_may_take_over_another_and_change_some_of_its_keys(tmp_path):
    """As sources that share an archive do; a key written twice is refused there, too."""
    merged = "    more:\n      <<: *first\n      domain: stem\n"
    text = profile_path("nano").read_text().replace("\n    wikipedia:\n", "\n    wikipedia: &first\n")
    path = tmp_path / "merged.yaml"
    path.write_text(text.replace("\n    fineweb:\n", f"\n{merged}    fineweb:\n"))
    sources = load_profile(str(path)).data.sources
    assert sources["more"] == sources["wikipedia"].model_copy(update={"domain": "stem"})
    path.write_text(path.read_text().replace(merged, f"{merged}      domain: web\n"))
    with pytest.raises(ProfileError, match="the key 'domain' is written twice"):
        load_profile(str(path))
