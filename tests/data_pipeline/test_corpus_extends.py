"""A corpus that goes on from an earlier one: it is taken over as it is, or refused where it changed."""

import json
import os

import pyarrow.parquet as pq
import pytest

from data_pipeline.config import CorpusConfig, TokensConfig
from data_pipeline.corpus.base import BaseMismatch
from data_pipeline.corpus.stage import CorpusStage, EmptyCorpus
from data_pipeline.tokens.stage import TokensStage
from stemma.core.artifact import Store, verify_artifact
from stemma.core.errors import DamagedError
from stemma.core.progress import Progress
from stemma.core.stage import Execution, execute
from tests.data_pipeline.corpora import hashes, jsonl, local, make, rows, section, texts
from tokenizer.config import TokenizerConfig
from tokenizer.stage import TokenizerStage

OLD, NEW = texts(40, seed=21), texts(30, seed=22)
NEAR = OLD[7].replace(OLD[7].split()[50], "changed", 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, sources, the first corpus, the one that goes on from it)."""
    folder = tmp_path_factory.mktemp("extends")
    sources = {
        "old": local(jsonl(folder / "old.jsonl", [*OLD, "tiny"])),
        "new": local(jsonl(folder / "new.jsonl", [*NEW, OLD[3], NEAR, "small"]), domain="stem"),
    }
    base = make(folder, section({"old": sources["old"]}))
    return folder, sources, base, make(folder, section(sources, extends=str(base.path)))


def test_the_old_is_taken_over_as_it_is_and_the_new_is_compared_with_it(made):
    _, _, base, artifact = made
    before, after = hashes(base), hashes(artifact)
    for name in before:
        if name.startswith(("documents/", "rejects/", "statistics/old")):
            assert after[name] == before[name]
            assert os.stat(artifact.path / name).st_nlink >= 2 or not name.startswith("documents/")
    kept = {row["id"] for row in rows(artifact, "documents", "old")}
    assert len(rows(artifact, "documents", "new")) == len(NEW)
    rejects = {row["rule"]: row for row in rows(artifact, "rejects", "new")}
    assert set(rejects) == {"too_short", "exact_duplicate", "near_duplicate"}
    assert rejects["exact_duplicate"]["value"] in kept
    assert rejects["near_duplicate"]["value"] in kept
    verify_artifact(base)


def test_the_figures_are_of_both_and_lineage_is_recorded(made):
    _, _, base, artifact = made
    funnel = json.loads(artifact.file("funnel.json").read_text())
    assert funnel["sources"]["old"] == json.loads(base.file("funnel.json").read_text())["sources"]["old"]
    assert set(funnel["domains"]) == {"web", "stem"}
    assert artifact.summary["documents"] == len(OLD) + len(NEW)
    assert artifact.summary["sources"] == 2
    statistics = json.loads(artifact.file("statistics.json").read_text())
    assert statistics["total"]["documents"] == len(OLD) + len(NEW)
    assert statistics["sources"]["old"]["inherited"]
    assert not statistics["sources"]["new"]["inherited"]
    assert artifact.manifest["resolved"]["extends"] == base.fingerprint
    entries = {entry["id"]: entry for entry in json.loads(artifact.file("sources.json").read_text())}
    assert entries["old"]["inherited"] == str(base)


def test_it_can_be_gone_on_from_again_by_the_name_of_a_run_and_with_the_new_sources_alone(made, tmp_path):
    folder, sources, _, artifact = made
    record = {"nodes": {"corpus": {"fingerprint": artifact.fingerprint}}}
    (folder / "store" / "second").mkdir()
    (folder / "store" / "second" / "run.json").write_text(json.dumps(record))
    third = jsonl(tmp_path / "third.jsonl", [*texts(10, seed=23), OLD[1], NEW[2]])
    alone = make(folder, section({"third": local(third)}, extends="second"))
    assert alone.summary["documents"] == len(OLD) + len(NEW) + 10
    assert {row["rule"] for row in rows(alone, "rejects", "third")} == {"exact_duplicate"}
    assert alone.manifest["resolved"]["extends"] == artifact.fingerprint
    again = make(folder, section({**sources, "third": local(third)}, extends="second"))
    assert {n: h for n, h in hashes(again).items() if n.startswith("documents/")} == {
        n: h for n, h in hashes(alone).items() if n.startswith("documents/")
    }
    with pytest.raises(EmptyCorpus, match="nothing to add"):
        make(folder, section(sources, extends="second"))


def test_another_base_is_another_corpus_and_its_place_is_not_part_of_it(made, tmp_path):
    folder, sources, base, artifact = made
    moved = tmp_path / "elsewhere"
    moved.symlink_to(base.path)

    def fingerprint(**fields):
        stage = CorpusStage("corpus", CorpusConfig(**section(sources, **fields)), {})
        stage.resolve(Store(folder / "store").cache, Execution(), Progress("corpus"))
        return stage.fingerprint

    assert fingerprint(extends=str(moved)) == artifact.fingerprint
    assert fingerprint() != artifact.fingerprint


def test_what_changed_since_is_refused_and_named(made, tmp_path):
    folder, sources, base, _ = made
    extends = {"extends": str(base.path)}
    other = jsonl(tmp_path / "old.jsonl", OLD[:-1])
    for wrong, message in (
        (
            {"old": {**sources["old"], "licence": "GPL-2.0-only"}},
            r'sources\.old: source\.licence: "MIT" -> "GPL',
        ),
        ({"old": local(other)}, r"sources\.old: source\.urls"),
    ):
        with pytest.raises(BaseMismatch, match=message):
            make(folder, section({**sources, **wrong}, **extends))
    chain = {"plain": [{"technical": {"min_bytes": 1}}]}
    with pytest.raises(BaseMismatch, match=r"sources\.old: filters.*200 -> 1"):
        make(folder, {**section(sources, **extends), "filters": chain})
    with pytest.raises(BaseMismatch, match=r"dedup\.num_buckets: 14 -> 9"):
        make(folder, section(sources, dedup={"num_buckets": 9}, **extends))
    exam = local(jsonl(tmp_path / "exam.jsonl", texts(3, seed=24)), use="eval")
    with pytest.raises(BaseMismatch, match=r"sources\.exam: this evaluation set is new"):
        make(folder, section({**sources, "exam": exam}, **extends))
    with pytest.raises(BaseMismatch, match=r"neither a run .* nor the folder of one"):
        make(folder, section(sources, extends="nowhere"))


def test_a_grown_file_of_the_old_is_noticed(tmp_path):
    old = jsonl(tmp_path / "old.jsonl", texts(5, seed=25))
    new = jsonl(tmp_path / "new.jsonl", texts(5, seed=26))
    base = make(tmp_path, section({"old": local(old)}))
    with open(old, "a") as handle:
        handle.write(json.dumps({"text": texts(1, seed=27)[0]}) + "\n")
    with pytest.raises(BaseMismatch, match=r"sources\.old: content: "):
        make(tmp_path, section({"old": local(old), "new": local(new)}, extends=str(base.path)))


def test_a_damaged_base_is_not_taken_over(tmp_path):
    base = make(tmp_path, section({"old": local(jsonl(tmp_path / "old.jsonl", texts(5, seed=28)))}))
    new = local(jsonl(tmp_path / "new.jsonl", texts(5, seed=29)))
    document = base.path / "documents" / "old" / "00000.parquet"
    document.write_bytes(document.read_bytes()[:-1])
    with pytest.raises(DamagedError, match=r"documents/old/00000\.parquet"):
        make(tmp_path, section({"new": new}, extends=str(base.path)))


def test_tokens_and_lineage_work_on_what_goes_on_from_another(made):
    _, _, _, artifact = made
    store = Store(artifact.path.parents[1])
    tokenizer = TokenizerConfig(vocab_size=380, special_slots=16, source_bytes=50_000)
    learned = execute(TokenizerStage("tokenizer", tokenizer, {"corpus": artifact}), store)
    stage = TokensStage("tokens", TokensConfig(sequence_chunk=64), {"corpus": artifact, "tokenizer": learned})
    tokens = execute(stage, store, Execution(workers=1))
    index = json.loads(tokens.file("tokens.json").read_text())["sources"]
    for source, number in (("old", len(OLD)), ("new", len(NEW))):
        documents = sum(split["documents"] for split in index[source]["splits"].values())
        assert documents == number
    sidecar = pq.read_table(tokens.file("train/old.docs.parquet"))
    assert set(sidecar["id"].to_pylist()) <= {row["id"] for row in rows(artifact, "documents", "old")}
