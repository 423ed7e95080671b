"""Triton's kernels without a GPU: interpreted against their references, and compiled for those that have one.

That they compute the same on a device is for ``make gpu-check``.
"""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch

from kernels.cross_entropy import reference as cross_entropy
from kernels.dispatch import in_triton
from kernels.fp8 import reference as fp8
from kernels.fp8.reference import E4M3, E5M2
from pretrain.cross_entropy import token_statistics
from tests.kernels.test_fp8 import matrix
from tests.pretrain.test_cross_entropy import example, oracle, over_ranks

if importlib.util.find_spec("triton") is None:  # importing it here would be without the interpreter
    pytest.skip("triton is not installed: pip install 'stemma-lm[test]'", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # of infinities, which are meant
CROSS_ENTROPY, FP8 = "kernels.cross_entropy.triton_kernels", "kernels.fp8.triton_kernels"


@pytest.fixture(scope="module")
def interpreted() -> Iterator[dict[str, ModuleType]]:
    """The kernels' modules with Triton's interpreter, which is chosen as Triton is imported.

    The rest of the process keeps the Triton it has, if any; the compiled library below both is the same.
    """

    def forget() -> dict[str, ModuleType]:
        ours = [
            name
            for name in sys.modules
            if name in (CROSS_ENTROPY, FP8)
            or (name.split(".")[0] == "triton" and not name.startswith("triton._C"))
        ]
        return {name: sys.modules.pop(name) for name in ours}

    before = forget()
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
        yield {name: importlib.import_module(name) for name in (CROSS_ENTROPY, FP8)}
    if before:
        forget()
        sys.modules.update(before)


# --- softmax statistics ---


@pytest.fixture
def in_blocks(interpreted: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The kernels, in place of the reference wherever losses are computed; several blocks to a row."""
    module = interpreted[CROSS_ENTROPY]
    monkeypatch.setattr(module, "BLOCK", 32)
    one_at_a_time = threading.Lock()  # the interpreter knows of no threads, which stand in for ranks here

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def alone(*args: Any, **kwargs: Any) -> Any:
            with one_at_a_time:
                return function(*args, **kwargs)

        return alone

    for name in ("statistics", "gradient"):
        monkeypatch.setattr(module, name, guarded(getattr(module, name)))
    monkeypatch.setattr("kernels.cross_entropy.in_triton", lambda _: True)
    monkeypatch.setattr("kernels.cross_entropy.triton_kernels", module)
    return module


@pytest.mark.parametrize("ranks", [1, 2])
def test_losses_and_gradients_are_those_of_float64(in_blocks: ModuleType, ranks: int) -> None:
    logits, labels, first, second = example()
    exact = logits.double().requires_grad_()
    expected = oracle(exact, labels)
    (expected[0] * first + expected[1] * second).sum().backward()
    assert exact.grad is not None

    def work(group: Any) -> tuple[Any, ...]:
        part = logits if group is None else logits.chunk(ranks, -1)[group.rank()]
        mine = part.clone().requires_grad_()
        found = token_statistics(mine, labels, group, entropy=True)
        (found[0] * first + found[1] * second).sum().backward()
        assert torch.equal(mine, part)  # a leaf is not written over
        return *found, mine.grad

    results = [work(None)] if ranks == 1 else over_ranks(ranks, work)
    for *found, _ in results:
        for mine, right in zip(found, expected, strict=True):
            torch.testing.assert_close(mine.double(), right, atol=2e-6, rtol=1e-6)
    gradient = torch.cat([result[-1] for result in results], -1)
    torch.testing.assert_close(gradient.double(), exact.grad, atol=1e-6, rtol=1e-5)


def test_the_gradient_takes_the_place_of_the_logits_and_a_second_use_of_them_is_refused(
    in_blocks: ModuleType,
) -> None:
    logits, labels, weights, _ = example()
    leaf = logits.clone().requires_grad_()
    output = leaf * 1.0
    memory = output.detach()
    given: list[torch.Tensor] = []
    output.register_hook(given.append)
    (token_statistics(output, labels)[0] * weights).sum().backward()
    assert given[0].data_ptr() == memory.data_ptr()
    output = leaf * 1.0
    twice = [token_statistics(output, labels)[0].sum() for _ in range(2)]
    twice[0].backward()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        twice[1].backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_rows_are_as_in_the_reference(in_blocks: ModuleType, dtype: torch.dtype) -> None:
    infinite = torch.inf
    rows = torch.zeros(8, 100)
    rows[0, 7], rows[0, 8] = 3e38, -3e38
    rows[1, :60] = -infinite  # whole blocks of it, before and after
    rows[2, 40:] = -infinite
    rows[3] = -5000.0  # a start at 0 would lose these
    rows[4] = torch.linspace(-300, 300, 100)
    rows[5] = torch.linspace(300, -300, 100)
    rows[6, 99] = torch.nan
    rows[7] = torch.randn(100, generator=torch.Generator().manual_seed(0))
    rows = rows.to(dtype)
    ids = torch.tensor([8, 70, 0, -5, 99, 100, 0, 3])  # two of them on other ranks
    kept, *found = in_blocks.statistics(rows, ids, True, True)
    as_was, *expected = cross_entropy.statistics(rows.float(), ids, True, True)
    for mine, right in zip(found, expected):
        torch.testing.assert_close(mine, right, atol=3e-6, rtol=1e-6, equal_nan=True)
    of_softmax, of_label = torch.linspace(-2, 2, 8), torch.linspace(1, 3, 8)
    wanted = cross_entropy.gradient(as_was, ids, of_softmax, of_label)
    gradient = in_blocks.gradient(kept, ids, of_softmax, of_label, overwrite=False)
    assert gradient.dtype == dtype
    digit = 1e-6 if dtype == torch.float32 else 2**-7  # the interpreter cuts to bf16; devices round
    torch.testing.assert_close(gradient.float(), wanted, atol=digit * 1e-2, rtol=digit, equal_nan=True)


def test_a_part_of_the_vocabulary_that_is_impossible_has_no_share(in_blocks: ModuleType) -> None:
    rows, ids = torch.full((2, 40), -torch.inf), torch.tensor([-1, 45])
    kept, normalizer, disorder, target = in_blocks.statistics(rows, ids, True, True)
    assert normalizer.tolist() == [-torch.inf] * 2
    assert disorder.tolist() == target.tolist() == [0.0, 0.0]
    gradient = in_blocks.gradient(kept, ids, torch.zeros(2), torch.ones(2))
    assert not gradient.any()


# --- fp8 ---


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize(("along", "square"), [(0, False), (1, False), (1, True)])
def test_blockwise_quantisation_has_the_bits_of_the_reference(
    interpreted: dict[str, ModuleType], dtype: torch.dtype, along: int, square: bool
) -> None:
    x = matrix(150, 140)
    x[3, :130], x[140, 5] = 0.0, 1e-44
    x[0, 0], x[1, 128] = 448.0 * 2.0**7, 448.0 * 2.0**7 * (1 + 2**-23)  # a scale is exact, or just is not
    x[5, 9], x[149, 139] = torch.nan, torch.inf
    x = x.t().contiguous().t()  # of any strides
    expected = fp8.quantise(x, "blockwise", dtype, along, square)
    module = interpreted[FP8]
    found = module.quantise_dequantise(x, dtype, along, square)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    codes, inverse = module.quantise(x, dtype, along, square)
    assert codes.dtype == dtype
    blocks = (2 if square or along == 0 else 150, 2 if square or along == 1 else 140)
    assert inverse.shape == blocks
    assert torch.equal(inverse.log2(), inverse.log2().round())
    for dimension, length in enumerate(x.shape):
        if (len(inverse) < 150 and dimension == 0) or (inverse.shape[1] < 140 and dimension == 1):
            inverse = inverse.repeat_interleave(128, dimension).narrow(dimension, 0, length)
    number = ~expected.isnan()  # the interpreter does not cast NaN
    assert torch.equal((codes.float() * inverse)[number], expected[number])


# --- for a GPU ---


def test_kernels_compile_for_hopper_and_simulated_fp8_for_ampere(tmp_path: Path) -> None:
    """In a process of its own, as this one may have Triton with its interpreter."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "ignore", "-m", "tests.kernels.compile_ahead"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found = json.loads(ended.stdout)
    assert len(found) == 8
    for name, binary in found.items():
        assert binary["cubin_bytes"] > 1000, name
        assert binary["target"] == ("sm_80" if "sm_80" in name else "sm_90a"), name
        assert binary["rounds_in_hardware"] == ("codes" in name), name


def test_nothing_on_a_cpu_is_for_triton_and_one_variable_turns_it_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_cuda = mock.Mock(is_cuda=True)
    assert not in_triton(torch.ones(1))
    assert in_triton(on_cuda)
    monkeypatch.setenv("STEMMA_TRITON", "0")
    assert not in_triton(on_cuda)
