import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import YoutuForCausalLM

from posttrain.config import SamplingConfig
from posttrain.generate import Row, draw, nucleus, write
from posttrain.rollouts import token_logprobs

GREEDY = SamplingConfig(temperature=0.0)
WILD = SamplingConfig(temperature=1.0)
NO_STOP = -1


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(512) for _ in range(rng.randrange(1, 40))] for _ in range(count)]


def alone(
    model: YoutuForCausalLM, prompt: list[int], room: int, stop: int, sampling: SamplingConfig, seed: int
) -> list[int]:
    """The same sampling without a batch, a cache or padding: the whole sequence at every step."""
    import numpy as np

    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(room)
    ids = list(prompt)
    for step in range(room):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[:, -1]
        chosen, _ = draw(logits, torch.from_numpy(uniforms[step : step + 1]), sampling)
        ids.append(int(chosen))
        if ids[-1] == stop:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("sampling", [GREEDY, WILD, SamplingConfig(temperature=0.7, top_p=0.8)])
def test_rows_side_by_side_write_what_each_writes_alone(
    model: YoutuForCausalLM, sampling: SamplingConfig
) -> None:
    starts = prompts(9)
    room = [12, 3, 20, 20, 1, 20, 7, 20, 20]
    expected = [
        alone(model, start, limit, 7, sampling, seed) for seed, (start, limit) in enumerate(zip(starts, room))
    ]
    rows = [Row(seed, list(start)) for seed, start in enumerate(starts)]
    assert [turn.ids for turn in write(model, rows, room, 7, sampling)] == expected


def test_rows_stop_at_the_stop_token_and_only_there(model: YoutuForCausalLM) -> None:
    starts = prompts(6)
    free = write(
        model, [Row(seed, list(start)) for seed, start in enumerate(starts)], [16] * 6, NO_STOP, GREEDY
    )
    stop = free[0].ids[5]
    turns = write(
        model, [Row(seed, list(start)) for seed, start in enumerate(starts)], [16] * 6, stop, GREEDY
    )
    for turn, whole in zip(turns, free):
        if stop in whole.ids:
            assert turn.stopped
            assert turn.ids == whole.ids[: whole.ids.index(stop) + 1]
        else:
            assert not turn.stopped
            assert turn.ids == whole.ids
    assert any(turn.stopped for turn in turns)


@pytest.mark.parametrize("sampling", [GREEDY, WILD])
def test_a_continued_row_writes_what_one_long_prompt_would(
    model: YoutuForCausalLM, sampling: SamplingConfig
) -> None:
    """Three rounds with appended ids between them, rows leaving and joining at different lengths."""
    rng = random.Random(2)
    starts = prompts(5)
    rows = [Row(seed, list(start)) for seed, start in enumerate(starts)]
    whole = [list(start) for start in starts]
    for leaving in (None, 1, 2):
        active = [number for number in range(5) if number != leaving]
        room = [rng.randrange(2, 12) for _ in active]
        turns = write(model, [rows[number] for number in active], room, NO_STOP, sampling)
        for number, turn, limit in zip(active, turns, room):
            used = rows[number].draws - len(turn.ids)
            single = Row(rows[number].seed, list(whole[number]), draws=used)
            [expected] = write(model, [single], [limit], NO_STOP, sampling)
            assert turn.ids == expected.ids
            assert torch.tensor(turn.logprobs) == pytest.approx(torch.tensor(expected.logprobs), abs=1e-4)
            extra = [rng.randrange(512) for _ in range(rng.randrange(0, 9))]
            whole[number] += turn.ids + extra
            rows[number].pending += extra
            assert rows[number].position + len(rows[number].pending) == len(whole[number])


def test_logprobs_are_those_of_a_whole_forward_pass(model: YoutuForCausalLM) -> None:
    starts = prompts(7)
    sampling = SamplingConfig(temperature=0.5, top_p=0.9)
    turns = write(
        model, [Row(seed, list(start)) for seed, start in enumerate(starts)], [15] * 7, NO_STOP, sampling
    )
    whole = token_logprobs(model, [start + turn.ids for start, turn in zip(starts, turns)], batch_size=3)
    for start, turn, logprobs in zip(starts, turns, whole):
        assert torch.tensor(turn.logprobs) == pytest.approx(logprobs[len(start) - 1 :], abs=1e-4)


def test_new_and_continued_rows_cannot_share_a_round(model: YoutuForCausalLM) -> None:
    old = Row(0, [1, 2, 3])
    write(model, [old], [2], NO_STOP, GREEDY)
    with pytest.raises(ValueError, match="cannot share a round"):
        write(model, [old, Row(1, [4])], [2, 2], NO_STOP, GREEDY)


@given(st.lists(st.floats(-6, 6), min_size=2, max_size=8), st.floats(0.05, 1))
def test_the_nucleus_is_the_smallest_set_that_holds_the_mass(logits: list[float], top_p: float) -> None:
    probabilities = torch.softmax(torch.tensor([logits], dtype=torch.float64), -1)
    kept = nucleus(probabilities, top_p)[0]
    chosen = kept > 0
    assert kept.sum() >= top_p - 1e-9
    assert kept.sum() - kept[chosen].min() < top_p + 1e-9
    assert torch.equal(kept[chosen], probabilities[0][chosen])
    if not chosen.all():
        assert kept[chosen].min() >= probabilities[0][~chosen].max()


def test_drawing_follows_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, -float("inf")]).repeat(20_000, 1)
    uniforms = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen, logprobs = draw(logits, uniforms, WILD)
    expected = torch.softmax(logits[0], -1)
    assert torch.bincount(chosen, minlength=4) / 20_000 == pytest.approx(expected, abs=0.01)
    assert torch.equal(logprobs, torch.log_softmax(logits, -1).gather(1, chosen[:, None])[:, 0])


def test_extreme_uniforms_never_draw_what_has_no_mass() -> None:
    logits = torch.tensor([[-float("inf"), 0.0, -float("inf"), 0.0, -float("inf")]] * 2)
    chosen, _ = draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), WILD)
    assert chosen.tolist() == [1, 3]
