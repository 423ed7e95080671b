import json
import shutil

import pytest

from pretrain import checkpoint
from pretrain.checkpoint.folder import entries_of, seal
from pretrain.checkpoint.retention import prune
from pretrain.config import ModelConfig, OptimizerConfig
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import write_atomic
from tests.pretrain.helpers import TINY, build, parameter_hash, run_ranks, train


@pytest.fixture
def engine():
    engine = build()
    yield engine
    engine.close()


@pytest.fixture
def saved(engine, tmp_path):
    """A checkpoint after three steps, and what the run came to after six."""
    train(engine, 0, 3)
    folder = checkpoint.step_folder(tmp_path / "run", 3)
    engine.save(folder, {"step": 3, "cursor": [1, 2]})
    losses = train(engine, 3, 6)
    return folder, losses, parameter_hash(engine)


def recorded(folder):
    return json.loads((folder / "record.json").read_text())["state_sha256"]


def test_a_fresh_engine_continues_bit_for_bit(saved, engine):
    """``test_resume`` has new processes do so."""
    folder, losses, digest = saved
    engine.close()
    fresh = build(training={"seed": 8})
    assert fresh.load(folder) == {"step": 3, "cursor": [1, 2]}
    assert train(fresh, 3, 6) == losses
    assert parameter_hash(fresh) == digest


def test_the_optimizer_is_part_of_it_and_weights_alone_are_not_enough(saved, engine):
    folder, losses, digest = saved
    assert engine.load(folder, weights_only=True) == {"step": 3, "cursor": [1, 2]}
    assert train(engine, 3, 6) != losses
    engine.load(folder)
    assert train(engine, 3, 6) == losses
    assert parameter_hash(engine) == digest


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("saving", [True, False], ids=["sharded", "plain"])
def test_with_or_without_the_sharded_optimizer_it_continues(tmp_path, precision, saving):
    """Bit for bit with the same one; with the other from the same state, but for the order of sums."""
    states, losses = [], []
    for step, sharded in enumerate((saving, not saving, saving)):
        engine = build(sharded_optimizer=sharded, training={"precision": precision, "seed": step})
        if step == 0:
            train(engine, 0, 3)
        else:
            engine.load(checkpoint.step_folder(tmp_path, step - 1))
        engine.save(checkpoint.step_folder(tmp_path, step), {})
        states.append(recorded(checkpoint.step_folder(tmp_path, step)))
        losses.append(train(engine, 3, 6))
        engine.close()
    assert states[2] == states[0]
    assert losses[2] == losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_settings_of_the_optimizer_are_the_profiles_and_not_the_checkpoints(saved):
    folder, _, _ = saved
    other = build(training={"optimizer": OptimizerConfig(adam_beta2=0.99)})
    other.load(folder)
    assert {group["betas"] for group in other.optimizer.param_groups} == {(0.9, 0.99)}


def test_ranks_that_share_the_model_otherwise_continue_it(saved, engine, tmp_path):
    """Bit for bit the same state, and the same losses but for the order of sums."""
    one, losses, _ = saved
    tensor, pipeline, data = {"tensor_parallel": 2}, {"pipeline_parallel": 2}, {"data_parallel": 2}
    reshards = {
        "one to TP=2": (tensor, False, one),
        "one to PP=2": (pipeline, False, one),
        "one to DP=2, sharded optimizer": (data, True, one),
        "TP=2 to DP=2": (data, False, tmp_path / "one to TP=2"),
        "PP=2 to TP=2, sharded optimizer": (tensor, True, tmp_path / "one to PP=2"),
        "DP=2, sharded optimizer to PP=2": (pipeline, False, tmp_path / "one to DP=2, sharded optimizer"),
    }
    topologies = {"TP=2": (tensor, False), "PP=2": (pipeline, False), "DP=2": (data, True)}
    calls = [("resume", *how, source, tmp_path / name) for name, (*how, source) in reshards.items()]
    calls += [("save", *how, tmp_path / name) for name, how in topologies.items()]
    calls += [("resume", tensor, False, tmp_path / "TP=2", tmp_path / "TP=2 again")]
    results = dict(zip([*reshards, *topologies, "TP=2 again"], run_ranks(2, tmp_path, *calls), strict=True))

    def alone(folder):
        engine.load(folder)
        engine.save(tmp_path / "alone", {})
        return recorded(tmp_path / "alone")

    for name in reshards:
        assert results[name]["losses"] == pytest.approx(losses, rel=1e-5), name
        assert alone(tmp_path / name) == recorded(one), name
    assert recorded(tmp_path / "TP=2 again") == recorded(tmp_path / "TP=2")
    assert results["TP=2 again"]["losses"] == results["TP=2"]["losses"]
    for name in topologies:
        assert engine.load(tmp_path / name) == {"step": 3}
        assert train(engine, 3, 6) == pytest.approx(results[name]["losses"], rel=1e-5), name


