import json
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.cleaning.records import COLUMNS
from data_pipeline.config import CorpusConfig
from data_pipeline.corpus.splits import hold_out_below, hold_out_hash
from data_pipeline.corpus.stage import EmptyCorpus
from data_pipeline.sources.documents import document_id
from stemma.core.errors import DamagedError
from tests.data_pipeline.corpora import jsonl, local, make, rows, texts


def inputs(folder, pack) -> dict:
    """A profile's ``corpus`` section over real files: two local sources and an archive in the cache."""
    first, second = texts(60, seed=1), texts(40, seed=2)
    near = first[5].replace(first[5].split()[60], "changed", 1)
    rows = [
        *first,
        second[3],
        near,
        "",
        "tiny",
        *texts(1, seed=4, lines=60),
    ]  # a copy, a near copy, none, short, and one to cut
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    for number, text in enumerate(second):
        (folder / "in" / f"{number:02d}.txt").write_text(text)
    (folder / "in" / "99.txt").write_bytes(b"caf\xe9")
    archive = "sample-1.0-py3-none-any.whl"
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(20, seed=3))
    digest = pack.put(
        folder / "store" / "cache" / "packages" / archive, pack.zip({"data/fw.jsonl": lines.encode()})
    )
    about = {"domain": "web", "licence": "MIT", "filters": "plain"}
    return {
        "sources": {
            "rows": {"type": "local", "urls": [f"{folder}/in/*.jsonl"], "format": "jsonl", **about},
            "files": {
                "type": "local",
                "urls": [f"{folder}/in/*.txt"],
                "format": "text",
                **about,
                "domain": "stem",
            },
            "packed": {
                "type": "package",
                "package": "sample",
                "version": "1.0",
                "archive": archive,
                "sha256": digest,
                "members": ["data/*.jsonl"],
                "format": "jsonl",
                **about,
            },
        },
        "filters": {"plain": ["technical"]},
        "valid_fraction": 0.05,
        "max_document_bytes": 1000,
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory, pack):
    folder = tmp_path_factory.mktemp("corpus")
    section = inputs(folder, pack)
    events = []
    return folder, section, make(folder, section, listeners=[events.append]), events


