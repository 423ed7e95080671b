"""Which device trains, and everything Megatron-core assumes about CUDA that a CPU run has to answer.

Import this before anything of ``megatron``. With CUDA and Transformer Engine it touches nothing, with CUDA
alone it sees to 5 and 7 below. Without CUDA importing it prepares Megatron-core 0.16 for the CPU, and
``cuda_answered()`` guards the places where models, optimizers and checkpoints are put together. The whole
list, each with why it is there:

1. ``torch.cuda.current_device()`` is called wherever Megatron allocates: it answers the CPU device.
   Checkpoints call ``torch.cuda.synchronize()`` before they copy: there is nothing to wait for.
2. ``torch.zeros(..., device="cuda")`` and its like stand in the schedules, the optimizers, gradient clipping
   and the gradient buffers. Those modules see ``torch`` through a proxy that reads "cuda" as "cpu". A
   ``TorchFunctionMode`` would do the same but taxes every torch call of a training step.
3. Clipping asserts that gradients are of type ``torch.cuda.FloatTensor``: the one function that does is
   replaced.
4. ``Tensor.cuda()`` and ``Tensor.type()`` are asked while those are put together: ``cuda_answered()`` answers
   them, through a mode that is active only there.
5. ``multi_latent_attention.HAVE_TE`` is True without Transformer Engine: its imports succeed, the names are
   None.
6. Importing Megatron wraps helpers in ``torch.compile``, which would load Dynamo (1.3 s) and compile at the
   first step (a C++ compiler, half a minute): the helpers stay plain functions.
7. ``DistributedOptimizer`` loads moments as Transformer Engine's Adam keeps them; torch's AdamW, which stands
   in for it, also keeps a step per parameter, which Megatron restores beforehand and then trips over; before
   the first step it has none, and Megatron asserts that it has one.

8. Its linear layers compute through MKL, and add a weight's gradient into the gradient buffer in a pass of
   its own unless an extension for CUDA is there: ``pretrain.linears`` takes their place.
9. Recomputed layers set back the CUDA generator, and rotary angles of context-parallel ranks are cut with a
   pinned index: the one does nothing, the other cuts with an ordinary one.

Random numbers need no answer else: the model has no dropout, and its weights are drawn by ``pretrain.model``,
not Megatron.
"""

import contextlib
import ctypes
import importlib.util
import os
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pretrain.linears import parallel_linear

ON_CUDA = torch.cuda.is_available()
CPU = torch.device("cpu")


def local_device() -> torch.device:
    """The device of this process: its own GPU (``LOCAL_RANK``), or the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if ON_CUDA else CPU


def backend() -> str:
    """The torch.distributed backend of the device."""
    return "nccl" if ON_CUDA else "gloo"


def start(threads: int) -> torch.device:
    """Make this process ready to compute.

    Args:
        threads: OpenMP threads on a CPU; left alone on CUDA.

    Returns:
        The device to put tensors on.
    """
    device = local_device()
    if ON_CUDA:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(threads)
        _keep_freed_memory()
        # Adam's moments of rare tokens decay into denormals, which are a hundred times slower.
        torch.set_flush_denormal(True)
    return device


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of large tensors; by default each step faults it in anew (5-8 %)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # another libc: slower, not wrong
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


@contextlib.contextmanager
def cuda_answered() -> Iterator[None]:
    """Build models and optimizers, save and load them inside this; on CUDA it does nothing."""
    with contextlib.nullcontext() if ON_CUDA else _AnswerAsCuda():
        yield


class _AnswerAsCuda(TorchFunctionMode):
    """``Tensor.cuda()`` returns the tensor; ``Tensor.type()`` names the CUDA type of the same precision."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        result = func(*args, **(kwargs or {}))
        if func is torch.Tensor.type and isinstance(result, str):
            return result.replace("torch.", "torch.cuda.", 1)
        return result


