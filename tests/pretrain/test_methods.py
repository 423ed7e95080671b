"""Losses and optimizers on two ranks, which have to train what one does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretrain.helpers import build, learn, run_ranks

METHODS: dict[str, dict[str, Any]] = {
    "mile and z-loss": {"loss": {"name": "mile", "gamma": 1.5, "z_loss": 1e-2}},
    "muon": {"optimizer": {"name": "muon"}},
}
RANKS = ("tensor_parallel", "pipeline_parallel", "context_parallel", "data_parallel")
SAVED = [("muon", "tensor_parallel"), ("muon", "pipeline_parallel")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module")
def on_two(folder: Path) -> dict[tuple[str, str], Any]:
    """What two ranks come to, by method and by what they share."""
    cases = [(method, ranks) for method in METHODS for ranks in RANKS]
    calls = [
        ("methods", {ranks: 2}, METHODS[method], folder / ranks if (method, ranks) in SAVED else None)
        for method, ranks in cases
    ]
    return dict(zip(cases, run_ranks(2, folder, *calls)))


@pytest.fixture(scope="module")
def on_one() -> dict[str, Any]:
    """What one comes to; without a method too. The last of five steps is under ``later``."""
    found = {}
    for method, training in {**METHODS, "plain": {}}.items():
        engine = build(training=training)
        found[method] = learn(engine)
        found[method]["later"] = learn(engine, 4, 5)
        engine.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ranks", RANKS)
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
@pytest.mark.parametrize("ranks", ["tensor_parallel", "pipeline_parallel"])
def test_one_rank_goes_on_with_the_momentum_of_two(
    on_two: dict[tuple[str, str], Any], on_one: dict[str, Any], folder: Path, ranks: str
) -> None:
    engine = build(training=METHODS["muon"])
    engine.load(folder / ranks)
    for name, weight in engine.hf_state_dict().items():
        assert weight.tolist() == on_two["muon", ranks]["final"][name]
    found, one = learn(engine, 4, 5), on_one["muon"]["later"]
    engine.close()
    for name, weight in one["final"].items():
        mine, theirs = torch.tensor(found["final"][name]), torch.tensor(weight)
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3, msg=name)


def test_a_method_makes_a_difference(on_one: dict[str, Any]) -> None:
    for method in METHODS:
        assert on_one[method]["losses"][-1] != pytest.approx(on_one["plain"]["losses"][-1], rel=1e-3)
    assert on_one["mile and z-loss"]["metrics"][0].keys() == {"cross_entropy", "z_loss"}
