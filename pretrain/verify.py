"""Do two models compute the same? Block by block, on the same tokens.

Each block is compared twice: as it is reached (what the blocks before deviate adds up), and by itself, given
the first model's input to it. By itself a layer deviates only if its own weights or its own arithmetic do, so
the first such block is where to look. (A layer's MLP takes in what that layer's attention made, even then.)
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.convert import HFFolder, MegatronFolder, hf_shapes, hf_to_megatron, scatter
from pretrain.convert.source import open_weights
from stemma.core.config import differences, identity
from stemma.core.errors import StemmaError
from stemma.core.stage import Execution

EMBEDDING, NORM, LOGITS = "embedding", "final norm", "logits"
Trace = dict[str, Tensor]


@dataclass(frozen=True)
class Deviation:
    """How far the second model is from the first after one block.

    Attributes:
        block: its name.
        alone: norm of the difference over the norm of the first model's output, given the same input.
        reached: the same with what the blocks before it made.
        largest: the largest difference of a value, as reached.
    """

    block: str
    alone: float
    reached: float
    largest: float


@dataclass(frozen=True)
class Verification:
    """The outcome.

    Attributes:
        deviations: one per block, in the order of the model.
        tolerance: what ``alone`` may be.
        first: the first block that deviates by itself; None: none does.
        agreement: share of positions at which both models' most probable token is the same.
        notes: fields in which the two configs differ.
    """

    deviations: list[Deviation]
    tolerance: float
    first: str | None
    agreement: float
    notes: list[str]


class Model:
    """A model whose hidden states can be read and replaced between blocks.

    Args:
        forward: runs tokens ``[1, seq]`` through it.
        watched: block -> (module, whether its input or its output is what the block made).
        entries: module -> the block whose output it takes in.
        batch_dim: of its hidden states.
        device: where it computes; traces are on the CPU.
        head: from the final norm's output to logits.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        watched: Mapping[str, tuple[nn.Module, str]],
        entries: Mapping[nn.Module, str],
        batch_dim: int,
        device: torch.device,
        head: Callable[[Tensor], Tensor],
    ) -> None:
        self.forward, self.watched, self.entries = forward, watched, entries
        self.batch_dim, self.device, self.head = batch_dim, device, head

    @torch.no_grad()
    def trace(self, tokens: Tensor, given: Trace | None = None) -> Trace:
        """Output of every block, ``[seq, width]`` fp32, on the CPU.

        Args:
            tokens: ``[1, seq]``.
            given: each block gets its input from here instead of from the block before it.
        """
        seen: Trace = {}
        with ExitStack() as stack:
            for module, source in self.entries.items():
                if given is not None:
                    hidden = given[source].unsqueeze(self.batch_dim).to(self.device)
                    stack.enter_context(_replaced_input(module, hidden))
            for block, (module, side) in self.watched.items():
                stack.enter_context(_watched(module, side, partial(self._keep, seen, block)))
            self.forward(tokens.to(self.device))
        last = seen[NORM] if given is None else given[NORM]
        seen[LOGITS] = self.head(last.to(self.device)).float().cpu()
        return seen

    def _keep(self, seen: Trace, block: str, hidden: Tensor) -> None:
        seen[block] = hidden.select(self.batch_dim, 0).to("cpu", torch.float32, copy=True)