class _TorchOnCpu(types.ModuleType):
    """``torch``, but the factories that Megatron calls with ``device="cuda"`` allocate on the CPU."""

    def __init__(self) -> None:
        super().__init__("torch")
        for name in ("zeros", "ones", "empty", "tensor", "full", "arange"):
            setattr(self, name, self._on_cpu(getattr(torch, name)))

    @staticmethod
    def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def allocate(*args: Any, device: Any = None, **kwargs: Any) -> torch.Tensor:
            return factory(*args, device=CPU if device == "cuda" else device, **kwargs)

        return allocate

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _clip_grad_by_total_norm(
    parameters: list[torch.Tensor], max_norm: float, total_norm: float, use_decoupled_grad: bool = False
) -> None:
    """Scale gradients in place to a norm of at most ``max_norm``: Megatron's formula, one fused call."""
    coefficient = max_norm / (total_norm + 1.0e-6)
    if coefficient < 1.0:
        torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], coefficient)


def _load_states_of_torch_adamw(distributed_optimizer: Any) -> None:
    original = distributed_optimizer._set_main_param_and_optimizer_states

    def load_states(self: Any, model_param: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        group, place = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][place]]
        state["step"] = state[
            "step"
        ].clone()  # Megatron gave all parameters one tensor; AdamW counts in place
        original(self, model_param, tensors | {"step": state["step"]})

    original_state_dict = distributed_optimizer.state_dict

    def state_dict(self: Any) -> dict[str, Any]:
        if not self.optimizer.state:  # before the first step, as when a fresh process loads
            for parameter in (p for group in self.optimizer.param_groups for p in group["params"]):
                moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
        return original_state_dict(self)  # type: ignore[no-any-return]

    distributed_optimizer._set_main_param_and_optimizer_states = load_states
    distributed_optimizer.state_dict = state_dict


def _angles_of_this_rank(
    angles: torch.Tensor, dimension: int, group: torch.distributed.ProcessGroup
) -> torch.Tensor:
    """The rotary angles of the positions a context-parallel rank holds: Megatron's zigzag."""
    chunks = angles.chunk(2 * group.size(), dimension)
    return torch.cat([chunks[group.rank()], chunks[2 * group.size() - 1 - group.rank()]], dimension)


def _prepare_megatron_for_cpu() -> None:
    torch.cuda.current_device = lambda: CPU  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda device=None: None
    compile_ = torch.compile
    torch.compile = lambda function=None, **_: function if function else (lambda inner: inner)  # type: ignore
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # "Transformer Engine and Apex are not installed"
            from megatron.core import utils
            from megatron.core.distributed import param_and_grad_buffer
            from megatron.core.models import backends  # noqa: F401  (warns too)
            from megatron.core.models.common.embeddings import rotary_pos_embedding
            from megatron.core.optimizer import clip_grads, distrib_optimizer, grad_scaler, optimizer
            from megatron.core.pipeline_parallel import schedules
            from megatron.core.tensor_parallel import layers, random

            _do_without_transformer_engine()
    finally:
        torch.compile = compile_
    proxy = _TorchOnCpu()
    for module in (
        utils,
        param_and_grad_buffer,
        clip_grads,
        distrib_optimizer,
        grad_scaler,
        optimizer,
        schedules,
    ):
        module.torch = proxy
    optimizer.clip_grad_by_total_norm_fp32 = _clip_grad_by_total_norm
    layers.linear_with_grad_accumulation_and_async_allreduce = parallel_linear
    rotary_pos_embedding.get_pos_emb_on_this_cp_rank = _angles_of_this_rank
    random._get_cuda_rng_state = lambda *_, **__: None
    random._set_cuda_rng_state = lambda *_, **__: None


def _do_without_transformer_engine() -> None:
    from megatron.core.optimizer import USING_PYTORCH_OPTIMIZER, distrib_optimizer
    from megatron.core.transformer import multi_latent_attention

    multi_latent_attention.HAVE_TE = False
    if USING_PYTORCH_OPTIMIZER:
        _load_states_of_torch_adamw(distrib_optimizer.DistributedOptimizer)


if not ON_CUDA:
    _prepare_megatron_for_cpu()
elif importlib.util.find_spec("transformer_engine") is None:
    _do_without_transformer_engine()
