"""Documents become shards: lossless, in seeded order, the same bytes with any workers and after a kill."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import data_pipeline.tokens.stage as stage_module
from data_pipeline.config import TokensConfig
from data_pipeline.tokens.encode import FACTS, vocabulary
from data_pipeline.tokens.shards import Tokens, TokenShard
from data_pipeline.tokens.stage import TokensStage
from data_pipeline.tokens.write import ShardJob, write_shard
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.errors import DamagedError, StageFailed, StemmaError
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
    config = TokenizerConfig(vocab_size=1024, special_slots=64, source_bytes=300_000)
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
    (number,) = shard.pieces(row(TRICKY)["id"])
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
            assert all(r["start"] == 0 and r["document_tokens"] == r["tokens"] for r in rows)
            for r in rows:
                assert r["bytes"] == len(texts[r["id"]]["text"].encode())
                assert r["origin"] == texts[r["id"]]["origin"]
                assert (r["offset"], r["tokens"]) == (
                    shard.offsets[r["document"]],
                    shard.lengths[r["document"]],
                )
            totals = {key: sum(r[key] for r in rows) for key in ("tokens", "bytes")}
            assert {key: facts[key] for key in facts if not key.startswith("cut")} == {
                "documents": len(rows),
                "pieces": len(rows),
                **totals,
            }
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
    stage = TokensStage("tokens", config, {"corpus": corpus, "tokenizer": tokenizer})
    other = execute(stage, Store(tmp_path), Execution(workers=1))
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
        (number,) = shard.pieces(entry["id"])
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
    while process.poll() is None and len(list(folder.glob(".scratch/encoded/*/*.arrow"))) < 5:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in folder.glob(".scratch/encoded/*/*.arrow")}
    assert done
    assert not (folder / "manifest.json").exists()
    events: list[Event] = []
    stage = TokensStage("tokens", config, {"corpus": corpus, "tokenizer": tokenizer})
    resumed = execute(stage, Store(tmp_path), Execution(workers=1), [events.append])
    assert resumed.manifest["files"] == tokens.manifest["files"]
    assert any("documents are encoded" in event.text for event in events)
    steps = [event.step for event in events if event.kind == "step"]
    assert steps[0] == len(done) + 1  # what was encoded was not encoded again


def test_a_killed_worker_is_an_error_and_not_a_hang(
    corpus: Artifact, tokenizer: Artifact, tokens: Artifact, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"batch_documents": 1})
    inputs = {"corpus": corpus, "tokenizer": tokenizer}

    def kill_one(event: Event) -> None:
        if event.kind == "step":
            children = multiprocessing.active_children()
            os.kill(children[0].pid or 0, signal.SIGKILL)

    with pytest.raises(StageFailed, match=r"a worker died .*what is done is kept"):
        execute(TokensStage("tokens", config, inputs), Store(tmp_path), Execution(workers=2), [kill_one])
    resumed = execute(TokensStage("tokens", config, inputs), Store(tmp_path), Execution(workers=1))
    assert resumed.manifest["files"] == tokens.manifest["files"]


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


class Scores(Stage):
    """Stands for the quality stage: one score per document, as that writes them."""

    kind = "quality"
    rows: dict[str, list[tuple[str, float]]]

    def run(self, work: Workspace) -> dict[str, Any]:
        (work.path / "scores").mkdir()
        for source, rows in self.rows.items():
            quality = pa.array([score for _, score in rows], pa.float32())
            table = pa.table({"id": [identifier for identifier, _ in rows], "quality": quality})
            pq.write_table(table, work.path / "scores" / f"{source}.parquet")
        return {}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "rows": self.rows}


def scores(rows: list[tuple[str, float]], root: Path) -> Artifact:
    stage = Scores("quality", Config(), {})
    stage.rows = {"lib": rows}
    return execute(stage, Store(root))


def test_packed_shards_hold_the_same_tokens_and_cut_fewer_documents(
    corpus: Artifact, tokenizer: Artifact, tokens: Artifact, tmp_path: Path
) -> None:
    """The pieces of every document, put together by the sidecar, are the document as written unpacked."""
    config = CONFIG.model_copy(update={"packing": "best_fit", "sequence_chunk": 4096, "packing_length": 1024})
    stage = TokensStage("tokens", config, {"corpus": corpus, "tokenizer": tokenizer})
    packed = execute(stage, Store(tmp_path), Execution(workers=1))
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    dataset = megatron.IndexedDataset(str(packed.path / "train" / "lib"))
    plain, shard = Tokens(tokens.path).shard("lib"), Tokens(packed.path).shard("lib")
    rows = pq.read_table(shard.sidecar).to_pylist()
    assert len(rows) == len(dataset) == len(shard.lengths)
    assert len(shard) == len(plain)
    cut = set()
    for r in pq.read_table(plain.sidecar).to_pylist():
        mine = [rows[number] for number in shard.pieces(r["id"])]
        whole = plain.read(r["offset"], r["tokens"]).tolist()
        assert [token for piece in mine for token in dataset[piece["document"]].tolist()] == whole
        assert [p["start"] for p in mine] == [sum(p["tokens"] for p in mine[:n]) for n in range(len(mine))]
        assert sum(piece["bytes"] for piece in mine) == r["bytes"]
        assert {(p["document_tokens"], p["origin"], p["decisions"]) for p in mine} == {
            (r["tokens"], r["origin"], r["decisions"])
        }
        windows = {(p["offset"] + token) // 1024 for p in mine for token in (0, p["tokens"] - 1)}
        cut |= {r["id"]} if len(windows) > 1 else set()
    facts = Tokens(packed.path).index["sources"]["lib"]["splits"]["train"]
    assert facts["cut"]["documents"] == len(cut) < facts["cut_by_concatenation"]["documents"]
    assert facts["pieces"] == len(rows) > facts["documents"] == len(plain.lengths)
    truncation = packed.summary["truncation"]
    assert truncation["documents_cut"] < truncation["documents_cut_by_concatenation"] < 1
    assert (packed.path / "valid/lib.bin").read_bytes() == (tokens.path / "valid/lib.bin").read_bytes()


def test_tiers_divide_a_source_by_its_scores(
    library: list[dict[str, Any]], corpus: Artifact, tokenizer: Artifact, tokens: Artifact, tmp_path: Path
) -> None:
    """Every training document is in the tier of its score; held-out text and sources without scores stay."""
    mine = sorted(entry["id"] for entry in library if entry["source"] == "lib")
    quality = {identifier: (0.0, 0.3, 0.5, 0.7, 1.0)[n % 5] for n, identifier in enumerate(mine)}
    inputs = {"corpus": corpus, "tokenizer": tokenizer, "quality": scores(list(quality.items()), tmp_path)}
    config = CONFIG.model_copy(update={"tiers": (0.3, 0.7)})
    tiered = execute(TokensStage("tokens", config, inputs), Store(tmp_path), Execution(workers=1))
    found = Tokens(tiered.path)
    assert found.sources("train") == {"docs": "stem", **{f"lib.t{tier}": "code" for tier in range(3)}}
    assert found.sources("valid") == {"lib": "code"}
    expected = decoded(tokens, tokenizer, "lib")
    together = {}
    for tier in range(3):
        texts = decoded(tiered, tokenizer, f"lib.t{tier}")
        assert {(quality[name] >= 0.3) + (quality[name] >= 0.7) for name in texts} == {tier}
        entry = found.index["sources"][f"lib.t{tier}"]
        assert (entry["parent"], entry["tier"]) == ("lib", tier)
        together |= texts
    assert together == expected
    assert (tiered.path / "train/docs.bin").read_bytes() == (tokens.path / "train/docs.bin").read_bytes()
    assert tiered.summary["tokens"] == tokens.summary["tokens"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "row 0 is .*, but the document there is .*scores of other documents"),
        (lambda rows: rows[:-1], r"is \(the end\), but the document there is"),
        (lambda rows: [*rows, ("more", 0.5)], "row .* is more, but the source has"),
        (lambda rows: [(rows[0][0], 1.5), *rows[1:]], "has quality 1.5, expected 0 to 1"),
    ],
)
def test_scores_of_other_documents_are_refused(
    change: Callable[[Any], Any],
    message: str,
    library: list[dict[str, Any]],
    corpus: Artifact,
    tokenizer: Artifact,
    tmp_path: Path,
) -> None:
    rows = [(name, 0.5) for name in sorted(entry["id"] for entry in library if entry["source"] == "lib")]
    config = CONFIG.model_copy(update={"tiers": (0.5,)})
    inputs = {"corpus": corpus, "tokenizer": tokenizer, "quality": scores(change(rows), tmp_path)}
    with pytest.raises(StemmaError, match=message):
        execute(TokensStage("tokens", config, inputs), Store(tmp_path), Execution(workers=1))


def test_written_shards_are_not_written_again(
    corpus: Artifact, tokenizer: Artifact, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Die in the second shard: the first stays, and the end is the same bytes."""
    real, calls = stage_module.write_shard, []

    def dies(job: ShardJob) -> None:
        calls.append(job)
        if len(calls) == 2:
            (job.folder / job.split).mkdir(exist_ok=True)
            (job.folder / job.split / f".{job.name}.bin.tmp").write_bytes(b"half a shard")
            raise KeyboardInterrupt
        real(job)

    inputs = {"corpus": corpus, "tokenizer": tokenizer}
    monkeypatch.setattr(stage_module, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        execute(TokensStage("tokens", CONFIG, inputs), Store(tmp_path), Execution(workers=1))
    folder = Store(tmp_path).folder("tokens", tokens.fingerprint)
    before = (folder / calls[0].split / f"{calls[0].name}.bin").stat().st_mtime_ns
    events: list[Event] = []
    resumed = execute(
        TokensStage("tokens", CONFIG, inputs), Store(tmp_path), Execution(workers=1), [events.append]
    )
    assert (folder / calls[0].split / f"{calls[0].name}.bin").stat().st_mtime_ns == before
    assert "continuing: 1 of 3 shards are written" in [event.text for event in events]
    assert resumed.manifest["files"] == tokens.manifest["files"]


def test_writing_a_shard_holds_no_more_than_a_few_documents_in_memory(
    tokenizer: Artifact, tmp_path: Path
) -> None:
    """16 MB of tokens in 40 documents are written with a peak below a tenth of it."""
    outputs = []
    for number in range(4):
        output = tmp_path / f"batch{number}"
        np.full(10 * 200_000, number, np.uint16).tofile(f"{output}.tokens")
        facts = {name: [f"{name}-{number}-{row}" for row in range(10)] for name in FACTS if name != "split"}
        table = pa.table({**facts, "split": ["train"] * 10, "tokens": [200_000] * 10, "bytes": [1] * 10})
        with pa.ipc.new_file(f"{output}.arrow", table.schema) as writer:
            writer.write_table(table)
        outputs.append(output)
    folder, artifact, scratch = tokenizer.path / "hf", tmp_path / "artifact", tmp_path / "scratch"
    vocabulary(folder)
    artifact.mkdir()
    scratch.mkdir()
    job = ShardJob("s", "s", "train", None, tuple(outputs), folder, artifact, scratch, 1, 64, True)
    tracemalloc.start()
    write_shard(job)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_600_000
    assert len(TokenShard(artifact / "train" / "s")) == 40 * 200_000


@pytest.mark.parametrize(
    "name", ["train/lib.bin", "train/lib.idx", "train/lib.docs.parquet", "valid/lib.bin"]
)
def test_a_flipped_byte_in_a_shard_is_refused_by_name(
    name: str, corpus: Artifact, tokenizer: Artifact, tokens: Artifact, tmp_path: Path
) -> None:
    copy = tmp_path / "artifacts" / tokens.path.name
    shutil.copytree(tokens.path, copy)
    raw = bytearray((copy / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / name).write_bytes(raw)
    stage = TokensStage("tokens", CONFIG, {"corpus": corpus, "tokenizer": tokenizer})
    with pytest.raises(DamagedError, match=f"{name}: its SHA-256 is not the sealed one"):
        execute(stage, Store(tmp_path), Execution(workers=1))
    assert (copy / name).read_bytes() == raw


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"packing_length": 48}, "packing_length 48 does not divide sequence_chunk 64"),
        ({"tiers": (0.5, 0.5)}, "tiers must rise"),
        ({"tiers": (0.0, 0.5)}, "thresholds between 0 and 1"),
        ({"packing": "worst_fit"}, "'concat' or 'best_fit'"),
    ],
)
def test_senseless_settings_fail_with_the_profile(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokensConfig(sequence_chunk=64, **fields)
