"""What models are measured by never becomes a document, a token or a mix, however a profile asks for it."""

import json
import os

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from data_pipeline.config import CorpusConfig, PhaseConfig
from data_pipeline.corpus.base import BaseMismatch
from data_pipeline.corpus.resolve import SharedFile
from data_pipeline.corpus.stage import EmptyCorpus, NotCompared
from data_pipeline.curriculum.build import PlanError, source_weights
from data_pipeline.curriculum.cursor import Universe
from data_pipeline.curriculum.plan import PlannedSource
from tests.data_pipeline.corpora import jsonl, local, make, rows, section, texts

TRAIN, EXAM = texts(30, seed=11), texts(12, seed=12)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("use")
    copied = ["\n".join([TRAIN[0], EXAM[3], TRAIN[1]]), *TRAIN]  # an item inside a longer training text
    jsonl(folder / "train.jsonl", copied)
    jsonl(folder / "exam.jsonl", EXAM)
    jsonl(folder / "copy" / "exam.jsonl", EXAM)
    return folder


@pytest.fixture(scope="module")
def made(files):
    sources = {"web": local(files / "train.jsonl"), "exam": local(files / "exam.jsonl", use="eval")}
    return make(files, section(sources))


def all_text(artifact) -> str:
    """Every byte of text that the artifact offers for training."""
    return "\n".join(
        text
        for path in sorted((artifact.path / "documents").rglob("*.parquet"))
        for text in pq.read_table(path)["text"].to_pylist()
    )


def test_an_evaluation_set_is_compared_with_and_nothing_else(made):
    assert sorted(path.name for path in (made.path / "documents").iterdir()) == ["web"]
    assert sorted(path.name for path in (made.path / "rejects").iterdir()) == ["web"]
    text = all_text(made)
    assert not [item for item in EXAM if item in text]
    assert "exam" not in json.loads(made.file("funnel.json").read_text())["sources"]
    entries = {entry["id"]: entry for entry in json.loads(made.file("sources.json").read_text())}
    assert entries["exam"]["use"] == "eval"
    hits = pq.read_table(made.file("contamination.parquet")).to_pylist()
    assert {hit["evaluation_source"] for hit in hits} == {"exam"}
    assert all(EXAM[3].split()[0] in hit["evaluation_excerpt"] for hit in hits)
    (rejected,) = [row for row in rows(made, "rejects", "web") if row["rule"] == "contaminated"]
    assert EXAM[3] in rejected["text"]
    steps = json.loads(made.file("funnel.json").read_text())["sources"]["web"]["steps"]
    assert [step["step"] for step in steps][:3] == ["read", "technical", "contaminated"]
    assert json.loads(made.file("decontamination.json").read_text())["exam"]["items"] == len(EXAM)


def test_filters_do_not_make_an_evaluation_set_a_training_source(files):
    wrong = {**local(files / "exam.jsonl", use="eval"), "filters": "plain"}
    with pytest.raises(ValidationError, match="it has no `filters`"):
        CorpusConfig(**section({"web": local(files / "train.jsonl"), "exam": wrong}))


def test_evaluation_sets_alone_are_no_corpus(files, tmp_path):
    with pytest.raises(EmptyCorpus):
        make(tmp_path, section({"exam": local(files / "exam.jsonl", use="eval")}))


@pytest.mark.parametrize("use", ["eval", "decontaminate"])
@pytest.mark.parametrize("way", ["same", "glob", "link", "hard link", "dotted", "url"])
def test_a_file_that_is_listed_for_both_is_an_error_that_names_both(files, tmp_path, use, way):
    path = files / "exam.jsonl"
    if way == "glob":
        path = files / "*.jsonl"
    if way == "link":
        path = tmp_path / "innocent.jsonl"
        path.symlink_to(files / "exam.jsonl")
    if way == "hard link":
        path = tmp_path / "innocent.jsonl"
        os.link(files / "exam.jsonl", path)
    if way == "dotted":
        path = f"{files}/copy/../exam.jsonl"
    if way == "url":
        path = f"file://{files}/exam.jsonl"
    sources = {"web": local(path), "exam": local(files / "exam.jsonl", use=use)}
    with pytest.raises(
        SharedFile, match=rf"sources\.web .*sources\.exam \(use: {use}\).*exam\.jsonl|innocent"
    ):
        make(tmp_path, section(sources))
    assert not (tmp_path / "store" / "artifacts").exists()


def test_an_evaluation_set_out_of_reach_stops_the_run_if_the_profile_says_so(files, tmp_path):
    exam = {"type": "package", "package": "exam", "version": "1", "archive": "exam-1-py3-none-any.whl"}
    exam |= {"sha256": "0" * 64, "members": ["*.jsonl"], "format": "jsonl", "domain": "web", "licence": "MIT"}
    sources = {"web": local(files / "train.jsonl"), "exam": {**exam, "use": "eval"}}
    with pytest.raises(NotCompared, match=r"sources\.exam: .*out of reach: .*decontamination\.required"):
        make(tmp_path, section(sources, decontamination={"required": True}), offline=True)
    events = []
    made = make(tmp_path, section(sources), offline=True, listeners=[events.append])
    assert made.summary["skipped"] == ["exam"]
    assert any("no document is compared with it" in event.text for event in events)


