"""Documents become shards: lossless, in seeded order, the same bytes with any workers and after a kill."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.config import TokensConfig
from data_pipeline.tokens.shards import Tokens
from data_pipeline.tokens.stage import TokensStage
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.progress import Event
from stemma.core.stage import Execution, Stage, Workspace, execute
from tokenizer.chat import render
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.specials import END_OF_TEXT
from tokenizer.stage import TokenizerStage

CONFIG = TokensConfig(seed=3, sequence_chunk=64, batch_documents=7)
TRICKY = "x = '<|end_of_text|>'  # and <|User|>, <|begin_of_text|>\n本当に？\r\n\t\U0001f9ec"
MESSAGES = {
    "messages": [
        {"role": "user", "content": "What is 2 + 2?"},
        {
            "role": "assistant",
            "content": "<think>\nadd\n</think>\n\n",
            "tool_calls": [
                {"type": "function", "function": {"name": "python", "arguments": {"code": "2+2"}}}
            ],
        },
        {"role": "tool", "name": "python", "content": "4 <|end_of_text|>"},
        {"role": "assistant", "content": "It is 4."},
    ],
    "tools": [{"type": "function", "function": {"name": "python", "description": "run", "parameters": {}}}],
}


def row(text: str, source: str = "lib", split: str = "train", **more: Any) -> dict[str, Any]:
    identifier = hashlib.sha256(f"{source}{text}".encode()).hexdigest()[:20]
    facts = {
        "id": identifier,
        "text": text,
        "source": source,
        "domain": "code",
        "language": "en",
        "split": split,
    }
    return {
        **facts,
        "licence": "PSF-2.0",
        "origin": f"lib!{identifier[:4]}",
        "cluster": "",
        "decisions": "{}",
        **more,
    }


class Documents(Stage):
    """Writes documents files in the corpus room's format: several files per source, sorted by id."""

    kind = "corpus"
    rows: list[dict[str, Any]]

    def run(self, work: Workspace) -> dict[str, Any]:
        for source in sorted({entry["source"] for entry in self.rows}):
            mine = sorted((e for e in self.rows if e["source"] == source), key=lambda entry: entry["id"])
            folder = work.path / "documents" / source
            folder.mkdir(parents=True)
            for number, start in enumerate(range(0, len(mine), 30)):
                table = pa.Table.from_pylist(mine[start : start + 30])
                pq.write_table(table, folder / f"{number:05d}.parquet", compression="zstd", row_group_size=8)
        return {"documents": len(self.rows)}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "rows": self.rows}


@pytest.fixture(scope="module")
def library() -> list[dict[str, Any]]:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:70]
    texts = [path.read_text(encoding="utf-8", errors="replace")[:6000] for path in files]
    rows = [row(text, split="valid" if n % 10 == 0 else "train") for n, text in enumerate(texts)]
    return [*rows, row(TRICKY), *(row(text, "docs", domain="stem") for text in ("", "short", "ünï"))]


