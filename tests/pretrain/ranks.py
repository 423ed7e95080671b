"""What the tests run on several ranks. Started by ``helpers.run_ranks``, never by pytest itself."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pretrain.batch import MicroBatch
from pretrain.engine import Engine
from tests.pretrain.helpers import build, parameter_hash, rows, train, two_documents


def topology(text: str, sharded: bool) -> Engine:
    """``"tp,pp,dp"``"""
    tensor, pipeline, data = map(int, text.split(","))
    return build(
        sharded_optimizer=sharded, tensor_parallel=tensor, pipeline_parallel=pipeline, data_parallel=data
    )


def split(text: str, sharded: bool) -> dict[str, Any]:
    """Initial weights, six losses, evaluation, log-probabilities and final weights of a split model."""
    engine = topology(text, sharded)
    initial = engine.hf_state_dict()
    initial = {name: tensor.clone() for name, tensor in initial.items()}
    losses = train(engine, 0, 6)
    tokens, labels, mask = rows(99)
    share = slice(engine.data_rank * 4 // engine.data_size, (engine.data_rank + 1) * 4 // engine.data_size)
    micro = MicroBatch(tokens[share], labels[share], mask[share], torch.zeros_like(tokens[share]))
    evaluation = engine.evaluate([micro])
    packed = engine.evaluate([replace(micro, cu_seqlens=two_documents(len(micro.tokens)))])
    logprobs = engine.token_logprobs_no_grad(tokens)
    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, [losses, evaluation, packed, logprobs.tolist()])
    assert all(other == everywhere[0] for other in everywhere), "ranks report different figures"
    final = engine.hf_state_dict()
    return {
        "losses": losses,
        "evaluation": evaluation,
        "packed": packed,
        "logprobs": logprobs.tolist(),
        "initial": {name: tensor.tolist() for name, tensor in initial.items()},
        "final": {name: tensor.tolist() for name, tensor in final.items()},
    }


def save(text: str, sharded: bool, folder: str) -> dict[str, Any]:
    """Three steps and a checkpoint; then three more."""
    engine = topology(text, sharded)
    train(engine, 0, 3)
    engine.save(Path(folder), {"step": 3})
    return {"losses": train(engine, 3, 6), "hash": parameter_hash(engine)}


def resume(text: str, sharded: bool, folder: str) -> dict[str, Any]:
    """Continue from a checkpoint of three steps."""
    engine = topology(text, sharded)
    extra = engine.load(Path(folder))
    return {"extra": extra, "losses": train(engine, 3, 6), "hash": parameter_hash(engine)}


if __name__ == "__main__":
    functions = {"split": split, "save": save, "resume": resume}
    results = [functions[name](*arguments) for name, *arguments in json.loads(Path(sys.argv[1]).read_text())]
    if dist.get_rank() == 0:
        Path(sys.argv[2]).write_text(json.dumps(results))
    dist.barrier()
    dist.destroy_process_group()
