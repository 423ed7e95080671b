"""How ranks share one training run, checked before anything starts. Torch-free."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import lcm

from pretrain.config import ModelConfig
from stemma.core.errors import StemmaError
from stemma.core.stage import Execution


class TopologyError(StemmaError):
    """A model cannot be split over ranks as asked."""

    exit_code = 2


@dataclass(frozen=True)
class Topology:
    """How ranks share one model.

    Attributes:
        tensor: ranks that share each layer (TP).
        pipeline: ranks that share the depth (PP).
        context: ranks that share each sequence (CP).
        data: replicas (DP). The optimizer's state is sharded over ``data * context`` ranks.
        sequence_parallel: tensor-parallel ranks share the positions between layers too (SP).
    """

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    data: int = 1
    sequence_parallel: bool = False

    @classmethod
    def of(cls, execution: Execution) -> "Topology":
        """The topology a run is carried out on."""
        return cls(
            execution.tensor_parallel,
            execution.pipeline_parallel,
            execution.context_parallel,
            execution.data_parallel,
            execution.sequence_parallel,
        )

    @property
    def ranks(self) -> int:
        """Devices in use."""
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def length_multiple(self) -> int:
        """Positions of a row come in multiples of this; shorter rows are padded at their end.

        Context-parallel ranks hold two chunks each, tensor-parallel ones equal shares of what their rank
        holds.
        """
        shares = self.tensor if self.sequence_parallel else 1
        return self.context * lcm(2, shares) if self.context > 1 else shares

    def problems(self, model: ModelConfig) -> Iterator[str]:
        """Every size of the model that does not divide by the ranks that share it, in words."""
        shared = {
            "num_attention_heads": (model.num_attention_heads, "tensor", self.tensor),
            "ffn_hidden_size": (model.ffn_hidden_size, "tensor", self.tensor),
            "vocab_size": (model.vocab_size, "tensor", self.tensor),
            "kv_lora_rank + qk_rope_head_dim": (
                model.kv_lora_rank + model.qk_rope_head_dim,
                "tensor",
                self.tensor,
            ),
            "q_lora_rank": (model.q_lora_rank or 0, "tensor", self.tensor),
            "num_layers": (model.num_layers, "pipeline", self.pipeline),
        }
        for name, (size, kind, ranks) in shared.items():
            if size % ranks:
                yield f"{name} = {size} does not divide by {ranks} {kind}-parallel ranks"
        if self.sequence_parallel and self.tensor == 1:
            yield "sequence_parallel shares positions among tensor-parallel ranks, and tensor_parallel is 1"

    def check(self, model: ModelConfig) -> None:
        """Require that the model divides.

        Raises:
            TopologyError: names everything that does not divide.
        """
        if problems := list(self.problems(model)):
            raise TopologyError(
                f"tensor {self.tensor} x pipeline {self.pipeline} x context {self.context} ranks cannot "
                "share this model:\n" + "\n".join(f"  {problem}" for problem in problems)
            )


def run_problems(execution: Execution, model: ModelConfig, batches: Mapping[str, int]) -> Iterator[str]:
    """Everything that keeps a run from being carried out as asked, in words.

    Args:
        execution: ranks and machines.
        model: the shape they share.
        batches: sequences of one optimizer step by the place they are written at.
    """
    for problem in Topology.of(execution).problems(model):
        yield f"execution: {problem}"
    if execution.ranks % execution.nodes:
        yield f"execution: {execution.ranks} ranks cannot be spread evenly over nodes {execution.nodes}"
    if execution.nodes > 1 and not execution.rendezvous and execution.launcher == "local":
        yield "execution.rendezvous is empty; with nodes above 1, give the first machine's host:port"
    for place, sequences in batches.items():
        if sequences % execution.data_parallel:
            yield (
                f"{place}: steps of {sequences} sequences cannot be split over execution.data_parallel "
                f"{execution.data_parallel} replicas"
            )
