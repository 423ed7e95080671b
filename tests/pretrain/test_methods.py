"""Losses and optimizers on two ranks, which have to train what one does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.loop import Stopped
from stemma.core.files import read_jsonl
from tests.pretrain.helpers import build, learn, run_ranks

METHODS: dict[str, dict[str, Any]] = {
    "mile and z-loss": {"loss": {"name": "mile", "gamma": 1.5, "z_loss": 1e-2}},
    "muon": {"optimizer": {"name": "muon"}},
}
RANKS = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel")
CASES = [*(("mile and z-loss", ranks) for ranks in RANKS), *(("muon", ranks) for ranks in RANKS[:2])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def on_two(folder: Path) -> dict[tuple[str, str], Any]:
    """What two ranks come to, by method and by what they share."""
    calls = [
        ("methods", {ranks: 2}, METHODS[method], folder / ranks if method == "muon" else None)
        for method, ranks in CASES
    ]
    return dict(zip(CASES, run_ranks(2, folder, *calls)))


@pytest.fixture(scope="module")
def on_one() -> dict[str, Any]:
    """What one comes to; without a method too. The last of four steps is under ``later``."""
    found = {}
    for method, training in {**METHODS, "plain": {}}.items():
        engine = build(training=training)
        found[method] = learn(engine)
        found[method]["later"] = learn(engine, 3, 4)
        engine.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("method", "ranks"), CASES)
def test_two_ranks_train_what_one_does(
    on_two: dict[tuple[str, str], Any], on_one: dict[str, Any], method: str, ranks: str
) -> None:
    found, one = on_two[method, ranks], on_one[method]
    close = 1e-6 if method != "muon" else 1e-4  # Newton-Schulz runs in bf16: a last bit may become an eighth
    assert found["losses"] == pytest.approx(one["losses"], rel=close)
    assert found["norms"] == pytest.approx(one["norms"], rel=5 * close)
    for mine, theirs in zip(found["metrics"], one["metrics"]):
        assert mine == pytest.approx(theirs, rel=close)
    for name, weight in one["final"].items():
        mine, theirs = torch.tensor(found["final"][name]), torch.tensor(weight)
        torch.testing.assert_close(mine, theirs, atol=10 * close, rtol=10 * close, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS[:2])
def test_one_rank_goes_on_with_the_momentum_of_two(
    on_two: dict[tuple[str, str], Any], on_one: dict[str, Any], folder: Path, ranks: str
) -> None:
    engine = build(training=METHODS["muon"])
    engine.load(folder / ranks)
    for name, weight in engine.hf_state_dict().items():
        assert weight.tolist() == on_two["muon", ranks]["final"][name]
    found, one = learn(engine, 3, 4), on_one["muon"]["later"]
    engine.close()
    for name, weight in one["final"].items():
        mine, theirs = torch.tensor(found["final"][name]), torch.tensor(weight)
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3, msg=name)


def test_a_method_makes_a_difference(on_one: dict[str, Any]) -> None:
    for method in METHODS:
        assert on_one[method]["losses"][-1] != pytest.approx(on_one["plain"]["losses"][-1], rel=1e-3)
    assert on_one["mile and z-loss"]["metrics"][0].keys() == {"cross_entropy", "z_loss"}


def test_a_stopped_stage_of_all_methods_goes_on_to_the_same_end(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    schedule = {"shape": "wsd", "decay": "linear", "decay_fraction": 0.5, "peak_lr": 3e-3, "end_lr": 3e-4}
    training = METHODS["mile and z-loss"] | METHODS["muon"] | {"schedule": schedule}
    straight = run(tmp_path / "straight", **training)
    with pytest.raises(Stopped):
        run(tmp_path / "stopped", stop_after=3, **training)
    resumed = run(tmp_path / "stopped", **training)
    assert resumed["summary"]["resumed_from"] == 3
    assert resumed["hash"] == straight["hash"]
    one, other = (tmp_path / name / "artifact" / "receipts.jsonl" for name in ("straight", "stopped"))
    assert one.read_bytes() == other.read_bytes()
    for figures in read_jsonl(one.with_name("metrics.jsonl")):
        assert figures["z_loss"] > 0
        assert figures["loss"] != figures["cross_entropy"]
