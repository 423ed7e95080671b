"""Models that ranks share, run for real over gloo with two and four processes, against one process."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.batch import MicroBatch
from pretrain.config import ModelConfig, MonitorConfig, PretrainConfig, TrainingConfig
from pretrain.stage import PretrainStage
from stemma.core.artifact import Artifact, Store
from stemma.core.files import read_json, read_jsonl
from stemma.core.stage import Execution, execute
from tests.pretrain.conftest import LOOP_STEPS
from tests.pretrain.helpers import (
    SEQ,
    TINY,
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
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What several processes come to, by how they share the model."""
    found = {}
    for ranks, topologies in ((2, TWO), (4, FOUR)):
        calls = [("split", *arguments) for arguments in topologies.values()]
        if ranks == 2:
            calls += [("exact", {PP: 2}), ("exact", {DP: 2}), ("split", {TP: 2} | SP, False, BF16)]
            calls += [("gathered", {CP: 2})]
        results = run_ranks(ranks, tmp_path_factory.mktemp(f"ranks{ranks}"), *calls)
        names = [*topologies, "exact PP=2", "exact DP=2", "TP=2, SP, bf16", "gathered"]
        found |= dict(zip(names, results))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TWO, *FOUR])
def test_ranks_train_and_measure_what_one_process_does(
    alone: dict[str, Any], shared: dict[str, Any], name: str
) -> None:
    """Losses of all steps, whole rows, documents and rows the ranks do not divide within 1e-6."""
    found = shared[name]
    assert found["initial"] == alone["initial"]  # bit for bit
    for figure in ("losses", "evaluation", "mixed", "packed"):
        assert found[figure] == pytest.approx(alone[figure], rel=1e-6), figure
    assert found["by_group"] == pytest.approx(alone["by_group"], rel=1e-3)  # norms, counted once each
    assert abs(alone["packed"] - alone["evaluation"]) > 1e-4 * alone["evaluation"]
    logprobs = torch.tensor(alone["logprobs"])
    torch.testing.assert_close(torch.tensor(found["logprobs"]), logprobs, atol=5e-5, rtol=1e-5)
    assert found["final"].keys() == alone["final"].keys()
    for weight, values in alone["final"].items():
        torch.testing.assert_close(
            torch.tensor(found["final"][weight]), torch.tensor(values), atol=1e-5, rtol=1e-5
        )


@pytest.mark.slow
def test_no_rank_holds_keys_and_values_of_whole_rows_between_forward_and_backward(
    shared: dict[str, Any],
) -> None:
    layers = TINY.num_layers
    assert shared["gathered"] == [[layers, 0], [2 * layers, 0]]  # made, left


@pytest.mark.slow
def test_half_precision_is_shared_too(shared: dict[str, Any]) -> None:
    """Within the rounding of bf16, 2^-8, in which ranks add up what they have."""
    engine = build(training=BF16)
    losses = train(engine, 0, 6)
    engine.close()
    assert shared["TP=2, SP, bf16"]["losses"] == pytest.approx(losses, rel=2**-8)


@pytest.mark.slow
def test_a_pipeline_computes_the_same_bits(shared: dict[str, Any]) -> None:
    """Without a tied table, whose two gradients are added up later, and without clipping by a norm that
    stages add up, nothing depends on which process computes it."""
    engine = build(UNTIED, training={"optimizer": {"clip_grad": 0.0}})
    losses = train(engine, 0, 6)
    engine.close()
    assert shared["exact PP=2"]["losses"] == losses