def test_items_of_an_evaluation_set_that_cannot_be_read_are_told(files, tmp_path):
    exam = jsonl(tmp_path / "exam.jsonl", [EXAM[0], "", "  "])
    sources = {"web": local(files / "train.jsonl"), "exam": local(exam, use="eval")}
    events = []
    made = make(tmp_path, section(sources), workers=1, listeners=[events.append])
    report = json.loads(made.file("decontamination.json").read_text())["exam"]
    assert report["items"] == 1
    assert sum(report["unread"].values()) == 2
    assert any("evaluation set exam: 2 items not read" in event.text for event in events)
    sources["exam"]["text_field"] = "question"
    with pytest.raises(NotCompared, match=r"sources\.exam: no item .* \(no_text 3\).*text_field"):
        make(tmp_path, section(sources), workers=1)


def test_the_same_member_of_one_archive_under_two_names_is_noticed(tmp_path, pack):
    members = {"a.jsonl": b'{"text": "one"}\n', "b.jsonl": b'{"text": "two"}\n'}
    cache = tmp_path / "store" / "cache" / "packages"
    for name in ("data-1-py3-none-any.whl", "copy-1-py3-none-any.whl"):
        digest = pack.put(cache / name, pack.zip(members))

    def package(name, members, **fields):
        about = {"type": "package", "package": name, "version": "1", "archive": f"{name}-1-py3-none-any.whl"}
        about |= {"sha256": digest, "members": members, "format": "jsonl", "domain": "web", "licence": "MIT"}
        return {**about, **fields}

    exam = package("copy", ["b.jsonl"], use="eval")
    with pytest.raises(SharedFile, match=r"sources\.train .*sources\.exam .*b\.jsonl"):
        make(tmp_path, section({"train": package("data", ["*.jsonl"], filters="plain"), "exam": exam}))


def test_a_copy_under_another_name_is_found_by_its_text(files, tmp_path):
    sources = {
        "web": local(files / "train.jsonl"),
        "innocent": local(files / "copy" / "exam.jsonl"),
        "exam": local(files / "exam.jsonl", use="decontaminate"),
    }
    artifact = make(tmp_path, section(sources))
    assert not rows(artifact, "documents", "innocent")
    assert {row["rule"] for row in rows(artifact, "rejects", "innocent")} == {"contaminated"}
    text = all_text(artifact)
    assert not [item for item in EXAM if item in text]


def test_training_sources_may_share_files_and_each_text_is_kept_once(files, tmp_path):
    events = []
    sources = {"one": local(files / "train.jsonl"), "two": local(files / "*train.jsonl")}
    artifact = make(tmp_path, section(sources), listeners=[events.append])
    assert any("one and two share 1 files" in event.text for event in events)
    found = [row["text"] for name in ("one", "two") for row in rows(artifact, "documents", name)]
    assert len(found) == len(set(found)) == 31


def test_extends_brings_no_evaluation_set_in(made, files, tmp_path):
    exam = local(files / "exam.jsonl", use="eval")
    more = local(jsonl(tmp_path / "more.jsonl", texts(5, seed=13)))
    base = {"extends": str(made.path)}
    as_training = {"exam": local(files / "exam.jsonl"), "more": more}
    with pytest.raises(BaseMismatch, match=r'sources\.exam: source\.use: "eval" -> "train"'):
        make(tmp_path, section(as_training, **base))
    with pytest.raises(
        BaseMismatch, match=r"sources\.exam: its documents were compared with this evaluation"
    ):
        make(tmp_path, section({"innocent": local(files / "exam.jsonl"), "more": more}, **base))
    with pytest.raises(SharedFile, match=r"innocent.*exam"):
        make(tmp_path, section({"innocent": local(files / "exam.jsonl"), "exam": exam}, **base))
    copy = {"innocent": local(files / "copy" / "exam.jsonl"), "exam": exam, "more": more}
    artifact = make(tmp_path, section(copy, **base))
    assert not rows(artifact, "documents", "innocent")
    new = jsonl(tmp_path / "new.jsonl", texts(5, seed=14))
    with pytest.raises(BaseMismatch, match=r"sources\.new: this evaluation set is new"):
        make(tmp_path, section({"exam": exam, "more": more, "new": local(new, use="eval")}, **base))


def test_a_curriculum_that_names_an_evaluation_set_is_refused(made):
    """Tokens have an entry per folder of documents, and a plan takes no other name."""
    sources = {
        path.name: PlannedSource(Universe(path.name, 10_000, 100, 1), "web", "tokens", made.fingerprint)
        for path in (made.path / "documents").iterdir()
    }
    phase = {"name": "p", "tokens": 1000, "sequence_length": 10, "weights": {"web": 1}}
    assert source_weights(PhaseConfig(**phase), sources)
    with pytest.raises(PlanError, match=r"weights names 'exam', which the tokens do not have"):
        source_weights(PhaseConfig(**{**phase, "weights": {"web": 1, "exam": 1}}), sources)
