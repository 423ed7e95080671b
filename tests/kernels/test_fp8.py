"""Quantisation against a definition of its own: formats spelled out bit by bit, blocks walked one by one."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.fp8.delayed import AmaxHistory
from kernels.fp8.reference import E4M3, E5M2, LARGEST, cast, e8m0_scale_for, quantise

ONE = torch.tensor(1.0)


def magnitudes(dtype):
    """Every finite value >= 0 in the order of its code (arXiv 2209.05433, table 1)."""
    exponent_bits, mantissa_bits, bias = (4, 3, 7) if dtype == E4M3 else (5, 2, 15)
    values = []
    for exponent, mantissa in itertools.product(range(2**exponent_bits), range(2**mantissa_bits)):
        if dtype == E5M2 and exponent == 31:
            continue  # infinity and NaN
        if dtype == E4M3 and (exponent, mantissa) == (15, 7):
            continue  # NaN
        fraction = mantissa / 2**mantissa_bits
        values.append(
            math.ldexp(1 + fraction, exponent - bias) if exponent else math.ldexp(fraction, 1 - bias)
        )
    return np.array(values)


def nearest(x, dtype):
    """The closest value of the format; between two, the one with the even code; beyond the last, the last."""
    values = magnitudes(dtype)
    size = np.minimum(np.abs(x), values[-1])
    above = np.searchsorted(values, size).clip(1)
    down, up = size - values[above - 1], values[above] - size
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, above - 1)
    return np.copysign(values[code], x)


def definition(x, recipe, dtype, along, square=False):
    """Quantise and dequantise in float64, block by block."""
    x, largest = np.asarray(x, dtype=np.float64), LARGEST[dtype]
    length = {"tensorwise": 10**9, "blockwise": 128, "mxfp8": 32}[recipe]
    height, width = (1, length) if along == 1 else (length, 1)
    if recipe == "tensorwise" or (recipe == "blockwise" and square):
        height = width = length
    out = np.empty_like(x)
    for top, left in itertools.product(range(0, x.shape[0], height), range(0, x.shape[1], width)):
        block = x[top : top + height, left : left + width]
        amax = np.abs(block).max()
        scale = 1.0 if amax == 0 else largest / amax
        if recipe == "tensorwise":
            scale = float(np.float32(scale))
        elif amax:
            scale = 2.0 ** math.floor(math.log2(scale))
        out[top : top + height, left : left + width] = nearest(block * scale, dtype) / scale
    return out


def matrix(rows, columns, seed=0):
    """Values over many binades: rows differ, and so do columns."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    return (
        x
        * torch.exp2(torch.randint(-8, 8, (rows, 1), generator=generator))
        * torch.linspace(0.01, 3, columns)
    )


@pytest.mark.parametrize(
    ("dtype", "largest", "smallest_normal", "smallest"),
    [(E4M3, 448, 2**-6, 2**-9), (E5M2, 57344, 2**-14, 2**-16)],
)
def test_the_formats_have_their_published_ranges(dtype, largest, smallest_normal, smallest):
    values = torch.tensor([1e30, smallest_normal, smallest, smallest / 2, smallest * 0.51])
    expected = torch.tensor([largest, smallest_normal, smallest, 0.0, smallest])
    assert torch.equal(cast(values, ONE, dtype), expected)
    assert LARGEST[dtype] == largest == magnitudes(dtype)[-1]


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_a_cast_goes_to_the_nearest_value_and_to_the_even_one_between_two(dtype):
    values = magnitudes(dtype)
    between = (values[1:] + values[:-1]) / 2
    beside = np.concatenate([between * (1 + 1e-6), between * (1 - 1e-6)])
    x = np.concatenate([values, between, beside, [values[-1] * 1.2]])
    x = np.concatenate([x, -x])
    assert np.array_equal(cast(torch.tensor(x).float(), ONE, dtype).numpy(), nearest(x, dtype))
    odd = cast(torch.tensor([math.inf, -math.inf, math.nan]), ONE, dtype)
    assert odd[:2].tolist() == [LARGEST[dtype], -LARGEST[dtype]]
    assert odd[2].isnan()


@pytest.mark.parametrize("shape", [(130, 140), (7, 31), (1, 1)])
@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize(
    ("recipe", "along", "square"),
    [
        ("tensorwise", 1, False),
        ("blockwise", 1, False),
        ("blockwise", 0, False),
        ("blockwise", 1, True),
        ("mxfp8", 1, False),
        ("mxfp8", 0, True),
    ],
)
def test_quantising_is_the_definition(recipe, along, square, dtype, shape):
    x = matrix(*shape)
    kept = x.clone()
    found = quantise(x, recipe, dtype, along, square).double().numpy()
    expected = definition(x.numpy(), recipe, dtype, along, square and recipe == "blockwise")
    # A power of two is divided by exactly; another scale rounds its inverse and one more product.
    np.testing.assert_allclose(found, expected, rtol=3e-7 if recipe == "tensorwise" else 0)
    assert torch.equal(x, kept)


