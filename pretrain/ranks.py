"""The ranks of a run: they find each other, and tell each other what a step came to."""

import math
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain import device
from pretrain.topology import Topology
from stemma.core.errors import StemmaError

# isort: split
# Megatron is imported after pretrain.device, which prepares it for a CPU.
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker


def join(topology: Topology, patience: float) -> None:
    """Initialise torch.distributed, if nobody has, and Megatron's groups anew.

    Args:
        topology: how many ranks share what.
        patience: seconds a rank waits for the others. The supervisor has to lose its own first: it can tell
            which rank hangs, and where.

    Raises:
        StemmaError: the number of processes is not TP x PP x CP x DP.
    """
    timeout = timedelta(seconds=patience)
    if not dist.is_initialized():
        if dist.is_torchelastic_launched():
            dist.init_process_group(device.backend(), timeout=timeout)
        else:
            dist.init_process_group(device.backend(), store=dist.HashStore(), rank=0, world_size=1)
    if dist.get_world_size() != topology.ranks:
        raise StemmaError(
            f"this run has {dist.get_world_size()} processes, but needs {topology.ranks}: tensor_parallel "
            f"{topology.tensor} x pipeline_parallel {topology.pipeline} x context_parallel "
            f"{topology.context} x data_parallel {topology.data}"
        )
    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=topology.tensor,
        pipeline_model_parallel_size=topology.pipeline,
        context_parallel_size=topology.context,
        distributed_timeout_minutes=math.ceil(patience / 60),
    )
    # Nothing is drawn at random while training. Sequence parallelism asks for generators all the same; those
    # of inference are none.
    initialize_rng_tracker(inference_rng_tracker=True)


def sum_over_ranks(results: list[dict[str, Tensor]]) -> dict[str, float]:
    """Add up figures of micro batches in float64, then those of the ranks that had other positions.

    Args:
        results: figures of each micro batch under the same names; empty but on the last pipeline stage, which
            tells the others.

    Returns:
        The sums over the step, on every rank.
    """
    totals = {name: sum(result[name].double() for result in results) for name in (results or [{}])[0]}
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    if group.size() > 1 and totals:
        stacked = torch.stack([torch.as_tensor(value) for value in totals.values()])
        dist.all_reduce(stacked, group=group)
        totals = dict(zip(totals, stacked))
    values = {name: float(value) for name, value in totals.items()}
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        box = [values]
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast_object_list(box, last, parallel_state.get_pipeline_model_parallel_group())
        values = box[0]
    return values
