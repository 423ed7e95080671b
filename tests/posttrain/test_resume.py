"""SFT and RL stages that are killed and run again end like ones that never were."""

from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.config import RLConfig, RLStageConfig, SFTConfig, SFTStageConfig
from posttrain.rl import RLStage
from posttrain.sft import SFTStage
from pretrain.config import ModelConfig
from stemma.core.artifact import Artifact
from stemma.core.config import Config
from stemma.core.files import read_json, read_jsonl
from tests.programs import Program, finish, kill_when, receipts, start_stage

SAME = ("receipts.jsonl", "ledger.json", "hf/model.safetensors", "hf/config.json")
EVERY = 3  # steps between checkpoints, and so in the middle of a batch of rollouts, which lasts two

Starter = Callable[..., Program]


@pytest.fixture(scope="module")
def begin(
    tokenizer_artifact: Artifact,
    init: Artifact,
    trajectories: Artifact,
    model_config: ModelConfig,
    sft_config: Callable[..., SFTConfig],
    rl_config: Callable[..., RLConfig],
) -> Starter:
    """``begin(kind, store, ranks)``: the stage as a program in its own session."""
    inputs = {"tokenizer": tokenizer_artifact, "init": init}
    configs: dict[str, Config] = {
        "sft": SFTStageConfig(model=model_config, sft=sft_config()),
        "rl": RLStageConfig(model=model_config, rl=rl_config()),
    }

    def start(kind: str, store: Path, ranks: int = 1) -> Program:
        if kind == "sft":
            given = {**inputs, "trajectories": trajectories}
            return start_stage(store, SFTStage, kind, configs[kind], given, ranks)
        return start_stage(store, RLStage, kind, configs[kind], inputs, ranks)

    return start


@pytest.fixture(scope="module")
def undisturbed(begin: Starter, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """What runs that nobody disturbs end with."""
    return {kind: finish(begin(kind, tmp_path_factory.mktemp(kind)))[1] for kind in ("sft", "rl")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_killed_between_checkpoints_it_ends_the_same(
    begin: Starter, undisturbed: dict[str, Artifact], kind: str, tmp_path: Path
) -> None:
    straight = undisturbed[kind]
    # the checkpoint is written beside the training, and is late on a busy machine
    saved = f"artifacts/{kind}-*/.scratch/checkpoint/step-{EVERY:08d}"
    kill_when(begin(kind, tmp_path), lambda: receipts(tmp_path) >= EVERY + 2 and any(tmp_path.glob(saved)))
    _, killed = finish(begin(kind, tmp_path))
    assert killed.fingerprint == straight.fingerprint
    assert killed.summary["resumed_from"] == EVERY
    assert straight.summary["resumed_from"] is None
    for name in (*SAME, "rollouts.jsonl" if kind == "rl" else "conversations.json"):
        assert killed.file(name).read_bytes() == straight.file(name).read_bytes(), name
    steps = [line["step"] for line in read_jsonl(killed.file("receipts.jsonl"))]
    assert steps == list(range(straight.summary["steps"]))
    ledger = read_json(killed.file("ledger.json"))
    assert ledger["planned"] == ledger["realized"]
    theta = read_json(killed.file("hf/config.json"))["rope_parameters"]["rope_theta"]
    assert (
        theta == read_json(Path(straight.path / "hf/config.json"))["rope_parameters"]["rope_theta"] == 20000.0
    )


@pytest.mark.slow
def test_two_data_parallel_ranks_read_the_same_batches_and_play_the_same_episodes(
    begin: Starter, undisturbed: dict[str, Artifact], tmp_path: Path
) -> None:
    one = list(read_jsonl(undisturbed["rl"].file("receipts.jsonl")))
    two = list(read_jsonl(finish(begin("rl", tmp_path, 2))[1].file("receipts.jsonl")))
    assert len(one) == len(two)
    assert one[0]["batch_sha256"] == two[0]["batch_sha256"]
    assert float.fromhex(one[0]["loss"]) == pytest.approx(float.fromhex(two[0]["loss"]), abs=1e-5)
    assert float.fromhex(one[0]["grad_norm"]) == pytest.approx(float.fromhex(two[0]["grad_norm"]), rel=1e-3)
