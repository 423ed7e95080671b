"""Conversations beside the corpus: learned from as the template renders them, and reported as such."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from stemma.core.artifact import Artifact, Store
from stemma.core.stage import execute
from tokenizer.chat import render
from tokenizer.config import TokenizerConfig
from tokenizer.errors import TextError
from tokenizer.learning.sample import read_documents
from tokenizer.load import encode_text, load, token_bytes
from tokenizer.specials import NAMED
from tokenizer.stage import TokenizerStage

CONFIG = TokenizerConfig(
    vocab_size=2048,
    special_slots=64,
    source_bytes=600_000,
    stages=({"name": "general", "weights": {"web": 0.4, "code": 0.4, "agent": 0.2}},),
)


def make(root: Path, backend: str = "bpe", **inputs: Artifact) -> Artifact:
    config = CONFIG.model_copy(update={"backend": backend})
    return execute(TokenizerStage("tokenizer", config, inputs), Store(root))


@pytest.fixture(scope="module", params=["bpe", "sentencepiece"])
def learned(request, corpus: Artifact, trajectories: Artifact, tmp_path_factory) -> Artifact:
    root = tmp_path_factory.mktemp("learned")
    return make(root, request.param, corpus=corpus, trajectories=trajectories)


def length(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    return len(encode_text(tokenizer, [text])[0])


def test_words_of_rendered_conversations_are_learned(learned: Artifact, tokenizer) -> None:
    """Messages, thoughts, calls and tool descriptions; not the column `text`, which nobody reads."""
    with_them = load(learned.path / "hf")
    for word in (" frobnitz", " snark", "wumpus", " zorblax", " capabilities"):
        assert length(with_them, word) == 1 < length(tokenizer, word), word
    assert length(with_them, " jabberwock") > 2


def test_the_report_covers_conversations_as_rendered(
    learned: Artifact, corpus: Artifact, trajectories: Artifact
) -> None:
    report = json.loads(learned.file("report.json").read_text())
    tokenizer = load(learned.path / "hf")
    of_id = token_bytes(tokenizer)
    held_out = list(read_documents([trajectories.path], "valid"))
    special = {tokenizer.convert_tokens_to_ids(token) for token in NAMED}
    read = [i for row in held_out for i in render(tokenizer, **json.loads(row.messages)).ids]
    ids = [i for i in read if i not in special]  # which every tokenizer would have
    rows = {row["name"]: row for row in report["groups"] if row["group"] == "domain"}
    assert rows["agent"]["documents"] == len(held_out) > 1
    assert rows["agent"]["bytes"] == sum(len(of_id[i]) for i in ids)
    assert rows["agent"]["by"]["ours"]["tokens"] == len(ids) < len(read)
    texts = [row.text for row in read_documents([corpus.path], "valid") if row.domain == "code"]
    assert rows["code"]["bytes"] == sum(len(text.encode()) for text in texts)
    assert {part["domain"] for part in report["parts"]} == {"agent", "code", "web"}


def test_a_corpus_may_hold_conversations_itself(
    make_corpus, documents, conversations, tmp_path: Path
) -> None:
    """Files with and without the column, and empty and missing values in it."""
    empty = [{**row, "messages": ""} for row in documents[:60]]
    mixed = [*documents[60:], *empty, *({**row, "messages": None} for row in documents[:1]), *conversations]
    mixed[-1] = {**mixed[-1], "id": "last", "messages": "", "text": "plain after all"}
    artifact = make(tmp_path, corpus=make_corpus(sorted(mixed, key=lambda row: "messages" in row)))
    assert length(load(artifact.path / "hf"), " snark") == 1


@pytest.mark.parametrize("backend", ["bpe", "sentencepiece"])
def test_special_tokens_in_text_never_become_entries(
    make_corpus, documents, conversations, tmp_path: Path, backend: str
) -> None:
    """Neither where a document mentions them, nor where a message forges them; their ids stay theirs."""
    noise = " ".join(f"{token} {token}word {token}{token}" for token in NAMED) + "\n"
    forged = {"messages": [{"role": "user", "content": noise * 20}], "tools": []}
    artifact = make(
        tmp_path,
        backend,
        corpus=make_corpus([{**row, "text": noise * 20 + row["text"]} for row in documents]),
        trajectories=make_corpus(
            [*conversations[:40], *({**row, "messages": json.dumps(forged)} for row in conversations[40:])]
        ),
    )
    tokenizer = load(artifact.path / "hf")
    entries = token_bytes(tokenizer)[: CONFIG.learned_size]
    fragments = [token.strip("<>/|").encode() for token in NAMED if "_" in token or token == "<|Assistant|>"]
    assert len(fragments) > 4
    for entry in entries:
        assert not any(token.encode() in entry for token in NAMED), entry
        assert not any(fragment in entry for fragment in fragments), entry
    ids = tokenizer.convert_tokens_to_ids(list(NAMED))
    assert ids == list(range(CONFIG.learned_size, CONFIG.learned_size + len(NAMED)))


@pytest.mark.parametrize(
    "messages",
    [
        "{",
        "[]",
        '{"tools": []}',
        '{"messages": []}',
        '{"messages": ["hello"]}',
        '{"messages": [{"role": "robot", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": "\\ud800"}]}',
    ],
)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_damaged_conversation_is_refused_by_name(
    make_corpus, corpus, conversations, tmp_path: Path, messages: str, split: str
) -> None:
    broken = {**conversations[0], "id": "bad", "split": split, "messages": messages}
    with pytest.raises(TextError, match="document bad: its messages cannot be rendered"):
        make(tmp_path, corpus=corpus, trajectories=make_corpus([broken, *conversations[1:3]]))
    assert not list((tmp_path / "artifacts").glob("*/manifest.json")), "nothing may be sealed"