@contextmanager
def _replaced_input(module: nn.Module, hidden: Tensor) -> Iterator[None]:
    def replace(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if "hidden_states" in kwargs:
            return args, kwargs | {"hidden_states": hidden}
        return (hidden, *args[1:]), kwargs

    handle = module.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watched(module: nn.Module, side: str, keep: Callable[[Tensor], None]) -> Iterator[None]:
    def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
        keep(args[0])

    def after(_module: nn.Module, _args: Any, output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    hook = (
        module.register_forward_pre_hook(before) if side == "input" else module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        hook.remove()


def transformers_model(folder: Path) -> Model:
    """The model of a Hugging Face folder, in fp32, as transformers computes it."""
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    watched, entries = _layers(whole.model.layers, "post_attention_layernorm")
    return Model(
        forward=lambda tokens: whole(tokens, use_cache=False),
        watched={
            EMBEDDING: (whole.model.embed_tokens, "output"),
            **watched,
            NORM: (whole.model.norm, "output"),
        },
        entries=entries | {whole.model.norm: list(watched)[-1]},
        batch_dim=0,
        device=whole.device,
        head=whole.lm_head,
    )


def megatron_model(weights: HFFolder | MegatronFolder) -> Model:
    """The model of a folder, in fp32, as Megatron computes it, in this process alone."""
    from pretrain.device import local_device
    from pretrain.model import build_model, megatron_config
    from pretrain.ranks import join
    from pretrain.topology import Topology

    join(Topology(), Execution().hang_seconds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of packages that Megatron would use on CUDA
        module = build_model(weights.model, megatron_config(weights.model)).eval()
    state = weights if isinstance(weights, MegatronFolder) else hf_to_megatron(weights, weights.model)
    scatter(module, weights.model, state)
    module.set_rope_theta(weights.rope_theta)
    watched, entries = _layers(module.decoder.layers, "pre_mlp_layernorm")
    norm = module.decoder.final_layernorm
    return Model(
        forward=lambda tokens: module(tokens, torch.zeros_like(tokens), None),
        watched={EMBEDDING: (module.embedding, "output"), **watched, NORM: (norm, "output")},
        entries=entries | {norm: list(watched)[-1]},
        batch_dim=1,
        device=local_device(),
        head=lambda hidden: F.linear(hidden, module.shared_embedding_or_output_weight()),
    )


def _layers(
    layers: nn.ModuleList, middle: str
) -> tuple[dict[str, tuple[nn.Module, str]], dict[nn.Module, str]]:
    """What is watched of the layers, and what each takes in.

    Args:
        layers: of the model.
        middle: the norm between attention and MLP; its input is what attention made of the residual stream.
    """
    watched: dict[str, tuple[nn.Module, str]] = {}
    entries = {}
    before = EMBEDDING
    for number, layer in enumerate(layers):
        entries[layer] = before
        watched[f"layer {number} attention"] = (getattr(layer, middle), "input")
        before = f"layer {number} mlp"
        watched[before] = (layer, "output")
    return watched, entries


def verify(
    first: Path, second: Path, length: int = 64, seed: int = 0, tolerance: float = 1e-5
) -> Verification:
    """Compare two models on random tokens. They are held in memory one after the other, in fp32.

    Args:
        first: a Hugging Face folder (computed by transformers) or a Megatron checkpoint (by Megatron).
        second: the same.
        length: tokens.
        seed: of the tokens.
        tolerance: what a block may deviate by itself, relative to its output's norm. Two correct
            implementations are about 1e-6 apart in fp32.

    Raises:
        StemmaError: their tensors are of other shapes, so that there is nothing to compare.
    """
    one, other = open_weights(first), open_weights(second)
    notes = differences(identity(one.model), identity(other.model))
    if hf_shapes(one.model) != hf_shapes(other.model):
        raise StemmaError(f"{first} and {second} are models of other shapes: {'; '.join(notes)}")
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, one.model.vocab_size, (1, length), generator=generator)
    expected = _model(one).trace(tokens)
    model = _model(other)
    reached, alone = model.trace(tokens), model.trace(tokens, given=expected)
    deviations = [
        Deviation(
            block,
            relative(alone[block], hidden),
            relative(reached[block], hidden),
            float((reached[block] - hidden).abs().max()),
        )
        for block, hidden in expected.items()
    ]
    return Verification(
        deviations,
        tolerance,
        next((row.block for row in deviations if not row.alone <= tolerance), None),
        float((expected[LOGITS].argmax(-1) == reached[LOGITS].argmax(-1)).double().mean()),
        notes,
    )


def _model(weights: HFFolder | MegatronFolder) -> Model:
    return transformers_model(weights.folder) if isinstance(weights, HFFolder) else megatron_model(weights)


def relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over the norm of what was expected; infinite where a value is not finite."""
    distance = float((found - expected).double().norm() / expected.double().norm().clamp_min(1e-30))
    return distance if math.isfinite(distance) else math.inf
