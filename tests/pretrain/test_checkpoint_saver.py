"""Saving beside the training: what is saved, in which order, and what happens when it cannot be written."""

import resource
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pretrain import checkpoint
from pretrain.checkpoint.saver import Saver
from pretrain.engine import Engine
from stemma.core.errors import StemmaError
from stemma.core.files import read_json
from tests.pretrain.helpers import build, parameter_hash, train


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = build()
    yield engine
    engine.close()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writers wait until it is set."""
    opened, write = threading.Event(), Saver._write

    def wait_and_write(self: Saver, *arguments: Any) -> Any:
        assert opened.wait(30)
        return write(self, *arguments)

    monkeypatch.setattr(Saver, "_write", wait_and_write)
    return opened


def test_training_goes_on_while_the_state_of_that_moment_is_written(
    engine: Engine, gate: threading.Event, tmp_path: Path
) -> None:
    train(engine, 0, 3)
    moment = parameter_hash(engine)
    engine.saver.begin(tmp_path / "step-00000003", {"step": 3})
    losses = train(engine, 3, 6)
    assert list(tmp_path.iterdir()) == []
    gate.set()
    engine.saver.wait()
    assert engine.load(tmp_path / "step-00000003") == {"step": 3}
    assert parameter_hash(engine) == moment
    assert train(engine, 3, 6) == losses


def test_one_save_is_under_way_at_a_time_and_they_appear_in_order(engine: Engine, tmp_path: Path) -> None:
    train(engine, 0, 1)
    seen: list[list[str]] = []
    for step in (1, 2, 3):
        listing = lambda _: seen.append(sorted(path.name for path in tmp_path.iterdir()))  # noqa: E731
        engine.saver.begin(checkpoint.step_folder(tmp_path, step), {"step": step}, saved=listing)
        assert len(checkpoint.list_checkpoints(tmp_path)) >= step - 1
        train(engine, step, step + 1)
    engine.saver.wait()
    names = [f"step-{step:08d}" for step in (1, 2, 3)]
    assert seen == [names[:1], names[:2], names]
    digests = [read_json(tmp_path / name / "record.json")["state_sha256"] for name in names]
    assert len(set(digests)) == 3


def test_a_save_that_fails_is_told_and_leaves_the_one_before(engine: Engine, tmp_path: Path) -> None:
    train(engine, 0, 1)
    good = checkpoint.step_folder(tmp_path, 1)
    engine.save(good, {"step": 1})
    (tmp_path / "file").write_text("in the way of a folder")
    engine.saver.begin(tmp_path / "file" / "step-00000002", {})
    train(engine, 1, 2)
    with pytest.raises(StemmaError, match=r"step-00000002 could not be written \(rank 0: NotADirectory"):
        engine.saver.wait()
    checkpoint.verify(good)
    engine.save(checkpoint.step_folder(tmp_path, 2), {"step": 2})  # told once, and then it goes on
    assert engine.load(checkpoint.step_folder(tmp_path, 2)) == {"step": 2}


def test_tensors_that_find_no_room_are_told_though_torch_raises_no_exception_then(
    engine: Engine, tmp_path: Path
) -> None:
    train(engine, 0, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        engine.saver.begin(tmp_path / "step-00000001", {})
        with pytest.raises(StemmaError, match=r"could not be written \(.*(File too large|no space left)"):
            engine.saver.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "step-00000001").exists()


def test_an_engine_closes_after_its_last_save(tmp_path: Path) -> None:
    engine = build()
    train(engine, 0, 1)
    engine.saver.begin(tmp_path / "step-00000001", {})
    engine.close()
    checkpoint.verify(tmp_path / "step-00000001")


def test_the_hash_of_the_state_is_that_of_its_bits(engine: Engine, tmp_path: Path) -> None:
    def digest(name: str) -> str:
        engine.save(tmp_path / name, {"name": name})
        return str(read_json(tmp_path / name / "record.json")["state_sha256"])

    train(engine, 0, 2)
    before = digest("step-00000001")
    assert digest("step-00000002") == before
    weight = next(engine.module.parameters())
    value = weight.data[0, 0].clone()
    weight.data[0, 0] += value.abs() * 2e-7 + 1e-30  # the last bit of one weight
    assert digest("step-00000003") != before
    weight.data[0, 0] = value
    assert digest("step-00000004") == before
    moments = engine.optimizer.chained_optimizers[0].optimizer.state[weight]["exp_avg_sq"]
    moments[0, 0] = moments[0, 0] * 2 + 1e-30
    assert digest("step-00000005") != before


def test_a_save_starts_no_thread_which_could_die_unheard_where_memory_is_short(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(self: threading.Thread) -> None:
        raise AssertionError(f"{self.name} was started")

    train(engine, 0, 1)
    monkeypatch.setattr(threading.Thread, "start", no_memory)
    engine.save(tmp_path / "step-00000001", {"step": 1})
    checkpoint.verify(tmp_path / "step-00000001")