@given(
    st.sampled_from(["tensorwise", "blockwise", "mxfp8"]),
    st.sampled_from([E4M3, E5M2]),
    st.integers(0, 1),
    st.integers(-60, 60),
    st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_a_factor_of_two_changes_nothing_and_no_large_element_is_far_off(recipe, dtype, along, power, seed):
    x = matrix(5, 70, seed)
    quantised = quantise(x, recipe, dtype, along)
    assert torch.equal(quantise(x * 2.0**power, recipe, dtype, along), quantised * 2.0**power)
    if recipe != "tensorwise":  # a second time it is exact already
        assert torch.equal(quantise(quantised, recipe, dtype, along), quantised)
    mantissa_bits, usable = (3, 2.0**-13) if dtype == E4M3 else (2, 2.0**-28)
    normal = x.abs() > usable * x.abs().amax(dim=along if recipe != "tensorwise" else (0, 1), keepdim=True)
    error = ((quantised - x).abs() / x.abs())[normal]
    assert error.max() <= 2.0 ** -(mantissa_bits + 1) * (1 + 1e-5)


def test_a_block_does_not_feel_its_neighbours_outlier_and_a_tensor_does():
    x = torch.full((2, 256), 1e-3)
    x[0, 200] = 1e4
    for recipe, length in (("blockwise", 128), ("mxfp8", 32)):
        quantised = quantise(x, recipe, E4M3, along=1)
        shared = 200 // length * length
        same_block = torch.zeros_like(x, dtype=torch.bool)
        same_block[0, shared : shared + length] = True
        assert (quantised[~same_block] - 1e-3).abs().max() < 1e-3 / 16
        assert (quantised[same_block] == 0).sum() == length - 1
    assert (quantise(x, "tensorwise", E4M3, along=1) == 0).sum() == x.numel() - 1


def test_zeros_stay_zeros_and_nothing_tiny_or_huge_becomes_infinite():
    for recipe in ("tensorwise", "blockwise", "mxfp8"):
        assert torch.equal(quantise(torch.zeros(3, 40), recipe, E4M3, 1), torch.zeros(3, 40))
        for size in (1e-44, 1e-38, 3e38):
            quantised = quantise(torch.full((3, 40), size), recipe, E5M2, 1)
            assert quantised.isfinite().all()
    with pytest.raises(ValueError, match="scale"):
        quantise(torch.ones(2, 2), "delayed", E4M3, 1)


def test_an_mxfp8_scale_is_rounded_up_so_that_nothing_saturates():
    amax = torch.tensor([448.0, 448.0 * (1 + 2**-20), 447.0, 224.0, 3e38, 0.0])
    inverse = 1.0 / e8m0_scale_for(amax, E4M3)
    assert inverse.tolist() == [1.0, 2.0, 1.0, 0.5, 2.0**120, 1.0]


# --- delayed scaling ---


def test_the_scale_follows_the_largest_value_of_the_last_steps():
    history = AmaxHistory([448.0, 57344.0], length=3, margin=1)
    assert history.scale.tolist() == [1.0, 1.0]
    seen, scale = [], 1.0
    for amax in [2.0, 8.0, 1.0, 0.5, 0.25, 4.0, 0.0, 0.0, 0.0, 0.0, math.inf, 1.0, 1.0, 1.0]:
        history.record(0, torch.tensor([amax / 2, -amax]))
        history.record(0, torch.tensor([amax / 4]))  # a second micro batch of the step
        history.roll()
        seen = [*seen, amax][-3:]
        if 0 < max(seen) < math.inf:
            scale = 448.0 / max(seen) / 2
        assert history.scale.tolist() == [scale, 1.0]


def test_a_history_continues_exactly_and_fits_another_length():
    history = AmaxHistory([448.0], length=4)
    for amax in (3.0, 1.0, 2.0):
        history.record(0, torch.tensor(amax))
        history.roll()
    same, shorter, longer = (AmaxHistory([448.0], length=length) for length in (4, 2, 9))
    for other in (same, shorter, longer):
        other.load(history.state())
        assert torch.equal(other.scale, history.scale)
    assert torch.equal(same.state(), history.state())
    for other in (history, shorter, longer):
        other.record(0, torch.tensor(0.5))
        other.roll()
    assert [other.scale.item() for other in (history, shorter, longer)] == pytest.approx(
        [448 / 3, 448 / 2, 448 / 3]
    )