def test_a_checkpoint_of_the_first_step_has_weights_only(engine, tmp_path):
    engine.save(tmp_path / "step-00000000", {"step": 0})
    losses = train(engine, 0, 2)
    engine.close()
    fresh = build()
    assert fresh.load(tmp_path / "step-00000000") == {"step": 0}
    assert train(fresh, 0, 2) == losses
    with pytest.raises(StemmaError, match="has no optimizer state"):
        fresh.load(tmp_path / "step-00000000")


def test_a_damaged_file_is_refused_by_name_and_nothing_is_loaded(saved, engine):
    folder, _, digest = saved
    for name in ("state/__0_0.distcp", "state/.metadata", "extra.json", "random.json"):
        path = folder / name
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        for damaged in (flipped, content[:-1], None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(DamagedError, match=name.replace(".", r"\.")):
                engine.load(folder)
            path.write_bytes(content)
    assert parameter_hash(engine) == digest
    engine.load(folder)


def test_a_manifest_with_a_flipped_bit_is_found_out(tmp_path):
    """As damage, whichever byte it is, so that training goes on from the checkpoint before."""
    for name in ("extra.json", "state/__0_0.distcp"):
        write_atomic(tmp_path / name, name)
    seal(tmp_path, entries_of(tmp_path, [tmp_path / "extra.json", tmp_path / "state" / "__0_0.distcp"]))
    manifest = tmp_path / "manifest.json"
    content = manifest.read_bytes()
    for at in range(len(content) - 1):  # a newline may become a tab
        manifest.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(DamagedError):
            checkpoint.verify(tmp_path)
    manifest.write_bytes(content)
    checkpoint.verify(tmp_path)


def test_a_save_that_was_killed_leaves_no_checkpoint_and_does_not_disturb_the_next(saved, engine):
    folder, _, _ = saved
    half = folder.parent / ".step-00000006.tmp"
    shutil.copytree(folder, half)
    (half / "manifest.json").unlink()
    assert checkpoint.list_checkpoints(folder.parent) == [folder]
    engine.save(checkpoint.step_folder(folder.parent, 6), {"step": 6})
    assert engine.load(checkpoint.step_folder(folder.parent, 6)) == {"step": 6}
    assert not half.exists()


def test_saving_the_same_step_again_replaces_it(saved, engine):
    folder, _, _ = saved
    engine.save(folder, {"again": True})
    assert engine.load(folder) == {"again": True}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_pruning_keeps_the_newest(saved):
    folder, _, _ = saved
    for step in (4, 5, 10):
        shutil.copytree(folder, checkpoint.step_folder(folder.parent, step))
    shutil.copytree(folder, folder.parent / ".step-00000009.tmp")
    prune(folder.parent, keep=2)
    assert [path.name for path in sorted(folder.parent.iterdir())] == ["step-00000005", "step-00000010"]


def test_a_model_of_another_shape_is_refused(saved, engine):
    folder, _, _ = saved
    engine.close()
    other = build(ModelConfig(**(TINY.model_dump() | {"ffn_hidden_size": 64})))
    with pytest.raises(StemmaError, match="another shape: ffn_hidden_size: 48 -> 64"):
        other.load(folder)


def test_the_manifest_lists_every_file(saved):
    folder, _, _ = saved
    listed = set(json.loads((folder / "manifest.json").read_text()))
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert there - listed == {"manifest.json"}
