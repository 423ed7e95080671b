"""A small corpus of real text (the standard library's sources), and a tokenizer of each backend."""

import hashlib
import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.stage import Stage, Workspace, execute
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.stage import TokenizerStage

CONFIG = TokenizerConfig(vocab_size=2048, special_slots=64, source_bytes=2_000_000)
CHINESE = "生活就像一盒巧克力，你永远不知道下一颗是什么味道。" * 3


def rows(limit: int = 120) -> list[dict[str, str]]:
    library = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for index, path in enumerate(sorted(library.glob("*.py"))[:limit]):
        text = path.read_text(encoding="utf-8", errors="replace")
        if index % 10 == 3:
            text = (
                "The Fibonacci sequence begins with 0, 1, 1, 2. The Fibonacci sequence begins with\n"
                + CHINESE
            )
        found.append(
            {
                "id": hashlib.sha256(path.name.encode()).hexdigest()[:20],
                "text": text,
                "source": "stdlib",
                "domain": "web" if index % 10 == 3 else "code",
                "language": "en",
                "split": "valid" if index % 20 in (3, 4) else "train",
            }
        )
    return found


FIND = {
    "type": "function",
    "function": {
        "name": "find_quokka",
        "description": "Finds zorblax in a meadow.",
        "parameters": {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]},
    },
}


def conversation_rows(count: int = 120) -> list[dict[str, str]]:
    """Conversations as the trajectories room writes them, in words the standard library does not use."""
    found = []
    for index in range(count):
        call = {"type": "function", "function": {"name": "find_quokka", "arguments": {"where": "wumpus"}}}
        messages = [
            {"role": "user", "content": f"Where is frobnitz {index}?"},
            {"role": "assistant", "content": "<think>Ask the snark.</think>\n\n", "tool_calls": [call]},
            {"role": "tool", "name": "find_quokka", "content": f"Not here: {index}"},
            {"role": "assistant", "content": "The frobnitz is gone."},
        ]
        found.append(
            {
                "id": hashlib.sha256(f"conversation {index}".encode()).hexdigest()[:20],
                "text": "user: a jabberwock " * 10,
                "source": "lore",
                "domain": "agent",
                "language": "en",
                "split": "valid" if index % 20 == 3 else "train",
                "messages": json.dumps({"messages": messages, "tools": [FIND]}),
            }
        )
    return found


class CorpusStage(Stage):
    """Writes documents as the corpus room does, in the columns this room reads."""

    kind = "corpus"
    documents: list[dict[str, str]]

    def run(self, work: Workspace) -> dict[str, int]:
        half = len(self.documents) // 2
        for number, part in enumerate((self.documents[:half], self.documents[half:])):
            for source in {row.get("source", "stdlib") for row in part}:
                folder = work.path / "documents" / source
                folder.mkdir(parents=True, exist_ok=True)
                mine = [row for row in part if row.get("source", "stdlib") == source]
                pq.write_table(pa.Table.from_pylist(mine), folder / f"{number:05d}.parquet")
        return {"documents": len(self.documents)}


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[dict[str, str]]], Artifact]:
    def make(documents: list[dict[str, str]]) -> Artifact:
        stage = CorpusStage("corpus", Config(), {})
        stage.documents = documents
        return execute(stage, Store(tmp_path_factory.mktemp("corpus")))

    return make


@pytest.fixture(scope="session")
def documents() -> list[dict[str, str]]:
    return rows()


@pytest.fixture(scope="session")
def corpus(
    make_corpus: Callable[[list[dict[str, str]]], Artifact], documents: list[dict[str, str]]
) -> Artifact:
    return make_corpus(documents)


@pytest.fixture(scope="session")
def conversations() -> list[dict[str, str]]:
    return conversation_rows()


@pytest.fixture(scope="session")
def trajectories(
    make_corpus: Callable[[list[dict[str, str]]], Artifact], conversations: list[dict[str, str]]
) -> Artifact:
    return make_corpus(conversations)


@pytest.fixture(scope="session", params=["bpe", "sentencepiece"])
def artifact(
    request: pytest.FixtureRequest, corpus: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    config = CONFIG.model_copy(update={"backend": request.param})
    return execute(
        TokenizerStage("tokenizer", config, {"corpus": corpus}), Store(tmp_path_factory.mktemp("store"))
    )


@pytest.fixture(scope="session")
def tokenizer(artifact: Artifact) -> PreTrainedTokenizerFast:
    return load(artifact.path / "hf")
