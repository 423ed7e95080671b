import pytest
import torch

from kernels.attention.reference import causal_attention, oracle_attention


def tensors(batch=2, heads=3, seq=17, d_qk=24, d_v=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, seq, d_qk)] * 2 + [(batch, heads, seq, d_v)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("d_qk", "d_v"), [(24, 16), (16, 16), (192, 128)])
@pytest.mark.parametrize("documents", [False, True])
def test_it_is_the_definition_in_fp64_and_so_are_its_gradients(d_qk, d_v, documents):
    query, key, value = tensors(d_qk=d_qk, d_v=d_v)
    marks = torch.tensor([[0] * 5 + [1] * 12, [0] * 17]) if documents else None
    out = causal_attention(query, key, value, scale=0.1, documents=marks)
    out.square().sum().backward()
    mine = [x.grad.clone() for x in (query, key, value)]
    expected_inputs = [x.detach().double().requires_grad_() for x in (query, key, value)]
    expected = oracle_attention(*expected_inputs, scale=0.1, documents=marks)
    expected.square().sum().backward()
    wanted = [expected, *(x.grad for x in expected_inputs)]
    for found, right in zip([out, *mine], wanted):
        assert (found - right).abs().max() <= 5e-6 * right.abs().max()


def test_the_future_has_no_influence():
    query, key, value = tensors()
    before = causal_attention(query, key, value)
    with torch.no_grad():
        key[:, :, 9:] += 5.0
        value[:, :, 9:] -= 3.0
    after = causal_attention(query, key, value)
    assert torch.equal(before[:, :, :9], after[:, :, :9])
    assert not torch.equal(before[:, :, 9:], after[:, :, 9:])


def test_another_document_has_no_influence():
    query, key, value = tensors(batch=1)
    marks = torch.tensor([[0] * 9 + [1] * 8])
    before = causal_attention(query, key, value, documents=marks)
    with torch.no_grad():
        key[:, :, :9] += 5.0
    after = causal_attention(query, key, value, documents=marks)
    assert torch.equal(before[:, :, 9:], after[:, :, 9:])
    assert not torch.equal(before[:, :, :9], after[:, :, :9])
