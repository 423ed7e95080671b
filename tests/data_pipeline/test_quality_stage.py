import json
import os
import signal
import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest

from data_pipeline.config.quality import QualityConfig, ScorerConfig
from data_pipeline.quality import apply
from data_pipeline.quality.labels import LabelError
from data_pipeline.quality.stage import QualityStage
from data_pipeline.quality.taxonomy import BUNDLED, load_taxonomy
from stemma.core.artifact import Store
from stemma.core.stage import Execution, execute
from tests.data_pipeline.quality_corpus import as_artifact, write_corpus, write_lines

SOURCES = {"pages": 60, "notes": 40}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus of two sources, a file of labels for all of it, and its label rows."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = write_corpus(folder, SOURCES, files=3)
    return as_artifact(folder), write_lines(folder / "labels.jsonl", rows), rows


def config(labels, **changes):
    settings = {"folds": 2, "resamples": 100, "scorer": ScorerConfig(buckets=1 << 14, max_iterations=40)}
    return QualityConfig(labels=tuple(map(str, labels)), **{**settings, **changes})


def make(tmp_path, artifact, settings, workers=1, said=None):
    stage = QualityStage("quality", settings, {"corpus": artifact})
    listeners = [lambda event: said.append(event.text)] if said is not None else []
    return execute(stage, Store(tmp_path), Execution(workers=workers), listeners)


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory):
    """What the stage makes of the corpus, in one go, with one worker."""
    artifact, labels, _ = corpus
    return make(tmp_path_factory.mktemp("store"), artifact, config([labels]))


def content(artifact):
    files = artifact.manifest["files"].items()
    return {name: facts["sha256"] for name, facts in files if name != "stage.json"}


def test_every_document_is_scored_in_its_order(corpus, made):
    artifact, _, rows = corpus
    taxonomy = load_taxonomy()
    truth = {row["source"] + row["origin"].rpartition("#")[2].zfill(6): row for row in rows}
    right = 0
    for source, count in SOURCES.items():
        table = pq.read_table(made.path / "scores" / f"{source}.parquet")
        assert table.schema.names == ["id", "quality", "domain", "subdomain", *taxonomy.criteria]
        assert table["id"].to_pylist() == [f"{source}-{number:05d}" for number in range(count)]
        for row in table.to_pylist():
            assert taxonomy.domain_of[row["subdomain"]] == row["domain"]
            scores = {name: row[name] for name in taxonomy.criteria}
            assert row["quality"] == pytest.approx(taxonomy.quality(scores), abs=1e-5)
            right += row["subdomain"] == truth[source + row["id"].rpartition("-")[2].zfill(6)]["subdomain"]
    assert right > 90
    assert made.summary["documents"] == made.summary["labels"] == 100
    report = json.loads((made.path / "quality.json").read_text())
    for source, count in SOURCES.items():
        entry = report["sources"][source]
        assert entry["documents"] == sum(entry["histogram"]) == sum(entry["domains"].values()) == count
        assert sum(tier["documents"] for tier in entry["tiers"]) == count
        assert sum(tier["bytes"] for tier in entry["tiers"]) == entry["bytes"]
        assert entry["lowest"][0]["quality"] < 0.5 < entry["highest"][0]["quality"]
    card = json.loads((made.path / "card.json").read_text())
    assert card["quality"]["auc"] > 0.9
    assert card["unseen_source"]["domain"]["accuracy"] > 0.8
    assert (made.path / "taxonomy.yaml").read_bytes() == BUNDLED.read_bytes()
    kept = (made.path / "labels.jsonl").read_text()
    for path in (artifact.path / "documents").glob("*/*"):  # no text is carried along
        assert not any(text.split("\n")[0] in kept for text in pq.read_table(path)["text"].to_pylist())


def test_tiers_and_histogram_count_what_the_scores_say(corpus, tmp_path):
    artifact, labels, _ = corpus
    made = make(tmp_path, artifact, config([labels], thresholds=(0.3, 0.8)))
    report = json.loads((made.path / "quality.json").read_text())
    for source in SOURCES:
        quality = pq.read_table(made.path / "scores" / f"{source}.parquet")["quality"].to_pylist()
        tiers = Counter((value >= 0.3) + (value >= 0.8) for value in quality)
        counted = [tier["documents"] for tier in report["sources"][source]["tiers"]]
        assert counted == [tiers[i] for i in range(3)]
        assert report["sources"][source]["mean"] == pytest.approx(sum(quality) / len(quality), abs=1e-4)
        lowest = [item["quality"] for item in report["sources"][source]["lowest"]]
        assert lowest == pytest.approx(sorted(quality)[: len(lowest)], abs=1e-4)


