"""Models that ranks share, run for real over gloo with two and four processes, against one process."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.config import ModelConfig, PretrainConfig, TrainingConfig
from pretrain.stage import PretrainStage
from stemma.core.artifact import Artifact, Store
from stemma.core.files import read_json, read_jsonl
from stemma.core.stage import Execution, execute
from tests.pretrain.conftest import LOOP_STEPS
from tests.pretrain.helpers import (
    UNTIED,
    batch,
    build,
    figures,
    gradients_of,
    parameter_hash,
    raw_bytes,
    run_ranks,
    train,
)

TP, PP, CP, DP = (f"{kind}_parallel" for kind in ("tensor", "pipeline", "context", "data"))
SP = {"sequence_parallel": True}
RECOMPUTE, BF16 = {"recompute": True}, {"precision": "bf16"}

TWO: dict[str, tuple[Any, ...]] = {
    "TP=2": ({TP: 2}, False, {}),
    "TP=2, SP": ({TP: 2} | SP, False, {}),
    "PP=2": ({PP: 2}, False, RECOMPUTE),
    "CP=2": ({CP: 2}, False, {}),
    "DP=2": ({DP: 2}, False, {}),
    "DP=2, sharded optimizer": ({DP: 2}, True, {}),
}
FOUR: dict[str, tuple[Any, ...]] = {
    "TP=2, DP=2": ({TP: 2, DP: 2}, False, {}),
    "TP=2, SP, CP=2": ({TP: 2, CP: 2} | SP, True, RECOMPUTE),
    "TP=2, SP, PP=2": ({TP: 2, PP: 2} | SP, False, {}),
    "PP=2, CP=2": ({PP: 2, CP: 2}, False, {}),
    "CP=2, DP=2, sharded optimizer": ({CP: 2, DP: 2}, True, {}),
    "CP=4": ({CP: 4}, False, {}),
}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """What one process comes to."""
    engine = build()
    found = figures(engine)
    engine.close()
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What several processes come to, by how they share the model."""
    found = {}
    for ranks, topologies in ((2, TWO), (4, FOUR)):
        calls = [("split", *arguments) for arguments in topologies.values()]
        if ranks == 2:
            calls += [("exact", {PP: 2}), ("exact", {DP: 2}), ("split", {TP: 2} | SP, False, BF16)]
        results = run_ranks(ranks, tmp_path_factory.mktemp(f"ranks{ranks}"), *calls)
        found |= dict(zip([*topologies, "exact PP=2", "exact DP=2", "TP=2, SP, bf16"], results))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TWO, *FOUR])
def test_ranks_train_and_measure_what_one_process_does(
    alone: dict[str, Any], shared: dict[str, dict[str, Any]], name: str
) -> None:
    """Losses of all steps, whole rows, documents and rows the ranks do not divide within 1e-6."""
    found = shared[name]
    assert found["initial"] == alone["initial"]  # bit for bit
    for figure in ("losses", "evaluation", "mixed", "packed"):
        assert found[figure] == pytest.approx(alone[figure], rel=1e-6), figure
    assert found["by_group"] == pytest.approx(alone["by_group"], rel=1e-3)  # norms, counted once each
    assert abs(alone["packed"] - alone["evaluation"]) > 1e-4 * alone["evaluation"]
    logprobs = torch.tensor(alone["logprobs"])
    torch.testing.assert_close(torch.tensor(found["logprobs"]), logprobs, atol=5e-4, rtol=1e-4)
    assert found["final"].keys() == alone["final"].keys()
    for weight, values in alone["final"].items():
        torch.testing.assert_close(
            torch.tensor(found["final"][weight]), torch.tensor(values), atol=5e-4, rtol=1e-3
        )


@pytest.mark.slow
def test_half_precision_is_shared_too(shared: dict[str, dict[str, Any]]) -> None:
    """Within the rounding of bf16, 2^-8, in which ranks add up what they have."""
    engine = build(training=BF16)
    losses = train(engine, 0, 6)
    engine.close()
    assert shared["TP=2, SP, bf16"]["losses"] == pytest.approx(losses, rel=2**-8)


@pytest.mark.slow
def test_a_pipeline_computes_the_same_bits(shared: dict[str, dict[str, Any]]) -> None:
    """Without a tied table, whose two gradients are added up later, and without clipping by a norm that
    stages add up, nothing depends on which process computes it."""
    engine = build(UNTIED, training={"optimizer": {"clip_grad": 0.0}})
    losses = train(engine, 0, 6)
    engine.close()
    assert shared["exact PP=2"]["losses"] == losses


@pytest.mark.slow
def test_replicas_differ_from_one_process_by_the_order_of_sums_only(
    shared: dict[str, dict[str, Any]],
) -> None:
    """One process that adds up each replica's gradients first has the gradients of the replicas, bit for
    bit."""
    engine = build(UNTIED, training={"optimizer": {"clip_grad": 0.0}})
    each = [gradients_of(engine, batch(0, replica, 2)) for replica in range(2)]
    engine.close()
    sums = hashlib.sha256(b"".join(raw_bytes(first + second) for first, second in zip(*each)))
    assert shared["exact DP=2"]["gradients"] == sums.hexdigest()


def test_recomputed_layers_compute_the_same_bits_twice() -> None:
    def run(recompute: bool) -> tuple[list[float], str, int]:
        calls: list[None] = []
        engine = build(training={"recompute": recompute})
        engine.module.decoder.layers[1].register_forward_hook(lambda *_: calls.append(None))
        found = train(engine, 0, 3), parameter_hash(engine), len(calls)
        engine.close()
        return found

    losses, digest, calls = run(recompute=False)
    assert run(recompute=True) == (losses, digest, 2 * calls)


@pytest.mark.slow
def test_stages_launched_on_ranks_train_what_one_process_does(
    inputs: dict[str, Artifact],
    make_plan: Callable[..., Artifact],
    tiny_model: ModelConfig,
    training: TrainingConfig,
    run: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    """Two stages through torchrun: the second shares the model otherwise than the first, whose checkpoint it
    starts from, and its phases have other lengths."""
    lengths = (32, 64)
    store, config = Store(tmp_path), PretrainConfig(model=tiny_model, training=training)
    two = Execution(threads=1, tensor_parallel=2, sequence_parallel=True)
    first = execute(PretrainStage("stem", config, {**inputs, "plan": make_plan(LOOP_STEPS)}), store, two)
    four = Execution(threads=1, pipeline_parallel=2, context_parallel=2)
    given = {**inputs, "plan": make_plan(LOOP_STEPS, lengths), "init": first}
    second = execute(PretrainStage("stem", config, given), store, four)

    one, other = tmp_path / "one", tmp_path / "other"
    run(one)
    run(other, init=one / "artifact" / "checkpoint", lengths=lengths)
    for shared, alone in ((first.path, one), (second.path, other)):
        found, expected = (list(read_jsonl(path / "receipts.jsonl")) for path in (shared, alone / "artifact"))
        assert [line["batch_sha256"] for line in found] == [line["batch_sha256"] for line in expected]
        for figure in ("loss", "grad_norm"):
            values = [[float.fromhex(line[figure]) for line in lines] for lines in (found, expected)]
            assert values[0] == pytest.approx(values[1], rel=1e-4), figure
        figures = [read_json(path / "evaluation.json")["after"] for path in (shared, alone / "artifact")]
        assert figures[0] == pytest.approx(figures[1], rel=1e-4)
