"""Kernels on a device against their references in float64."""

from typing import Any

import pytest
import torch

from kernels.attention.reference import causal_attention, document_starts, oracle_attention
from kernels.cross_entropy import reference
from kernels.dispatch import in_triton
from kernels.fp8 import reference as fp8
from kernels.fp8.reference import E4M3, E5M2
from pretrain.cross_entropy import token_statistics
from tests.kernels.test_fp8 import matrix

DIGITS = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def documents(batch: int, seq: int) -> torch.Tensor:
    """A number for each position: rows cut at other places, one into many, one not at all."""
    cuts = torch.rand(batch, seq, generator=torch.Generator().manual_seed(1)) < 0.05
    cuts[-1] = False
    return cuts.cumsum(1)


@pytest.mark.parametrize("dtype", DIGITS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("d_qk", "d_v"), [(48, 32), (128, 64), (192, 128)])
@pytest.mark.parametrize("first", [0, 96])
def test_attention_is_the_definition(
    dtype: torch.dtype, packed: bool, d_qk: int, d_v: int, first: int
) -> None:
    """Also of the last positions of rows only, as ranks of context parallelism ask."""
    batch, heads, seq = 3, 4, 192
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, seq, d_qk)] * 2 + [(batch, heads, seq, d_v)]
    inputs = [torch.randn(shape, generator=generator).to("cuda", dtype).requires_grad_() for shape in shapes]
    marks = documents(batch, seq).cuda() if packed else None
    starts = None if marks is None else document_starts(marks)
    query, key, value = inputs
    out = causal_attention(query[:, :, first:], key, value, None, starts, first)
    out.float().square().sum().backward()
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = oracle_attention(*exact, documents=marks)[:, :, first:]
    expected.square().sum().backward()
    for found, right in zip([out, *(x.grad for x in inputs)], [expected, *(x.grad for x in exact)]):
        assert found.dtype == dtype
        assert (found.double() - right).abs().max() <= 4 * DIGITS[dtype] * right.abs().max()


@pytest.mark.parametrize("vocab", [96, 8192, 128_256])
@pytest.mark.parametrize("switch", ["1", "0"])
def test_cross_entropy_is_that_of_float64(monkeypatch: Any, vocab: int, switch: str) -> None:
    monkeypatch.setenv("STEMMA_TRITON", switch)
    generator = torch.Generator("cuda").manual_seed(0)
    logits = 8 * torch.randn(2, 64, vocab, generator=generator, device="cuda")
    labels = torch.randint(vocab, (2, 64), generator=generator, device="cuda")
    assert in_triton(logits) == (switch == "1")
    weights = torch.randn(2, 2, 64, generator=generator, device="cuda")
    exact, mine = logits.double().requires_grad_(), logits.clone().requires_grad_()
    logs = exact.log_softmax(-1)
    expected = [
        -logs.gather(-1, labels[..., None])[..., 0],
        exact.logsumexp(-1),
        -(logs.exp() * logs).sum(-1),
    ]
    found = token_statistics(mine * 1.0, labels, None, entropy=True)
    for value, right in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), right, atol=5e-6, rtol=2e-6)
    (expected[0] * weights[0] + expected[1] * weights[1]).sum().backward()
    (found[0] * weights[0] + found[1] * weights[1]).sum().backward()
    torch.testing.assert_close(mine.grad.double(), exact.grad, atol=2e-6, rtol=1e-4)


def test_cross_entropy_in_triton_takes_less_time_and_memory_than_in_torch() -> None:
    from kernels.cross_entropy import triton_kernels

    rows = torch.randn(4096, 128_256, device="cuda")
    ids = torch.randint(rows.shape[1], (4096,), device="cuda")
    ones = torch.ones(4096, device="cuda")
    seconds, memory = {}, {}
    for name, module in (("torch", reference), ("triton", triton_kernels)):
        for _ in range(3):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
            begin.record()
            kept, *_ = module.statistics(rows, ids, False, True)
            module.gradient(kept, ids, ones, ones)
            end.record()
            torch.cuda.synchronize()
            del kept
            seconds[name] = begin.elapsed_time(end) / 1e3
            memory[name] = torch.cuda.max_memory_allocated() - held
    bandwidth = 3 * rows.numel() * 4 / seconds["triton"] / 1e9
    print(f"{seconds}, {memory}; Triton moves {bandwidth:,.0f} GB/s")
    assert seconds["triton"] < seconds["torch"]
    assert memory["triton"] < rows.numel()  # a quarter of the logits; torch keeps a softmax as large as they


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize(("along", "square"), [(0, False), (1, False), (1, True)])
def test_blockwise_quantisation_has_the_bits_of_the_reference(
    dtype: torch.dtype, along: int, square: bool
) -> None:
    from kernels.fp8 import triton_kernels

    x = matrix(1000, 700)
    x[5, 9], x[900, 600] = torch.nan, torch.inf
    expected = fp8.quantise(x, "blockwise", dtype, along, square)
    found = triton_kernels.quantise_dequantise(x.cuda(), dtype, along, square).cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("the rest casts to 8 bits, which Triton does from Hopper on")
    codes, inverse = (part.cpu() for part in triton_kernels.quantise(x.cuda(), dtype, along, square))
    for dimension, length in enumerate(x.shape):
        if inverse.shape[dimension] < length:
            inverse = inverse.repeat_interleave(128, dimension).narrow(dimension, 0, length)
    torch.testing.assert_close(codes.float() * inverse, expected, rtol=0, atol=0, equal_nan=True)
