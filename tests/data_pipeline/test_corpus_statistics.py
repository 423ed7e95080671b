"""``statistics.json``: what it counts is what the files hold, and parts add up whatever the order."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cleaning.records import DOCUMENTS, REJECTS
from data_pipeline.corpus import statistics as counting
from data_pipeline.corpus.statistics import EDGES, LENGTHS, Statistics, binned, group_of, shown
from tests.data_pipeline.corpora import jsonl, local, make, rows, section, texts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("statistics")
    web = texts(30, seed=51)
    near = web[5].replace(web[5].split()[60], "changed", 1)
    sources = {
        "web": local(jsonl(folder / "web.jsonl", [*web, web[5], near, "tiny", "small one"])),
        "stem": local(jsonl(folder / "stem.jsonl", [*texts(20, seed=52), web[5]]), domain="stem"),
    }
    artifact = make(folder, section(sources))
    return artifact, json.loads(artifact.file("statistics.json").read_text())


def total(histogram):
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    return sum(histogram["counts"])


def test_every_count_is_that_of_the_files(made):
    artifact, statistics = made
    for source in ("web", "stem"):
        entry, kept = statistics["sources"][source], rows(artifact, "documents", source)
        lines = [line for row in kept for line in row["text"].splitlines()]
        assert entry["documents"] == len(kept) == total(entry["document_bytes"])
        assert entry["bytes"] == sum(len(row["text"].encode()) for row in kept)
        assert entry["characters"] == sum(len(row["text"]) for row in kept)
        assert entry["lines"] == len(lines) == total(entry["line_characters"])
        assert entry["valid"] == sum(row["split"] == "valid" for row in kept)
        assert entry["language"] == {"en": len(kept)}
        assert sum(place["documents"] for place in entry["origins"]) == len(kept)
        rejected = rows(artifact, "rejects", source)
        for rule, count in entry["rejected"].items():
            assert count["documents"] == sum(row["rule"] == rule for row in rejected)
    assert statistics["total"]["documents"] == artifact.summary["documents"]
    assert statistics["domains"]["stem"]["bytes"] == statistics["sources"]["stem"]["bytes"]
    short = statistics["sources"]["web"]["rejected"]["too_short"]
    assert short["values"] == {"edges": [4, 8, 16], "counts": [1, 1]}


def test_clusters_are_counted_with_their_survivor(made):
    artifact, statistics = made
    kept = {row["id"]: row for source in ("web", "stem") for row in rows(artifact, "documents", source)}
    (largest,) = statistics["total"]["clusters"]["largest"]
    assert largest["size"] == 4  # the text, its copies in both sources, and the one with a changed word
    assert kept[largest["survivor"]]["source"] == largest["source"]
    assert statistics["total"]["clusters"]["sizes"] == {"edges": [4, 5], "counts": [1]}


def document(text: str, origin: str) -> dict[str, str]:
    return dict.fromkeys(DOCUMENTS.names, "") | {
        "id": f"{abs(hash(text)):020x}"[:20], "text": text, "origin": origin, "source": "s", "language": "en",
        "decisions": '{"language_score": 0.91}',
    }  # fmt: skip


@given(
    st.lists(st.tuples(st.text(max_size=40), st.sampled_from(["a.whl!x/1#0", "b.zip!2#0"])), max_size=20),
    st.lists(
        st.tuples(st.sampled_from(["short", "language"]), st.sampled_from(["3", "0.51", "de 0.2"])),
        max_size=20,
    ),
    st.integers(0, 20),
)
def test_parts_add_up_to_the_whole_and_survive_a_file(tmp_path_factory, drawn, lost, cut):
    documents = pa.Table.from_pylist([document(*entry) for entry in drawn], DOCUMENTS)
    blank = dict.fromkeys(REJECTS.names, "")
    rejects = pa.Table.from_pylist([{**blank, "rule": rule, "value": value} for rule, value in lost], REJECTS)

    def counted(first, second):
        found = Statistics()
        found.add_documents(first, {})
        found.add_rejects(second, ["exact_duplicate"])
        return found

    parts = Statistics()
    path = tmp_path_factory.mktemp("counts") / "part.json"
    for part in (counted(documents[cut:], rejects[cut:]), counted(documents[:cut], rejects[:cut])):
        part.save(path)
        parts.merge(Statistics.load(path))
    assert parts.to_json() == counted(documents, rejects).to_json()


def test_many_names_of_many_shards_stay_bounded(monkeypatch):
    monkeypatch.setattr(counting, "MOST_COUNTED", 5)
    blank = dict.fromkeys(REJECTS.names, "")
    whole = Statistics()
    for shard in range(10):
        part = Statistics()
        values = ["common 1", "common 2", " ", *(f"rare{shard}x{n}" for n in range(4))]
        rejects = [{**blank, "rule": "r", "value": value} for value in values]
        part.add_rejects(pa.Table.from_pylist(rejects, REJECTS), [])
        whole.merge(part)
    counted = whole.rejected["r"]
    assert counted.documents == 70
    assert len(counted.kinds) == 5
    assert counted.kinds["common"] == 20


@given(st.lists(st.floats(0, 1e12), max_size=50))
def test_a_histogram_holds_every_value_in_its_bin(values):
    histogram = shown(binned(values, LENGTHS), LENGTHS)
    assert sum(histogram["counts"]) == len(values)
    for low, high, count in zip(histogram["edges"], histogram["edges"][1:], histogram["counts"]):
        assert count == sum(
            low <= value < high or (high == histogram["edges"][-1] and value >= high) for value in values
        )


def test_origins_are_grouped_as_a_person_would():
    for origin, place in {
        "https://example.org/a/b.html": "example.org",
        "crawl.warc.gz#https://example.org/a": "example.org",
        "gensim.whl!gensim/test/x.bz2#12": "gensim.whl!gensim",
        "a.zip!b.txt#0": "a.zip",
        "file:///data/en/a.jsonl#3": "/data/en",
        "s3://bucket/en/a.jsonl#3": "s3://bucket/en",
        "python!json/decoder.py#0": "python!json",
    }.items():
        assert group_of(origin) == place
    assert all(np.all(np.diff(edges) > 0) for edges in EDGES.values())
