import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.matmul import onednn
from pretrain.linears import parallel_linear


def close(found: torch.Tensor, exact: torch.Tensor, inner: int) -> None:
    """fp32 sums of ``inner`` products of standard normal numbers."""
    torch.testing.assert_close(found.double(), exact, atol=1e-6 * inner**0.5 + 1e-6, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 70)] * 3),
    transposed=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 9),
)
def test_products_are_those_of_float64(shape, transposed, seed) -> None:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(m: int, n: int, turned: bool) -> torch.Tensor:
        drawn = (
            torch.randn(n, m, generator=generator).t() if turned else torch.randn(m, n, generator=generator)
        )
        assert drawn.shape == (m, n)
        return drawn

    x, weight = draw(rows, inner, transposed[0]), draw(columns, inner, transposed[1])
    close(onednn.linear(x, weight), x.double() @ weight.double().t(), inner)
    left, right = draw(rows, inner, transposed[0]), draw(rows, columns, transposed[1])
    close(onednn.outer_sum(left, right), left.double().t() @ right.double(), rows)


def test_a_weight_cut_from_a_wider_one_costs_a_copy() -> None:
    """It cost a thousand times as much: oneDNN keeps no kernel for such strides."""
    x, whole = torch.randn(256, 128), torch.randn(48, 512)

    def seconds(weight: torch.Tensor) -> float:
        onednn.linear(x, weight)
        started = time.process_time()
        for _ in range(20):
            onednn.linear(x, weight)
        return time.process_time() - started

    cut = whole[:, :128]
    close(onednn.linear(x, cut), x.double() @ cut.double().t(), 128)
    assert seconds(cut) < 50 * seconds(cut.contiguous())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_go_to_torch(dtype) -> None:
    x, weight = torch.randn(5, 3).to(dtype), torch.randn(4, 3).to(dtype)
    assert torch.equal(onednn.linear(x, weight), x @ weight.t())
    assert torch.equal(onednn.outer_sum(x, x), x.t() @ x)


def test_no_rows_are_no_rows() -> None:
    assert onednn.linear(torch.empty(0, 3), torch.randn(4, 3)).shape == (0, 4)
    assert torch.equal(onednn.outer_sum(torch.empty(0, 3), torch.empty(0, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize("columns", [4, 64])  # narrower and wider than the input
def test_gradients_go_into_the_buffer_once_per_use(columns) -> None:
    x = torch.randn(7, 2, 16, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(columns, 16))
    weight.main_grad = torch.ones(columns, 16)
    rest = (None, False, False, False)
    out = parallel_linear(x, weight, *rest)
    again = parallel_linear(2 * x, weight, *rest)
    factor = torch.randn_like(out)
    (out * factor + again.transpose(0, 1).reshape_as(out) * 0.5).sum().backward()
    exact_x, exact_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    out = exact_x @ exact_weight.t()
    again = 2 * exact_x @ exact_weight.t()
    (out * factor.double() + again.transpose(0, 1).reshape_as(out) * 0.5).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(weight.main_grad.double() - 1.0, exact_weight.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad.double(), exact_x.grad, atol=1e-5, rtol=1e-5)


def test_without_a_buffer_the_weight_gets_its_gradient() -> None:
    x, weight = torch.randn(7, 2, 16), torch.nn.Parameter(torch.randn(4, 16))
    parallel_linear(x, weight, None, False, False, False).sum().backward()
    close(weight.grad, x.double().sum((0, 1)).expand(4, 16), 14)


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight = torch.randn(7, 2, 16, requires_grad=True), torch.nn.Parameter(torch.randn(4, 16))
    weight.main_grad = torch.zeros(4, 16)
    weight.requires_grad_(False)
    parallel_linear(x, weight, None, False, False, False).sum().backward()
    close(x.grad, weight.double().sum(0).expand(7, 2, 16), 4)
    assert not weight.main_grad.any()


def test_fp16_is_summed_in_fp32_and_rounded_once() -> None:
    x, weight = torch.full((1, 4096), 1.0).half(), torch.full((2, 4096), 2.0**-13).half()
    assert onednn.linear(x, weight).tolist() == [
        [0.5, 0.5]
    ]  # a sum in fp16 stops where a term is half a digit
    assert onednn.outer_sum(x.t(), torch.full((4096, 3), 2.0**-13).half()).tolist() == [[0.5] * 3]
