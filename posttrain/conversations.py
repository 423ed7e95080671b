"""Conversations to fine-tune on, and the order they are read in.

The order is a pure function of the position: the families' shares are exact and evenly spread (as in the
pretraining plan), and each pass over a family is another seeded permutation of its conversations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from data_pipeline.curriculum.layout import Layout, apportion
from data_pipeline.permutation import derive_key, permutation
from stemma.core.errors import StemmaError
from stemma.core.files import read_jsonl
from stemma.core.ledger import Ledger
from tokenizer.chat import render


class ConversationError(StemmaError):
    """The trajectories cannot serve as the config asks."""


@dataclass(frozen=True)
class Conversation:
    """A rendered conversation.

    Attributes:
        id: the trajectory's.
        ids: int32 ``[tokens]``.
        mask: bool ``[tokens]``, True where the assistant wrote the token.
    """

    id: str
    ids: np.ndarray
    mask: np.ndarray

    @property
    def tokens(self) -> int:
        """Predicted positions."""
        return len(self.ids) - 1

    @property
    def supervised(self) -> int:
        """Predicted positions that carry loss."""
        return int(self.mask[1:].sum())


def read_conversations(
    path: Path, tokenizer: PreTrainedTokenizerFast, families: Sequence[str], max_tokens: int
) -> tuple[dict[str, list[Conversation]], dict[str, int]]:
    """Render the training conversations of some families.

    Args:
        path: ``trajectories.jsonl``.
        tokenizer: what ``tokenizer.load.load`` returns.
        families: which ones.
        max_tokens: longer conversations are left out whole: half of one would teach a broken ending.

    Returns:
        conversations by family, in the file's order; and how many of each family were too long.

    Raises:
        ConversationError: a family has nothing to learn from; lists those there are.
    """
    found: dict[str, list[Conversation]] = {family: [] for family in families}
    left_out = dict.fromkeys(families, 0)
    seen: set[str] = set()
    for record in read_jsonl(path):
        family = record["family"]
        seen.add(family)
        if family not in found or record["split"] != "train":
            continue
        rendered = render(tokenizer, record["messages"], record["tools"])
        mask = np.array(rendered.assistant_mask, dtype=bool)
        if len(rendered.ids) > max_tokens:
            left_out[family] += 1
        elif mask[1:].any():
            found[family].append(Conversation(record["id"], np.array(rendered.ids, dtype=np.int32), mask))
    for family, conversations in found.items():
        if not conversations:
            reason = (
                f"all {left_out[family]} are longer than {max_tokens} tokens; raise max_tokens"
                if left_out.get(family)
                else f"{path} has families: {', '.join(sorted(seen)) or '(none)'}"
            )
            raise ConversationError(f"there are no training conversations of family {family!r}: {reason}")
    return found, left_out


class Order:
    """Which conversation stands at each position of a stage.

    Args:
        sizes: conversations of each family.
        weights: share of each family.
        total: positions of the stage.
        block: positions over which the shares are kept as well as integers allow, such as a batch.
        seed: of the order.
    """

    def __init__(
        self, sizes: Mapping[str, int], weights: Mapping[str, float], total: int, block: int, seed: int
    ) -> None:
        self.sizes, self.seed = dict(sizes), seed
        shares = apportion(total, [Fraction(str(weights[family])) for family in sizes])
        self.families = [family for family, share in zip(sizes, shares) if share]
        self.layout = Layout(
            [share for share in shares if share], block, derive_key(seed, "order of conversations")
        )

    def locate(self, position: int) -> tuple[str, int, int]:
        """Family, index within the family and epoch (from 0) of the conversation at a position.

        Raises:
            IndexError: the stage has no such position.
        """
        index, number = self.layout.locate(position)
        family = self.families[index]
        epoch, place = divmod(number, self.sizes[family])
        return family, self._permuted(family, epoch, place), epoch

    def read(self, family: str, count: int) -> list[int]:
        """Index of each of the first ``count`` conversations read of a family."""
        size = self.sizes[family]
        return [self._permuted(family, *divmod(number, size)) for number in range(count)]

    def counts(self, position: int) -> dict[str, int]:
        """Conversations of each family before a position."""
        return dict(zip(self.families, self.layout.counts_before(position)))

    def consumed(self, first: int, last: int) -> dict[str, list[int]]:
        """Index of each conversation read at positions ``first .. last - 1``, by family."""
        before, after = self.counts(first), self.counts(last)
        read = {family: self.read(family, after[family])[before[family] :] for family in self.families}
        return {family: indices for family, indices in read.items() if indices}

    def _permuted(self, family: str, epoch: int, place: int) -> int:
        return permutation(self.sizes[family], self.seed, family, epoch)(place)


class Reading:
    """Conversations and their order under one config of SFT.

    Args:
        sft: the section, or its identity: ``families``, ``steps``, ``seed``, ``training.global_batch_size``.
        conversations: by family, as ``read_conversations`` gives them for this config.
    """

    def __init__(self, sft: Mapping[str, Any], conversations: dict[str, list[Conversation]]) -> None:
        self.conversations = conversations
        self.rows = int(sft["training"]["global_batch_size"])
        sizes = {family: len(found) for family, found in conversations.items()}
        self.order = Order(sizes, sft["families"], self.rows * sft["steps"], self.rows, sft["seed"])

    def count(self, ledger: Ledger, first: int, last: int) -> None:
        """Record what steps ``first .. last - 1`` consist of, by the order's arithmetic."""
        for family, indices in self.order.consumed(first * self.rows, last * self.rows).items():
            read = [self.conversations[family][index] for index in indices]
            supervised = sum(conversation.supervised for conversation in read)
            ledger.record(family, len(read), sum(conversation.tokens for conversation in read), supervised)