def test_any_number_of_workers_gives_the_same_bytes(corpus, made, tmp_path):
    artifact, labels, _ = corpus
    two = make(tmp_path, artifact, config([labels]), workers=2)
    assert content(two) == content(made)


def test_without_labels_an_empty_artifact_says_so(corpus, tmp_path):
    artifact, _, _ = corpus
    said = []
    made = make(tmp_path, artifact, QualityConfig(), said=said)
    assert "no labels are configured" in made.summary["empty"]
    assert not (made.path / "scores").exists()
    assert any("no document is scored" in text for text in said)
    assert "no labels are configured" in (made.path / "card.md").read_text()


def test_labels_of_other_documents_are_counted_and_listed(corpus, tmp_path):
    artifact, _, rows = corpus
    strangers = [{**row, "origin": f"elsewhere#{i}"} for i, row in enumerate(rows[:7])]
    labels = write_lines(tmp_path / "labels.jsonl", [*rows[:60], *strangers])
    said = []
    made = make(tmp_path / "store", artifact, config([labels]), said=said)
    assert made.summary["labels"] == 60
    assert made.summary["unmatched_labels"] == 7
    assert any("7 of 67 labels are left out" in text for text in said)
    listed = [json.loads(line) for line in (made.path / "unmatched.jsonl").read_text().splitlines()]
    assert [entry["origin"] for entry in listed] == [row["origin"] for row in strangers]


def test_too_few_labels_train_nothing(corpus, tmp_path):
    artifact, _, rows = corpus
    labels = write_lines(tmp_path / "labels.jsonl", rows[:20])
    made = make(tmp_path / "store", artifact, config([labels]))
    assert "20 documents of the corpus are labelled, min_labels asks for 50" in made.summary["empty"]


def test_a_bad_label_file_stops_before_anything_is_made(corpus, tmp_path):
    artifact, _, rows = corpus
    labels = write_lines(tmp_path / "labels.jsonl", [{**rows[0], "subdomain": "cookery"}])
    with pytest.raises(LabelError, match="unknown sub-domain 'cookery'"):
        make(tmp_path / "store", artifact, config([labels]))
    assert not (tmp_path / "store" / "artifacts").exists()


def test_changed_labels_or_taxonomy_are_another_artifact(corpus, tmp_path):
    artifact, labels, rows = corpus

    def fingerprint(settings):
        stage = QualityStage("quality", settings, {"corpus": artifact})
        stage.resolve(tmp_path, Execution(), None)
        return stage.fingerprint

    base = fingerprint(config([labels]))
    assert base == fingerprint(config([labels]))
    other = write_lines(tmp_path / "labels.jsonl", rows[:-1])
    assert fingerprint(config([other])) != base
    taxonomy = tmp_path / "taxonomy.yaml"
    taxonomy.write_text(BUNDLED.read_text().replace("weight: 2.0", "weight: 3.0"))
    assert fingerprint(config([labels], taxonomy=str(taxonomy))) != base


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from data_pipeline.quality import apply
from tests.data_pipeline.test_quality_stage import config, make, as_artifact

plain = apply.score_file
def score_two_then_die(job):
    if len(list(job.output.parent.parent.glob("*/*.parquet"))) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(job)
apply.score_file = score_two_then_die
make(Path({store!r}), as_artifact(Path({corpus!r})), config([{labels!r}]))
"""


def test_killed_while_scoring_it_goes_on_and_gives_the_same_bytes(corpus, made, tmp_path, monkeypatch):
    artifact, labels, _ = corpus
    script = KILLED.format(
        root=os.getcwd(), store=str(tmp_path / "cut"), corpus=str(artifact.path), labels=str(labels)
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    scored = []
    plain = apply.score_file
    monkeypatch.setattr(apply, "score_file", lambda job: scored.append(plain(job)))
    again = make(tmp_path / "cut", artifact, config([labels]))
    assert len(scored) == 2 * 3 - 2  # files, but the two that were done
    assert content(again) == content(made)


def test_scores_are_of_the_model_that_was_saved(corpus, made, tmp_path):
    artifact, _, _ = corpus
    job = apply.Job(
        artifact.path / "documents" / "notes" / "00000.parquet",
        made.path / "model",
        made.path / "taxonomy.yaml",
        tmp_path / "again.parquet",
    )
    apply.score_file(job)
    stored = pq.read_table(made.path / "scores" / "notes.parquet")
    again = pq.read_table(job.output)
    assert again.drop_columns(["bytes"]).equals(stored.slice(0, again.num_rows))
