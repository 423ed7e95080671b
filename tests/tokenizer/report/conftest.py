"""A vocabulary, encoders of it and of bytes, and a report on both."""

from typing import Any

import pytest
import tiktoken

from tests.tokenizer.report.samples import ENTRIES, HOSTILE, taken_out, texts
from tokenizer.report.anchors import O200K
from tokenizer.report.encoders import NamedEncoder, from_tiktoken, from_vocabulary
from tokenizer.report.measure import MeasuredText, measure
from tokenizer.vocabulary import Entry, Vocabulary


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    entries = [
        Entry(text.encode(), stage, 100 - at)
        for stage, named in ENTRIES.items()
        for at, text in enumerate(named)
    ]
    first, last = "模".encode()[:2], "型".encode()[:2]
    return Vocabulary().extended([Entry(first, "base", 7), Entry(last, "base"), *entries])


@pytest.fixture(scope="session")
def ours(vocabulary: Vocabulary) -> NamedEncoder:
    return from_vocabulary("ours", "Ours", vocabulary, 16)


@pytest.fixture(scope="session")
def bytewise() -> NamedEncoder:
    """A vocabulary of bytes alone, behind o200k's pattern."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=O200K, mergeable_ranks=ranks, special_tokens={"<|end|>": 256}
    )
    return from_tiktoken("bytes", "Bytes", encoding, O200K)


@pytest.fixture(scope="session")
def report(ours: NamedEncoder, bytewise: NamedEncoder, vocabulary: Vocabulary) -> dict[str, Any]:
    pruned = [taken_out(HOSTILE.encode(), "a hostile pattern")]
    missing = [{"name": "qwen3", "title": "Qwen3", "reason": "offline"}]
    hostile = MeasuredText(HOSTILE, "web", HOSTILE, (HOSTILE * 30,), HOSTILE)
    documents = [*texts(), hostile]
    return measure([ours, bytewise], documents, vocabulary=vocabulary, missing=missing, pruned=pruned)
