"""Import the engine as on a machine with CUDA, and run the model on fake tensors in place of its memory.

Megatron stays as it is there, without what ``pretrain.device`` does for CPUs. Shapes, types, devices and
calls are checked, figures are not; nor is the backward pass, for which a torch without CUDA has no answer.
"""

# ruff: noqa: E402  (torch is told of a device first)
import os
from typing import Any

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # it would ask the device for its random state

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

torch.cuda.is_available = lambda: True
torch.cuda.current_device = lambda: torch.device("cuda", 0)

from kernels.dispatch import in_triton
from pretrain import device
from pretrain.model import build_model, megatron_config
from tests.pretrain.helpers import REFERENCE, TINY

# isort: split
from megatron.core import parallel_state
from megatron.core.tensor_parallel import layers


class Operators(TorchFunctionMode):
    """Methods by operators of the same effect, where torch's shortcut asks the device, which is not there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.contiguous:
            return torch.clone(args[0], memory_format=torch.contiguous_format)
        if func is torch.Tensor.float:
            return torch.ops.aten._to_copy(args[0], dtype=torch.float32)
        if func is torch.Tensor.to:
            dtype = next(
                (x for x in (*args[1:], *(kwargs or {}).values()) if isinstance(x, torch.dtype)), None
            )
            return torch.ops.aten._to_copy(args[0], dtype=dtype)
        if func is not torch.Tensor.__getitem__:
            return func(*args, **(kwargs or {}))
        x, index = args
        index, at = index if isinstance(index, tuple) else (index,), 0
        for part in index:
            if part is Ellipsis:
                at = x.dim() - sum(other is not None for other in index[index.index(Ellipsis) + 1 :])
            elif part is None:
                x, at = x.unsqueeze(at), at + 1
            elif isinstance(part, int):
                x = x.select(at, part)
            else:
                x, at = torch.ops.aten.slice(x, at, part.start, part.stop, part.step or 1), at + 1
        return x


def main() -> None:
    assert device.ON_CUDA
    assert layers.linear_with_grad_accumulation_and_async_allreduce.__module__.startswith("megatron")
    dist.init_process_group("cpu:gloo,cuda:fake", store=dist.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    cuda = torch.device("cuda", 0)
    for shape in (REFERENCE, TINY.model_copy(update={"q_lora_rank": None, "tie_word_embeddings": False})):
        with FakeTensorMode(), Operators(), cuda, torch.no_grad():
            module = build_model(shape, megatron_config(shape, "bf16"))
            for parameter in module.parameters():
                parameter.data = parameter.data.bfloat16()
            tokens = torch.zeros(2, 64, dtype=torch.long)
            for starts in (None, torch.zeros(6, dtype=torch.int32)):
                logits = module(tokens, tokens, starts)
                assert logits.shape == (2, 64, shape.vocab_size)
                assert (logits.device, logits.dtype) == (cuda, torch.float32)
                assert in_triton(logits)
            print(sum(parameter.numel() for parameter in module.parameters()))


if __name__ == "__main__":
    main()
