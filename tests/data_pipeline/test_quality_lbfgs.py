import pytest
import torch

from data_pipeline.quality.lbfgs import minimise


def quadratic(size, condition, seed=0):
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.logspace(0, condition, size, dtype=torch.float64)) @ basis.T
    return matrix, torch.randn(size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("condition", [0, 2, 4])
def test_it_solves_quadratics(condition):
    matrix, target = quadratic(20, condition)

    def function(x):
        return float(0.5 * x @ matrix @ x - target @ x), matrix @ x - target

    found = minimise(function, torch.zeros(20, dtype=torch.float64), 500, 1e-8)
    assert torch.allclose(found, torch.linalg.solve(matrix, target), atol=1e-6)


def test_it_ends_where_torchs_own_does():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    answers = (inputs[:, 0] + 0.5 * torch.randn(60, generator=generator, dtype=torch.float64) > 0).double()

    def value(x):
        losses = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ x, answers)
        return losses + 0.01 * x.square().sum()

    def function(x):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(leaf), leaf)
        return float(value(x)), gradient

    ours = minimise(function, torch.zeros(8, dtype=torch.float64), 200, 1e-9)
    theirs = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    exact = {"tolerance_grad": 1e-10, "tolerance_change": 0.0, "line_search_fn": "strong_wolfe"}
    solver = torch.optim.LBFGS([theirs], max_iter=200, **exact)

    def closure():
        solver.zero_grad()
        loss = value(theirs)
        loss.backward()
        return loss

    solver.step(closure)
    assert torch.allclose(ours, theirs.detach(), atol=1e-6)


def test_it_never_goes_up_and_stops_at_the_minimum():
    values = []

    def function(x):
        result = float((x - 2).pow(4).sum())
        values.append(result)
        return result, 4 * (x - 2).pow(3)

    found = minimise(function, torch.zeros(3, dtype=torch.float64), 100, 1e-9)
    assert torch.allclose(found, torch.full((3,), 2.0, dtype=torch.float64), atol=1e-2)
    calls = len(values)
    minimise(function, torch.full((3,), 2.0, dtype=torch.float64), 100)
    assert len(values) == calls + 1
