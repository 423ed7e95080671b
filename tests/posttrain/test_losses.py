import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.config import LossConfig
from posttrain.losses import LOSSES, clipped_surrogate, kl_k3

TOKENS = st.lists(
    st.tuples(st.floats(-8, 0), st.floats(-8, 0), st.floats(-3, 3)), min_size=1, max_size=20
).map(lambda rows: torch.tensor(rows, dtype=torch.float64).unbind(dim=1))


def gradient(
    name: str, tokens: tuple[torch.Tensor, ...], **fields: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logprobs, old, advantages = tokens
    logprobs = logprobs.clone().requires_grad_()
    loss = LOSSES[name](logprobs, old, advantages, LossConfig(name=name, **fields))
    loss.sum().backward()
    return loss.detach(), logprobs.grad


def reference_ppo(logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """PPO as the paper writes it."""
    ratio = (logprobs - old).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.28) * advantages)


@given(TOKENS)
def test_grpo_is_ppos_clipped_loss_in_value_and_gradient(tokens: tuple[torch.Tensor, ...]) -> None:
    loss, grad = gradient("grpo", tokens, eps_low=0.2, eps_high=0.28)
    logprobs = tokens[0].clone().requires_grad_()
    expected = reference_ppo(logprobs, *tokens[1:])
    expected.sum().backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(grad, logprobs.grad)


@given(TOKENS, st.sampled_from(["gppo", "ce_gppo"]))
def test_bounded_gradients_leave_the_value_of_ppo(tokens: tuple[torch.Tensor, ...], name: str) -> None:
    loss, _ = gradient(name, tokens, eps_low=0.2, eps_high=0.28)
    torch.testing.assert_close(loss, reference_ppo(*tokens))


@given(TOKENS, st.floats(0, 1), st.floats(0, 1))
def test_gradient_is_the_closed_form(
    tokens: tuple[torch.Tensor, ...], beta_low: float, beta_high: float
) -> None:
    """minus F A, with F the ratio where it is not clipped, else the scaled bound."""
    _, grad = gradient("ce_gppo", tokens, eps_low=0.2, eps_high=0.28, beta_low=beta_low, beta_high=beta_high)
    logprobs, old, advantages = tokens
    ratio = (logprobs - old).exp()
    weight = ratio.clone()
    weight[(advantages > 0) & (ratio > 1.28)] = beta_high * 1.28
    weight[(advantages < 0) & (ratio < 0.8)] = beta_low * 0.8
    torch.testing.assert_close(grad, -weight * advantages)


@given(TOKENS)
def test_gppo_is_ce_gppo_with_betas_of_one(tokens: tuple[torch.Tensor, ...]) -> None:
    _, gppo = gradient("gppo", tokens)
    _, scaled = gradient("ce_gppo", tokens, beta_low=1.0, beta_high=1.0)
    torch.testing.assert_close(gppo, scaled)


@pytest.mark.parametrize("name", LOSSES)
def test_on_policy_it_is_reinforce(name: str) -> None:
    logprobs = -torch.rand(50, dtype=torch.float64)
    advantages = torch.randn(50, dtype=torch.float64)
    _, grad = gradient(name, (logprobs, logprobs, advantages))
    torch.testing.assert_close(grad, -advantages)


def test_dual_clip_bounds_negative_tokens_and_stops_their_gradient() -> None:
    logprobs = torch.tensor([0.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-5.0, -5.0, -0.5], dtype=torch.float64)
    advantages = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)
    loss = clipped_surrogate(logprobs, old, advantages, eps_low=0.2, eps_high=0.2, dual_clip=3.0)
    loss.sum().backward()
    assert loss[0] == 3.0
    assert logprobs.grad[0] == 0
    assert logprobs.grad[1] == 0  # clipped on the other side
    assert logprobs.grad[2] == pytest.approx(float(torch.tensor(0.5).exp()))


def test_an_absurd_ratio_stays_finite() -> None:
    logprobs = torch.tensor([0.0, -200.0], requires_grad=True)
    loss = LOSSES["grpo"](logprobs, torch.tensor([-200.0, 0.0]), torch.tensor([-1.0, 1.0]), LossConfig())
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(logprobs.grad).all()


@given(TOKENS)
def test_k3_is_never_negative_and_zero_only_where_both_agree(tokens: tuple[torch.Tensor, ...]) -> None:
    policy, reference, _ = tokens
    assert (kl_k3(policy, reference) >= 0).all()
    assert (kl_k3(policy, policy) == 0).all()
    apart = (policy - reference).abs() > 1e-3
    assert (kl_k3(policy, reference)[apart] > 0).all()


def test_k3_is_an_unbiased_estimate_of_the_divergence() -> None:
    torch.manual_seed(0)
    policy = torch.log_softmax(torch.randn(6, dtype=torch.float64), 0)
    reference = torch.log_softmax(torch.randn(6, dtype=torch.float64), 0)
    expectation = (policy.exp() * kl_k3(policy, reference)).sum()
    divergence = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close(expectation, divergence)
