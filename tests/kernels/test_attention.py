from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels.attention.reference import _flash, causal_attention, document_starts, oracle_attention


def tensors(batch=2, heads=3, seq=17, d_qk=24, d_v=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, heads, seq, d_qk)] * 2 + [(batch, heads, seq, d_v)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("d_qk", "d_v"), [(24, 16), (16, 16), (192, 128)])
@pytest.mark.parametrize("documents", [False, True])
def test_it_is_the_definition_in_fp64_and_so_are_its_gradients(d_qk, d_v, documents):
    query, key, value = tensors(d_qk=d_qk, d_v=d_v)
    marks = torch.tensor([[0] * 5 + [1] * 12, [1] * 17]) if documents else None
    starts = None if marks is None else document_starts(marks)
    out = causal_attention(query, key, value, scale=0.1, cu_seqlens=starts)
    out.square().sum().backward()
    mine = [x.grad.clone() for x in (query, key, value)]
    expected_inputs = [x.detach().double().requires_grad_() for x in (query, key, value)]
    expected = oracle_attention(*expected_inputs, scale=0.1, documents=marks)
    expected.square().sum().backward()
    wanted = [expected, *(x.grad for x in expected_inputs)]
    for found, right in zip([out, *mine], wanted):
        assert (found - right).abs().max() <= 5e-6 * right.abs().max()


@pytest.mark.parametrize("documents", [False, True])
@given(first=st.integers(0, 16), count=st.integers(1, 17), cuts=st.sets(st.integers(1, 33)))
@settings(max_examples=40, deadline=None)
def test_a_run_of_queries_is_its_part_of_the_whole_and_so_are_its_gradients(documents, first, count, cuts):
    """As the ranks that share a row compute it: the parts' outputs put together, their gradients added up."""
    count = min(count, 17 - first)
    starts = torch.tensor(sorted({0, 17, 34, *cuts}), dtype=torch.int32) if documents else None
    marks = torch.bucketize(torch.arange(34).view(2, 17), starts, right=True) if documents else None
    query, key, value = tensors()
    bounds = sorted({0, first, first + count, 17})
    parts = [
        causal_attention(query[:, :, start:stop], key, value, 0.1, starts, first=start)
        for start, stop in pairwise(bounds)
    ]
    torch.cat(parts, 2).square().sum().backward()
    expected_inputs = [x.detach().double().requires_grad_() for x in (query, key, value)]
    expected = oracle_attention(*expected_inputs, scale=0.1, documents=marks)
    expected.square().sum().backward()
    for found, right in zip(
        [torch.cat(parts, 2), query.grad, key.grad, value.grad],
        [expected, *(x.grad for x in expected_inputs)],
    ):
        # a document of one position has gradients that are 0 but for rounding
        assert (found - right).abs().max() <= 5e-6 * max(1.0, right.abs().max())


@pytest.mark.parametrize(("first", "count"), [(0, 17), (0, 4), (4, 9), (13, 4)])
def test_flash_attention_is_told_the_right_lengths(monkeypatch, first, count):
    """The kernel is CUDA's; what it is asked to do is computed here from its documentation."""

    def varlen_attn(query, key, value, of_queries, of_keys, longest, longest_key, *, scale, window_size):
        assert window_size == (-1, 0)  # causal, the last query aligned with the last key
        lengths, known = of_queries.diff(), of_keys.diff()
        assert len(lengths) == len(known)
        assert (int(of_queries[-1]), int(of_keys[-1])) == (len(query), len(key))
        assert lengths.max() <= longest
        assert known.max() <= longest_key
        out = torch.empty_like(query)
        for asked, seen, a, k in zip(lengths, known, of_queries, of_keys):
            scores = torch.einsum("qhd,khd->hqk", query[a : a + asked], key[k : k + seen]) * scale
            future = torch.ones(asked, seen, dtype=torch.bool).triu(int(seen - asked) + 1)
            weights = scores.masked_fill(future, -torch.inf).softmax(-1)
            out[a : a + asked] = torch.einsum("hqk,khd->qhd", weights, value[k : k + seen])
        return out

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    query, key, value = (x.detach().double() for x in tensors(d_v=24))
    marks = torch.tensor([[0] * 5 + [1] * 9 + [2] * 3, [1] * 17])
    last = first + count
    part = query[:, :, first:last], key[:, :, :last], value[:, :, :last]
    found = _flash(*part, 0.1, document_starts(marks), 17)
    expected = oracle_attention(query, key, value, scale=0.1, documents=marks)[:, :, first:last]
    torch.testing.assert_close(found, expected)


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
    starts = torch.tensor([0, 9, 17])
    before = causal_attention(query, key, value, cu_seqlens=starts)
    with torch.no_grad():
        key[:, :, :9] += 5.0
    after = causal_attention(query, key, value, cu_seqlens=starts)
    assert torch.equal(before[:, :, 9:], after[:, :, 9:])
    assert not torch.equal(before[:, :, :9], after[:, :, :9])


def test_documents_begin_where_numbers_change_and_with_every_row():
    marks = torch.tensor([[7, 7, 8, 9], [9, 9, 9, 9], [0, 1, 0, 0]])
    assert document_starts(marks).tolist() == [0, 2, 3, 4, 8, 9, 10, 12]
    assert document_starts(marks).dtype == torch.int32


def test_on_cuda_documents_go_to_flash_attention_without_waiting_for_the_device():
    """Traced with fake tensors: shapes, types and the call are checked, figures are not."""
    with FakeTensorMode():
        query, key = (torch.empty(2, 4, 64, 48, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        value = torch.empty(2, 4, 64, 32, device="cuda", dtype=torch.bfloat16)
        starts = torch.empty(6, device="cuda", dtype=torch.int32)
        out = causal_attention(query, key, value, cu_seqlens=starts)
        part = query.narrow(2, 0, 16)
        parts = [causal_attention(part, key, value, cu_seqlens=each, first=32) for each in (starts, None)]
    assert (out.shape, out.dtype, out.device.type) == (value.shape, torch.bfloat16, "cuda")
    assert [found.shape for found in parts] == [(2, 4, 16, 32)] * 2


@pytest.mark.parametrize("first", [-1, 1])
def test_queries_beyond_the_rows_are_refused(first):
    with pytest.raises(ValueError, match="in rows of 17 positions"):
        causal_attention(*tensors(), first=first)


@pytest.mark.parametrize("bounds", [[0, 9, 17], [0, 17, 33], [1, 17, 34], [0, 9, 20, 34], [0, 9, 9, 17, 34]])
def test_documents_that_do_not_fill_the_rows_are_refused(bounds):
    with pytest.raises(ValueError, match=r"documents from|does not lie in one row"):
        causal_attention(*tensors(), cu_seqlens=torch.tensor(bounds))


@pytest.mark.parametrize(("dtype", "digit"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_the_definition_to_its_last_digits(dtype, digit):
    query, key, value = (x.detach().requires_grad_() for x in tensors(dtype=dtype))
    out = causal_attention(query, key, value, scale=0.1)
    out.float().square().sum().backward()
    exact = [x.detach().double().requires_grad_() for x in (query, key, value)]
    expected = oracle_attention(*exact, scale=0.1)
    expected.square().sum().backward()
    pairs = [(out, expected), *((x.grad, y.grad) for x, y in zip((query, key, value), exact))]
    for found, right in pairs:
        assert found.dtype == dtype
        assert (found - right).abs().max() <= 4 * digit * right.abs().max()
