"""The fastest way to share a stage's training over given GPUs, by a first-order estimate of a step's time.

Estimated, not measured: no GPU was at hand. The estimate has to rank topologies, and for that the large terms
are enough: arithmetic, recomputation, the pipeline's bubble, and the bytes each kind of sharing moves, at the
bandwidths of ``costs.DEVICES``, nothing hidden behind anything else (the engine overlaps neither).

Per micro batch and layer, in bytes of a tensor-parallel rank's share (``k = micro rows * positions / CP``):

- TP: two all-reduces of ``k h`` forward and two backward (Shoeybi et al. 2019, arXiv 1909.08053), of which
  a ring moves ``2 (t - 1) / t`` times the tensor, and the gathers of the latents, ``k (q + c + d_r)``;
- CP: keys and values of the whole sequence, gathered forward and once more backward, and their gradients
  scattered (Llama 3, arXiv 2407.21783, section 3.3.2);
- PP: ``k h`` per boundary and direction; the bubble is ``p - 1`` micro batches (arXiv 2104.04473, 2.2);
- DP: once a step, gradients in fp32 and weights in the compute format over replicas and CP ranks (ZeRO-1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

from pretrain.config import ModelConfig, Precision
from pretrain.costs import (
    Device,
    Memory,
    memory,
    rank_parameters,
    state_bytes_per_parameter,
    training_flops,
)
from pretrain.topology import Topology

GPUS_PER_NODE = 8
ROOM = 0.9
"""Share of a GPU's memory that may be planned: the rest is the allocator's and the communication buffers'."""
REACHED = 0.7
"""Share of a link's bandwidth that collectives reach."""


@dataclass(frozen=True)
class Work:
    """Steps of one sequence length.

    Attributes:
        length: positions of a sequence.
        sequences: in one optimizer step.
        rows: sequences in one forward pass, at most.
        steps: of this kind.
    """

    length: int
    sequences: int
    rows: int
    steps: int


@dataclass(frozen=True)
class Estimate:
    """One way to share a stage.

    Attributes:
        topology: how.
        recompute: whether activations are computed again in the backward pass.
        seconds: of the whole stage.
        useful: seconds of that which are the model's own arithmetic.
        memory: of the fullest GPU at the longest sequence, bytes.
    """

    topology: Topology
    recompute: bool
    seconds: float
    useful: float
    memory: Memory


def topologies(model: ModelConfig, gpus: int) -> Iterator[Topology]:
    """Every topology of exactly so many ranks that can share the model.

    Tensor-parallel ranks stay within a machine, where they share positions between layers, too.
    """
    for tensor in _divisors(gpus, GPUS_PER_NODE):
        for pipeline in _divisors(gpus // tensor, model.num_layers):
            for context in _divisors(gpus // (tensor * pipeline), gpus):
                data = gpus // (tensor * pipeline * context)
                topology = Topology(tensor, pipeline, context, data, sequence_parallel=tensor > 1)
                if not any(topology.problems(model)):
                    yield topology


def feasible(options: Sequence[Estimate], work: Sequence[Work], device: Device) -> list[Estimate]:
    """The options that the memory and the batches allow, fastest first; of equally fast ones the simplest."""
    found = [
        option
        for option in options
        if option.memory.total <= ROOM * device.memory
        and all(
            part.sequences % option.topology.data == 0 and part.length % option.topology.length_multiple == 0
            for part in work
        )
    ]
    return sorted(
        found,
        key=lambda option: (option.seconds, option.recompute, option.topology.ranks // option.topology.data),
    )


def estimate(
    model: ModelConfig,
    precision: Precision,
    work: Sequence[Work],
    topology: Topology,
    recompute: bool,
    device: Device,
    mfu: float,
) -> Estimate:
    """Time and memory of one topology.

    Raises:
        TopologyError: the model does not divide.
    """
    seconds = useful = 0.0
    for part in work:
        of_step, of_model = _step_seconds(model, precision, part, topology, recompute, device, mfu)
        seconds += part.steps * of_step
        useful += part.steps * of_model
    longest = max(work, key=lambda part: part.length)
    held = memory(model, topology, precision, longest.length, longest.rows, recompute)
    return Estimate(topology, recompute, seconds, useful, held)


def _step_seconds(
    model: ModelConfig,
    precision: Precision,
    work: Work,
    topology: Topology,
    recompute: bool,
    device: Device,
    mfu: float,
) -> tuple[float, float]:
    """Seconds of one step, and of its share that is the model's arithmetic."""
    share = max(1, work.sequences // topology.data)
    rows = gcd(work.rows, share)  # as the engine forms micro batches
    micro_batches = share // rows
    passes = 4 / 3 if recompute else 1.0
    flops = training_flops(model, work.length) * rows * work.length
    split = topology.tensor * topology.context * topology.pipeline
    useful = flops / split / (device.flops * mfu)
    layers = model.num_layers // topology.pipeline
    one = passes * useful + layers * _layer_traffic(
        model, precision, work.length * rows, topology, recompute, device
    )
    if topology.pipeline > 1:
        hidden = rows * work.length / topology.context * model.hidden_size * _size(precision)
        one += 2 * hidden / (device.network * REACHED)
    seconds = (micro_batches + topology.pipeline - 1) * one
    return seconds + _gradient_seconds(model, precision, topology, device), micro_batches * useful


def _layer_traffic(
    model: ModelConfig, precision: Precision, tokens: int, topology: Topology, recompute: bool, device: Device
) -> float:
    """Seconds that a micro batch of ``tokens`` positions spends in a layer's collectives."""
    size, heads = _size(precision), model.num_attention_heads
    rounds = 3 if recompute else 2  # forward, backward, and forward once more
    seconds = 0.0
    t, c = topology.tensor, topology.context
    if t > 1:
        own = tokens / c * size
        latents = (model.q_lora_rank or 0) + model.kv_lora_rank + model.qk_rope_head_dim
        moved = rounds * own * (2 * 2 * model.hidden_size + latents) * (t - 1) / t
        seconds += moved / (device.link * REACHED)
    if c > 1:
        keys_values = heads / t * (model.qk_head_dim + model.v_head_dim) * tokens * size
        seconds += 3 * keys_values * (c - 1) / c / (_bandwidth(device, t * c) * REACHED)
    return seconds


def _gradient_seconds(model: ModelConfig, precision: Precision, topology: Topology, device: Device) -> float:
    replicas = topology.data * topology.context
    if replicas == 1:
        return 0.0
    weights, gradients, _ = state_bytes_per_parameter(precision, replicas)
    count = max(rank_parameters(model, topology, last) for last in (False, True))
    moved = count * (weights + gradients) * (replicas - 1) / replicas
    return moved / (_bandwidth(device, topology.ranks) * REACHED)


def _bandwidth(device: Device, ranks: int) -> float:
    """Bytes/s between neighbours of a group that spans so many ranks: inside a machine, or across."""
    return device.link if ranks <= GPUS_PER_NODE else device.network


def _size(precision: Precision) -> int:
    return 4 if precision == "fp32" else 2


def _divisors(number: int, most: int) -> list[int]:
    return [divisor for divisor in range(1, min(number, most) + 1) if number % divisor == 0]