def test_documents_are_as_the_format_says(made):
    _, _, artifact, _ = made
    for source in ("rows", "files", "packed"):
        found = rows(artifact, "documents", source)
        assert tuple(found[0]) == COLUMNS
        assert [row["id"] for row in found] == sorted(row["id"] for row in found)
        assert all(row["id"] == document_id(source, row["origin"], row["text"]) for row in found)
        assert {row["source"] for row in found} == {source}
        assert sum(row["split"] == "valid" for row in found) == -(-len(found) // 20)
    assert rows(artifact, "documents", "packed")[0]["origin"].startswith(
        "sample-1.0-py3-none-any.whl!data/fw.jsonl#"
    )
    assert {row["domain"] for row in rows(artifact, "documents", "files")} == {"stem"}


def test_every_reject_has_its_rule_and_duplicates_name_what_was_kept(made):
    _, _, artifact, _ = made
    kept = {row["id"]: row for source in ("rows", "files") for row in rows(artifact, "documents", source)}
    rejects = {row["rule"]: row for source in ("rows", "files") for row in rows(artifact, "rejects", source)}
    assert set(rejects) == {"no_text", "not_utf8", "too_short", "exact_duplicate", "near_duplicate"}
    assert rejects["not_utf8"]["value"] == "byte 3"
    assert rejects["too_short"]["value"] == "4"
    assert kept[rejects["exact_duplicate"]["value"]]["text"] == rejects["exact_duplicate"]["text"]
    leader = kept[rejects["near_duplicate"]["value"]]
    assert leader["cluster"] == leader["id"] == rejects["near_duplicate"]["cluster"]
    pairs = zip(leader["text"].split(), rejects["near_duplicate"]["text"].split())
    assert sum(kept_word != word for kept_word, word in pairs) == 1


def test_the_funnel_adds_up(made):
    _, _, artifact, events = made
    funnel = json.loads(artifact.file("funnel.json").read_text())
    for source, entry in funnel["sources"].items():
        steps = entry["steps"]
        assert [step["step"] for step in steps] == ["read", "technical", "exact_duplicate", "near_duplicate"]
        found = rows(artifact, "documents", source)
        assert steps[-1]["documents"] == len(found)
        assert steps[-1]["bytes"] == sum(len(row["text"].encode()) for row in found)
        unread = sum(entry["rejected"].get(rule, 0) for rule in ("no_text", "not_utf8"))
        assert steps[0]["documents"] - steps[-1]["documents"] == sum(entry["rejected"].values()) - unread
    assert artifact.summary["documents"] == sum(
        entry["steps"][-1]["documents"] for entry in funnel["sources"].values()
    )
    assert artifact.summary["domains"]["web"]["kept"]["documents"] < artifact.summary["documents"]
    assert any(event.unit == "shards" and event.step == event.total for event in events)


def test_parts_of_one_text_stay_in_one_split(made):
    _, _, artifact, _ = made
    splits: dict[str, set[str]] = {}
    for row in rows(artifact, "documents", "rows") + rows(artifact, "rejects", "rows"):
        splits.setdefault(row["origin"].split("#")[1].split(".")[0], set()).add(row["split"])
    assert all(len(found - {""}) <= 1 for found in splits.values())


def test_without_a_registry_the_corpus_says_what_it_lacks_and_is_another_artifact(made, tmp_path):
    _, section, whole, _ = made
    events = []
    poor = make(tmp_path, section, offline=True, listeners=[events.append])
    assert poor.fingerprint != whole.fingerprint
    assert poor.summary["skipped"] == ["packed"]
    listed = {entry["id"]: entry for entry in json.loads(poor.file("sources.json").read_text())}
    assert "offline" in listed["packed"]["skipped"]
    assert listed["rows"]["files"] == 1
    assert "skipped" not in listed["rows"]
    assert any("packed is left out" in event.text for event in events)
    assert not (poor.path / "documents" / "packed").exists()


def test_nothing_in_reach_and_nothing_left_are_errors(made, tmp_path):
    _, section, _, _ = made
    only = {**section, "sources": {"packed": section["sources"]["packed"]}}
    with pytest.raises(EmptyCorpus, match="no source can be read"):
        make(tmp_path, only, offline=True)
    (tmp_path / "short.txt").write_text("short")
    source = {**section["sources"]["files"], "urls": [str(tmp_path / "short.txt")]}
    with pytest.raises(EmptyCorpus, match="too_short 1"):
        make(tmp_path, {**section, "sources": {"files": source}}, workers=1)
    again = jsonl(tmp_path / "same.jsonl", ["\n".join(texts(1, seed=5) * 2)] * 2 + [texts(1, seed=5)[0]])
    boilerplate = {"lines": {"max_documents": 1, "min_line": 5, "min_text": 0}}
    profile = {"sources": {"same": local(again)}, "filters": {"plain": ["technical"]}, "dedup": boilerplate}
    with pytest.raises(EmptyCorpus, match=r"no document is left; .*boilerplate 2"):
        make(tmp_path, profile, workers=1)


def test_a_text_that_the_steps_emptied_is_a_reject(tmp_path):
    written = jsonl(tmp_path / "a.jsonl", [*texts(3, seed=6), "\u200b\u200b \u200b"])
    profile = {"sources": {"a": local(written)}, "filters": {"plain": ["normalise"]}, "valid_fraction": 0}
    made = make(tmp_path, profile, workers=1)
    assert sorted(row["text"] for row in rows(made, "documents", "a")) == sorted(texts(3, seed=6))
    (reject,) = rows(made, "rejects", "a")
    assert reject["rule"] == "nothing_left"
    assert reject["origin"].endswith("a.jsonl#3")
    assert '"normalise"' in reject["decisions"]


def test_names_that_cannot_be_meant_are_refused():
    sources = {"a": local("a.jsonl")}
    with pytest.raises(ValidationError, match=r"dedup\.prefer: no source 'b'; there are \['a'\]"):
        CorpusConfig(sources=sources, filters={"plain": ["technical"]}, dedup={"prefer": ["b"]})
    with pytest.raises(ValidationError, match="pattern"):
        CorpusConfig(sources=sources, filters={"plain": ["technical"], "a b": ["technical"]})


def test_a_damaged_archive_stops_the_run_before_anything_is_made(made, tmp_path):
    folder, section, _, _ = made
    name = section["sources"]["packed"]["archive"]
    target = tmp_path / "store" / "cache" / "packages" / name
    target.parent.mkdir(parents=True)
    target.write_bytes((folder / "store" / "cache" / "packages" / name).read_bytes()[:-10])
    with pytest.raises(DamagedError, match=name):
        make(tmp_path, section)
    assert not (tmp_path / "store" / "artifacts").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=40), st.floats(0, 0.5), st.integers(1, 4), st.integers()
)
def test_the_held_out_share_is_reached_stable_and_never_everything(tmp_path, sizes, fraction, files, seed):
    wholes = [f"w{index}" for index, size in enumerate(sizes) for _ in range(size)]

    def chosen(order: list[str]) -> set[str]:
        paths = [tmp_path / f"{number}.npy" for number in range(files)]
        for number, path in enumerate(paths):
            np.save(path, np.array([hold_out_hash(whole) for whole in order[number::files]], np.uint64))
        bound = hold_out_below(paths, fraction)
        return {whole for whole in wholes if hold_out_hash(whole) < bound}

    found = chosen(wholes)
    held = sum(whole in found for whole in wholes)
    assert found == chosen(random.Random(seed).sample(wholes, len(wholes)))
    assert len(found) < len(sizes)
    assert held >= fraction * len(wholes) or len(found) == len(sizes) - 1
    assert held <= fraction * len(wholes) + 4
    assert (held == 0) == (fraction == 0 or len(sizes) == 1)