@pytest.mark.slow
def test_replicas_differ_from_one_process_by_the_order_of_sums_only(
    shared: dict[str, Any],
) -> None:
    """One process that adds up each replica's gradients first has the gradients of the replicas, bit for
    bit."""
    engine = build(UNTIED, training={"optimizer": {"clip_grad": 0.0}})
    each = [gradients_of(engine, batch(0, replica, 2)) for replica in range(2)]
    engine.close()
    sums = hashlib.sha256(b"".join(raw_bytes(first + second) for first, second in zip(*each)))
    assert shared["exact DP=2"]["gradients"] == sums.hexdigest()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_recomputed_layers_compute_the_same_bits_twice(precision: str) -> None:
    def run(recompute: bool) -> tuple[list[float], str, int]:
        calls: list[None] = []
        fp8 = {"recipe": "delayed", "simulate": True}  # the recipe that keeps a history
        engine = build(training={"recompute": recompute, "precision": precision, "fp8": fp8})
        engine.module.decoder.layers[1].register_forward_hook(lambda *_: calls.append(None))
        found = train(engine, 0, 3), parameter_hash(engine), len(calls)
        engine.close()
        return found

    losses, digest, calls = run(recompute=False)
    assert run(recompute=True) == (losses, digest, 2 * calls)


def test_recomputed_layers_keep_their_input_and_nothing_else() -> None:
    def kept(layers: int) -> int:
        """Bytes that autograd holds when the forward pass is over, weights aside."""
        engine = build(TINY.model_copy(update={"num_layers": layers}), training=RECOMPUTE)
        held = {parameter.untyped_storage().data_ptr(): 0 for parameter in engine.module.parameters()}
        totals: list[int] = []

        def hold(x: torch.Tensor) -> torch.Tensor:
            held.setdefault(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes())
            return x

        def loss(output: torch.Tensor, micro: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            totals.append(sum(held.values()))
            return engine.token_loss(output, micro.labels).sum(), {}

        first = replace(batch(0), micro=batch(0).micro[:1])
        with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
            engine.train_step(first, loss, lr=0.0)
        engine.close()
        return totals[0]

    assert kept(layers=4) - kept(layers=2) == 2 * SEQ * TINY.hidden_size * 4  # fp32


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
    starts from, and its phases have other lengths. Monitors see what they see on one."""
    lengths = (32, 128)
    monitor = MonitorConfig(positions_every=3, needles=1)
    training = training.model_copy(update={"monitor": monitor})
    store, config = Store(tmp_path), PretrainConfig(model=tiny_model, training=training)
    two = Execution(threads=1, tensor_parallel=2, sequence_parallel=True)
    first = execute(PretrainStage("stem", config, {**inputs, "plan": make_plan(LOOP_STEPS)}), store, two)
    four = Execution(threads=1, pipeline_parallel=2, context_parallel=2)
    given = {**inputs, "plan": make_plan(LOOP_STEPS, lengths), "init": first}
    second = execute(PretrainStage("stem", config, given), store, four)

    one, other = tmp_path / "one", tmp_path / "other"
    run(one, monitor=monitor)
    run(other, init=one / "artifact" / "checkpoint", lengths=lengths, monitor=monitor)
    for shared, alone in ((first.path, one), (second.path, other)):
        found, expected = (list(read_jsonl(path / "receipts.jsonl")) for path in (shared, alone / "artifact"))
        assert [line["batch_sha256"] for line in found] == [line["batch_sha256"] for line in expected]
        for figure in ("loss", "grad_norm"):
            values = [[float.fromhex(line[figure]) for line in lines] for lines in (found, expected)]
            assert values[0] == pytest.approx(values[1], rel=1e-5), figure
        figures = [read_json(path / "evaluation.json")["after"] for path in (shared, alone / "artifact")]
        assert figures[0] == pytest.approx(figures[1], rel=1e-5)
        seen = [list(read_jsonl(path / "monitors.jsonl")) for path in (shared, alone / "artifact")]
        assert [said(line) for line in seen[0]] == [
            pytest.approx(said(line), rel=1e-4, abs=1e-3) for line in seen[1]
        ]
    assert [line["monitor"] for line in seen[0]] == ["positions"] * 4 + ["needle"]


def said(line: dict[str, Any]) -> list[float]:
    """What a line of ``monitors.jsonl`` says that can be told apart from rounding."""
    figures = [line["step"], line["sequence_length"]]
    if line["monitor"] == "needle":
        return [*figures, line["gain"], *(depth["gain"] for depth in line["depths"].values())]
    return [*figures, line["tokens"], line["mean"], *chain.from_iterable(line["curve"])]
