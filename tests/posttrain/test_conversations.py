from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from posttrain.conversations import ConversationError, Order, read_conversations
from stemma.core.artifact import Artifact
from tokenizer.specials import ASSISTANT, END_OF_TEXT

FAMILIES = ("coins", "spell", "maths")
SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 30), min_size=1)


def test_only_what_the_assistant_wrote_is_supervised(
    trajectories: Artifact, tokenizer: PreTrainedTokenizerFast
) -> None:
    conversations, left_out = read_conversations(
        trajectories.file("trajectories.jsonl"), tokenizer, FAMILIES, 512
    )
    assert {family: len(found) for family, found in conversations.items()} == dict.fromkeys(FAMILIES, 21)
    assert not any(left_out.values())
    end, mark = tokenizer.convert_tokens_to_ids([END_OF_TEXT, ASSISTANT])
    for conversation in conversations["maths"]:
        ids, mask = conversation.ids.tolist(), conversation.mask.tolist()
        inside = False
        for token, own in zip(ids, mask):
            assert own == inside
            inside = token == mark or (inside and token != end)
        assert [token for token, own in zip(ids, mask) if own].count(end) == 2  # both turns' ends are learned
        assert conversation.supervised == sum(mask)
        assert conversation.tokens == len(ids) - 1


def test_too_long_conversations_are_left_out_whole_and_counted(
    trajectories: Artifact, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = trajectories.file("trajectories.jsonl")
    everything, _ = read_conversations(path, tokenizer, FAMILIES, 512)
    lengths = sorted(len(conversation.ids) for conversation in everything["coins"])
    limit = lengths[10]
    kept, left_out = read_conversations(path, tokenizer, ("coins",), limit)
    assert [len(found.ids) for found in kept["coins"]] == [
        len(found.ids) for found in everything["coins"] if len(found.ids) <= limit
    ]
    assert len(kept["coins"]) + left_out["coins"] == 21
    with pytest.raises(ConversationError, match="all 21 are longer than 10 tokens"):
        read_conversations(path, tokenizer, ("maths",), 10)


def test_an_unknown_family_is_refused_with_the_known_ones(
    trajectories: Artifact, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ConversationError, match=r"'poems'.*coins, maths, spell"):
        read_conversations(trajectories.file("trajectories.jsonl"), tokenizer, ("coins", "poems"), 512)


@given(SIZES, st.integers(1, 8), st.integers(1, 30), st.integers(0, 99))
def test_the_order_gives_each_family_its_share_and_repeats_no_conversation_within_an_epoch(
    sizes: dict[str, int], batch: int, steps: int, seed: int
) -> None:
    weights = {family: 0.1 * (place + 1) for place, family in enumerate(sizes)}
    total = batch * steps
    order = Order(sizes, weights, total, batch, seed)
    located = [order.locate(position) for position in range(total)]
    seen = Counter(family for family, _, _ in located)
    for family, size in sizes.items():
        share = weights[family] / sum(weights.values()) * total
        assert abs(seen[family] - share) < 1
        read = [(epoch, index) for name, index, epoch in located if name == family]
        assert len(set(read)) == len(read)
        assert all(0 <= index < size for _, index in read)
        assert [epoch for epoch, _ in read] == [number // size for number in range(len(read))]
        assert [index for _, index in read] == order.read(family, seen[family]) if seen[family] else True
    middle = total // 2
    assert {family: count for family, count in order.counts(middle).items() if count} == Counter(
        family for family, _, _ in located[:middle]
    )
