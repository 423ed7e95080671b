"""The oracle is torch's own softmax in float64."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.cross_entropy import token_statistics

BATCH, SEQ, VOCAB = 2, 7, 96


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.cross_entropy.reference.BLOCK", 3 * VOCAB)  # the last one is short


def example(scale: float = 5.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels, and weights to sum losses and log-normalizers with."""
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(SEQ, BATCH, VOCAB, generator=generator)).transpose(0, 1)
    labels = torch.randint(0, VOCAB, (BATCH, SEQ), generator=generator)
    return logits, labels, *torch.randn(2, BATCH, SEQ, generator=generator)


def oracle(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logs = logits.log_softmax(-1)
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return loss, logits.logsumexp(-1), -(logs.exp() * logs).sum(-1)


def over_ranks(size: int, work: Callable[[dist.ProcessGroup], Any]) -> list[Any]:
    """Run ``work`` on gloo ranks that are threads of this process."""
    store = dist.HashStore()

    def rank(at: int) -> Any:
        return work(dist.ProcessGroupGloo(store, at, size))

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_values_and_gradients_are_those_of_float64(ranks: int, entropy: bool) -> None:
    logits, labels, first, second = example()
    reference = logits.double().requires_grad_()
    expected = oracle(reference, labels)
    (expected[0] * first + expected[1] * second).sum().backward()
    assert reference.grad is not None

    def work(group: dist.ProcessGroup | None) -> tuple[Any, ...]:
        part = logits if group is None else logits.chunk(ranks, -1)[group.rank()]
        mine = part.clone().requires_grad_()
        found = token_statistics(mine, labels, group, entropy)
        (found[0] * first + found[1] * second).sum().backward()
        return *found, mine.grad

    results = [work(None)] if ranks == 1 else over_ranks(ranks, work)
    for loss, normalizer, found, _ in results:
        torch.testing.assert_close(loss.double(), expected[0], atol=2e-6, rtol=1e-6)
        torch.testing.assert_close(normalizer.double(), expected[1], atol=2e-6, rtol=1e-6)
        if entropy:
            torch.testing.assert_close(found.double(), expected[2], atol=2e-6, rtol=1e-6)
            assert not found.requires_grad
        else:
            assert found is None
    gradient = torch.cat([result[-1] for result in results], -1)
    torch.testing.assert_close(gradient.double(), reference.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_either_gradient_alone_is_right(which: int) -> None:
    logits, labels, weights, _ = example()
    mine, reference = logits.clone().requires_grad_(), logits.double().requires_grad_()
    (token_statistics(mine, labels)[which] * weights).sum().backward()
    (oracle(reference, labels)[which] * weights).sum().backward()
    assert mine.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(mine.grad.double(), reference.grad, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_huge_and_infinite_logits_do_not_overflow(ranks: int) -> None:
    rows = torch.tensor([[[3e38, -3e38, 0.0, -torch.inf], [-torch.inf, 2.0, -torch.inf, 2.0]]])
    labels = torch.tensor([[0, 3]])

    def work(group: dist.ProcessGroup | None) -> Any:
        part = rows if group is None else rows.chunk(ranks, -1)[group.rank()]
        return token_statistics(part, labels, group, entropy=True)

    for loss, normalizer, entropy in [work(None)] if ranks == 1 else over_ranks(ranks, work):
        torch.testing.assert_close(loss, torch.tensor([[0.0, 2.0]]).mul(torch.tensor(2.0).log() / 2))
        torch.testing.assert_close(normalizer, torch.tensor([[3e38, 2.0 + torch.tensor(2.0).log()]]))
        torch.testing.assert_close(entropy, torch.tensor([[0.0, torch.tensor(2.0).log()]]))