@pytest.fixture(scope="module")
def corpus(library: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return documents(library, tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tokenizer(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    config = TokenizerConfig(vocab_size=1024, special_slots=64, sample_bytes=300_000)
    return execute(
        TokenizerStage("tokenizer", config, {"corpus": corpus}), Store(tmp_path_factory.mktemp("t"))
    )


@pytest.fixture(scope="module")
def tokens(corpus: Artifact, tokenizer: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    stage = TokensStage("tokens", CONFIG, {"corpus": corpus, "tokenizer": tokenizer})
    return execute(stage, Store(tmp_path_factory.mktemp("tokens")), Execution(workers=1))


def documents(rows: list[dict[str, Any]], root: Path) -> Artifact:
    stage = Documents("corpus", Config(), {})
    stage.rows = rows
    return execute(stage, Store(root))


def decoded(artifact: Artifact, tokenizer: Artifact, source: str, split: str = "train") -> dict[str, str]:
    """Text of each document by id, from the shard alone; checks that each ends with the end token."""
    loaded, shard = load(tokenizer.path / "hf"), Tokens(artifact.path).shard(source, split)
    found = {}
    for number in range(len(shard.lengths)):
        ids = shard.read(int(shard.offsets[number]), int(shard.lengths[number])).tolist()
        assert ids[-1] == loaded.convert_tokens_to_ids(END_OF_TEXT)
        found[shard.describe(number)["id"]] = loaded.decode(ids[:-1])
    return found


def test_shards_hold_every_document_of_their_split_losslessly(
    library: list[dict[str, Any]], tokens: Artifact, tokenizer: Artifact
) -> None:
    for source in ("lib", "docs"):
        for split in ("train", "valid"):
            expected = {e["id"]: e["text"] for e in library if (e["source"], e["split"]) == (source, split)}
            if expected:
                assert decoded(tokens, tokenizer, source, split) == expected
    assert Tokens(tokens.path).sources("valid") == {"lib": "code"}


def test_control_tokens_in_text_do_not_become_control_tokens(tokens: Artifact, tokenizer: Artifact) -> None:
    loaded, shard = load(tokenizer.path / "hf"), Tokens(tokens.path).shard("lib")
    number = shard.find(row(TRICKY)["id"])
    assert number is not None
    ids = shard.read(int(shard.offsets[number]), int(shard.lengths[number])).tolist()
    assert END_OF_TEXT in TRICKY
    assert not set(ids[:-1]) & set(loaded.all_special_ids)
    assert ids.count(loaded.convert_tokens_to_ids(END_OF_TEXT)) == 1


def test_the_sidecar_and_the_index_count_exactly(library: list[dict[str, Any]], tokens: Artifact) -> None:
    texts = {entry["id"]: entry for entry in library}
    index = Tokens(tokens.path).index
    for source, entry in index["sources"].items():
        for split, facts in entry["splits"].items():
            shard = Tokens(tokens.path).shard(source, split)
            rows = pq.read_table(shard.sidecar).to_pylist()
            assert [r["document"] for r in rows] == list(range(len(rows)))
            for r in rows:
                assert r["bytes"] == len(texts[r["id"]]["text"].encode())
                assert r["origin"] == texts[r["id"]]["origin"]
                assert (r["offset"], r["tokens"]) == (
                    shard.offsets[r["document"]],
                    shard.lengths[r["document"]],
                )
            totals = {key: sum(r[key] for r in rows) for key in ("tokens", "bytes")}
            assert facts == {"documents": len(rows), **totals}
            assert len(shard) == facts["tokens"]
    assert index["dtype"] == "uint16"
    assert index["sequence_chunk"] == 64
    assert tokens.summary["documents"] == len(library)


def test_megatron_reads_the_shards(tokens: Artifact) -> None:
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    shard = Tokens(tokens.path).shard("lib")
    dataset = megatron.IndexedDataset(str(tokens.path / "train" / "lib"))
    assert len(dataset) == len(shard.lengths)
    for number in range(len(dataset)):
        ours = shard.read(int(shard.offsets[number]), int(shard.lengths[number]))
        assert dataset[number].tolist() == ours.tolist()


def test_documents_are_in_an_order_of_the_seed_not_of_their_ids(
    corpus: Artifact, tokenizer: Artifact, tokens: Artifact, tmp_path: Path
) -> None:
    def order(artifact: Artifact) -> list[str]:
        return pq.read_table(Tokens(artifact.path).shard("lib").sidecar).column("id").to_pylist()

    config = CONFIG.model_copy(update={"seed": 4})
    other = execute(
        TokensStage("tokens", config, {"corpus": corpus, "tokenizer": tokenizer}), Store(tmp_path)
    )
    assert sorted(order(tokens)) == sorted(order(other))
    assert order(tokens) != order(other) != sorted(order(other))


def test_workers_and_batches_change_no_byte(
    corpus: Artifact, tokenizer: Artifact, tokens: Artifact, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"batch_documents": 11})
    stage = TokensStage("tokens", config, {"corpus": corpus, "tokenizer": tokenizer})
    other = execute(stage, Store(tmp_path), Execution(workers=2))
    assert other.fingerprint == tokens.fingerprint
    assert other.manifest["files"] == tokens.manifest["files"]


def test_conversations_are_rendered_by_the_chat_template(tokenizer: Artifact, tmp_path: Path) -> None:
    rows = [
        row("as JSON, not for training", "repair", domain="agent", messages=json.dumps(MESSAGES)),
        row("plain", "repair", domain="agent", messages=""),
    ]
    unfinished = {"messages": MESSAGES["messages"][:1]}
    rows.append(row("cut", "repair", domain="agent", messages=json.dumps(unfinished)))
    stage = TokensStage("agent_tokens", CONFIG, {"corpus": documents(rows, tmp_path), "tokenizer": tokenizer})
    artifact = execute(stage, Store(tmp_path), Execution(workers=1))
    loaded, shard = load(tokenizer.path / "hf"), Tokens(artifact.path).shard("repair")
    end = loaded.convert_tokens_to_ids(END_OF_TEXT)

    def ids(entry: dict[str, Any]) -> list[int]:
        number = shard.find(entry["id"])
        assert number is not None
        return shard.read(int(shard.offsets[number]), int(shard.lengths[number])).tolist()

    assert ids(rows[0]) == render(loaded, MESSAGES["messages"], MESSAGES["tools"]).ids
    assert ids(rows[0])[0] == loaded.bos_token_id  # once, from the template
    assert ids(rows[0]).count(loaded.bos_token_id) == 1
    assert ids(rows[0]).count(end) == 2  # the ends of two answers; none was added, none forged by the tool
    assert ids(rows[1])[0] != loaded.bos_token_id
    assert ids(rows[2]) == [*render(loaded, unfinished["messages"]).ids, end]


def test_a_killed_run_continues_and_ends_with_the_same_bytes(
    corpus: Artifact, tokenizer: Artifact, tokens: Artifact, tmp_path: Path
) -> None:
    """Kill the process group as soon as some batches are encoded, run again, compare every file's hash."""
    config = CONFIG.model_copy(update={"batch_documents": 1})
    folder = Store(tmp_path).folder("tokens", tokens.fingerprint)
    script = (
        "import sys; from pathlib import Path; from stemma.core.artifact import Store, open_artifact;"
        "from stemma.core.stage import Execution, execute; from data_pipeline.config import TokensConfig;"
        "from data_pipeline.tokens.stage import TokensStage;"
        "config = TokensConfig.model_validate_json(sys.argv[1]);"
        "corpus, tokenizer = (open_artifact(Path(path)) for path in sys.argv[2:4]);"
        "inputs = {'corpus': corpus, 'tokenizer': tokenizer};"
        "execute(TokensStage('tokens', config, inputs), Store(Path(sys.argv[4])), Execution(workers=1))"
    )
    arguments = [config.model_dump_json(), str(corpus.path), str(tokenizer.path), str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    while process.poll() is None and len(list(folder.glob(".scratch/*/*.npz"))) < 5:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in folder.glob(".scratch/*/*.npz")}
    assert done
    assert not (folder / "manifest.json").exists()
    events: list[Event] = []
    stage = TokensStage("tokens", config, {"corpus": corpus, "tokenizer": tokenizer})
    resumed = execute(stage, Store(tmp_path), Execution(workers=1), [events.append])
    assert resumed.manifest["files"] == tokens.manifest["files"]
    assert any("documents are encoded" in event.text for event in events)
    steps = [event.step for event in events if event.kind == "step"]
    assert steps[0] == len(done) + 1  # what was encoded was not encoded again


def test_bad_documents_are_refused_by_name(tokenizer: Artifact, tmp_path: Path) -> None:
    def refused(rows: list[dict[str, Any]], place: Path) -> Callable[[], Artifact]:
        stage = TokensStage("tokens", CONFIG, {"corpus": documents(rows, place), "tokenizer": tokenizer})
        return lambda: execute(stage, Store(place), Execution(workers=1))

    broken = row("x", messages=json.dumps({"messages": [{"role": "robot", "content": "hi"}]}))
    with pytest.raises(StemmaError, match=f"document {broken['id']} .*role 'robot'"):
        refused([broken], tmp_path / "a")()
    torn = refused([row("x")], tmp_path / "b")
    path = next((tmp_path / "b").glob("artifacts/corpus-*/documents/lib/00000.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DamagedError, match=r"00000\.parquet is not readable Parquet"):
        torn()
    with pytest.raises(StemmaError, match="has no documents to tokenize"):
        refused([], tmp_path / "c")()
