"""Bad input: a clear error that names the file, or a counted reject; nothing is lost silently."""

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from data_pipeline.config import DebianSource, HuggingFaceSource, LocalSource, PackageSource
from data_pipeline.sources import documents, find, readers, streams
from data_pipeline.sources.read import read
from data_pipeline.sources.units import units
from stemma.core.errors import DamagedError, StemmaError

ABOUT = {"domain": "web", "licence": "MIT", "filters": "prose"}
PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def local(*urls: object, **more: object) -> LocalSource:
    return LocalSource(urls=tuple(map(str, urls)), **{**ABOUT, "format": "jsonl", **more})


def items_of(source, cache=None, found=None):
    found = found or find.look(source, cache, True)
    return [each for unit in units("s", source, found) for each in read(source, unit)]


def rules_of(source, cache=None) -> list[str]:
    return [item.rule for _, item in items_of(source, cache)]


class Rejects(list):
    """Stands where the corpus stage has its writer of rejects."""

    def write(self, document, rank):
        self.append(document)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None


def documents_of(source):
    """(kept, rejected) documents of a source, as the corpus stage gets them."""
    found = find.look(source, None, True)
    rejects = Rejects()
    work = units("s", source, found)
    reader = documents.SourceReader(work, {"s": source}, 10_000, 1_000_000, rejects)
    return [kept for rank in range(len(work)) for kept in reader.run(None, rank)], rejects


# ---- text that is none


def test_broken_utf8_rejects_a_line_or_a_file_and_says_where(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n{"text": "\xff\xfe"}\n{"text": "fine"}\n')
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    assert rules_of(local(tmp_path / "a.jsonl")) == ["", "not_utf8", ""]
    ((origin, item),) = items_of(local(tmp_path / "b.txt", format="text"))
    assert (item.rule, item.value) == ("not_utf8", "byte 3")
    assert origin == f"file://{tmp_path}/b.txt#0"


def test_a_stray_nul_is_removed_and_noted_and_many_are_a_reject(tmp_path):
    rows = [
        "ten words or so of text " * 50 + "\x00 and more",
        "\x00".join("utf-16 read as utf-8"),
        "a\ud800b",
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    (tmp_path / "b.txt").write_bytes("plain ascii".encode("utf-16-le"))  # without its mark
    kept, rejects = documents_of(local(tmp_path / "a.jsonl"))
    assert [document.metadata["found"] for document in kept] == [
        {"read": {"nul": 1}},
        {"read": {"surrogates": 1}},
    ]
    assert json.loads(kept[0].metadata["decisions"]) == {"found": {"read": {"nul": 1}}}
    assert not any("\x00" in document.text for document in kept)
    assert [document.metadata["filter_reason"] for document in rejects] == ["nul_bytes"]
    _, rejects = documents_of(local(tmp_path / "b.txt", format="text"))
    assert [document.metadata["filter_reason"] for document in rejects] == ["nul_bytes"]


def test_an_empty_file_is_a_reject_whatever_its_format(tmp_path):
    for format in sorted(readers.READERS):
        suffix = find.SUFFIXES[format][0]
        (tmp_path / f"{format}{suffix}").write_bytes(b"")
        source = local(tmp_path / f"{format}{suffix}", format=format)
        ((origin, item),) = items_of(source)
        assert (item.rule, item.value) == ("empty_file", "0 bytes")
        assert f"{format}{suffix}" in origin


MEASURE = """
import json, resource, sys
from data_pipeline.config import LocalSource
from data_pipeline.sources import find, units
from data_pipeline.sources.read import read
source = LocalSource(urls=(sys.argv[1],), format=sys.argv[2], domain="web", licence="MIT", filters="prose")
found = find.look(source, None, True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
items = (item for unit in units.units("s", source, found) for _, item in read(source, unit))
rules = [[item.rule, item.value, len(item.text)] for item in items]
print(json.dumps([rules, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


@pytest.mark.parametrize(
    ("name", "format"), [("a.jsonl", "jsonl"), ("a.jsonl.gz", "jsonl"), ("a.txt", "text")]
)
def test_a_line_of_100_megabytes_is_a_reject_and_is_never_held(tmp_path, name, format):
    """In bounded memory: a line at the cap, and what a reader needs beside it."""
    short = b'{"text": "good"}\n'
    with gzip.open(tmp_path / name, "wb", 1) if name.endswith(".gz") else open(tmp_path / name, "wb") as file:
        file.write(short + b'{"text": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + short)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / name), format]
    rules, grown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    long = [(value, length) for rule, value, length in rules if rule == "line_too_long"]
    assert long == [("100000012 bytes, more than 16000000", 1_000)]
    assert [rule for rule, _, length in rules if length and rule != "line_too_long"].count("") >= 1
    assert grown < 80


# ---- files that are damaged


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_compressed_file_that_is_cut_off_stops_the_run_or_is_counted(tmp_path, suffix):
    lines = [os.urandom(60).hex() for _ in range(2_000)]
    data = PACKERS[suffix]("".join(json.dumps({"text": line}) + "\n" for line in lines).encode())
    path = tmp_path / f"a.jsonl{suffix}"
    for cut in (len(data) - 1, len(data) * 2 // 3, 12):
        path.write_bytes(data[:cut])
        with pytest.raises(DamagedError, match=rf"a\.jsonl{suffix} is damaged.*on_damage: skip"):
            items_of(local(path))
        items = items_of(local(path, on_damage="skip"))
        assert [item.rule for _, item in items].count("damaged") == 1
        origin, last = items[-1]
        assert last.rule == "damaged"
        assert origin.endswith(f"a.jsonl{suffix}#damaged")
        assert [item.text for _, item in items[:-1] if not item.rule] == lines[: len(items) - 1]


def test_a_damaged_file_is_skipped_alone_and_its_neighbours_are_read(tmp_path):
    good = gzip.compress(b'{"text": "good"}\n')
    for name, data in {"a": good, "b": good[:-6], "c": good}.items():
        (tmp_path / f"{name}.jsonl.gz").write_bytes(data)
    kept, rejects = documents_of(local(tmp_path, on_damage="skip"))
    assert [document.text for document in kept][-1] == "good"
    assert {document.metadata["origin"].rpartition("/")[2] for document in kept} >= {
        "a.jsonl.gz#0",
        "c.jsonl.gz#0",
    }
    assert [document.metadata["filter_reason"] for document in rejects] == ["damaged"]
    assert "b.jsonl.gz" in rejects[0].metadata["origin"]


def test_a_parquet_file_that_is_cut_off_or_corrupt_inside_is_refused_by_name(tmp_path, monkeypatch):
    rows = [os.urandom(40).hex() for _ in range(3_000)]
    pq.write_table(
        pa.table({"text": rows}), tmp_path / "a.parquet", row_group_size=500, write_page_checksum=True
    )
    data = (tmp_path / "a.parquet").read_bytes()
    source = local(tmp_path / "a.parquet", format="parquet")
    (tmp_path / "a.parquet").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(DamagedError, match=r"a\.parquet is not readable as parquet"):
        items_of(source)
    monkeypatch.setattr("data_pipeline.sources.units.UNIT_BYTES", 10_000)  # cut by its footer, which is gone
    with pytest.raises(DamagedError, match=r"a\.parquet is not readable as parquet"):
        items_of(source)
    assert rules_of(local(tmp_path / "a.parquet", format="parquet", on_damage="skip")) == ["damaged"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"body": ["x"]}, r"no column 'text'; its columns are body"),
        ({"text": [1]}, r"the column 'text' holds int64, expected strings"),
        ({"text": [{"a": "b"}]}, r"the column 'text' holds struct"),
    ],
)
def test_a_wrong_schema_is_an_error_that_names_the_file_even_if_damage_is_skipped(tmp_path, table, said):
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    for on_damage in ("stop", "skip"):
        source = local(tmp_path / "a.parquet", format="parquet", on_damage=on_damage)
        with pytest.raises(readers.SchemaError, match=rf"a\.parquet.*{said}"):
            items_of(source)


def packed(tmp_path, pack, data: bytes, **more) -> DebianSource:
    digest = pack.put(tmp_path / "packages" / "a_1_all.deb", data)
    about = {"package": "ab", "version": "1", "archive": "a_1_all.deb", "format": "text", **ABOUT, **more}
    return DebianSource(sha256=digest, members=("doc/*",), **about)


def test_a_debian_package_that_is_cut_off_is_refused_by_name(tmp_path, pack):
    whole = pack.deb({f"doc/{number}.txt": os.urandom(3_000).hex().encode() for number in range(20)})
    for cut in (100, len(whole) // 2, len(whole) - 10):
        with pytest.raises(DamagedError, match=r"a_1_all\.deb"):
            items_of(packed(tmp_path, pack, whole[:cut]), tmp_path)


def test_members_behind_the_damage_of_an_archive_are_all_counted(tmp_path, pack):
    """The archive is whole when it is looked at, and damaged below the same name when it is read."""
    members = {f"doc/{number:02d}.txt": os.urandom(10_000).hex().encode() for number in range(20)}
    whole = pack.deb(members)
    source = packed(tmp_path, pack, whole, on_damage="skip")
    found = find.look(source, tmp_path, True)
    path = tmp_path / "packages" / "a_1_all.deb"
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(bytes(damaged))
    marks = {str(path): find.mark(str(path))}  # as if it had been so from the beginning
    found = find.Found(found.files, found.location, found.digest, found.facts, marks)
    rules = [item.rule for _, item in items_of(source, found=found)]
    assert len(rules) == 20
    assert 0 < rules.count("damaged") < 20
    with pytest.raises(DamagedError, match=r"a_1_all\.deb"):
        items_of(packed(tmp_path, pack, bytes(damaged)), tmp_path)


def test_a_member_whose_checksum_is_wrong_stops_the_run_or_is_counted_alone(tmp_path, pack):
    data = bytearray(pack.zip({"a.txt": b"first " * 50, "b.txt": b"second " * 50}))
    data[data.index(b"a.txt") + 20] ^= 0xFF
    about = {"package": "a", "version": "1", "archive": "a.zip", "members": ("*",), "format": "text", **ABOUT}
    about["sha256"] = pack.put(tmp_path / "packages" / "a.zip", bytes(data))
    with pytest.raises(DamagedError, match=r"a\.zip!a\.txt is damaged"):
        items_of(PackageSource(**about), tmp_path)
    assert rules_of(PackageSource(**about, on_damage="skip"), tmp_path) == ["damaged", ""]


def test_a_dataset_whose_file_is_cut_off_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = pa.table({"text": [os.urandom(40).hex() for _ in range(3_000)]})
    for number in range(2):
        pq.write_table(rows, tmp_path / f"train-{number:05d}-of-00002.parquet", row_group_size=500)
    bad = tmp_path / "train-00001-of-00002.parquet"
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    about = {"repository": str(tmp_path), **ABOUT}
    with pytest.raises(DamagedError, match=r"train-00001-of-00002\.parquet is not readable"):
        items_of(HuggingFaceSource(**about))
    rules = [item.rule for _, item in items_of(HuggingFaceSource(**about, on_damage="skip"))]
    assert (rules.count(""), rules.count("damaged"), len(rules)) == (3_000, 1, 3_001)


# ---- WARC


def warc(*pages: tuple[str, str, bytes, str], gzipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=gzipped)
    writer.write_record(writer.create_warcinfo_record("a.warc", {"software": "test"}))
    for uri, status, body, kind in pages:
        headers = StatusAndHeaders(status, [("Content-Type", kind)], protocol="HTTP/1.1")
        record = writer.create_warc_record(uri, "response", payload=io.BytesIO(body), http_headers=headers)
        writer.write_record(record)
    return buffer.getvalue()


PAGES = (
    ("http://a.example/1", "200 OK", b"<p>caf\xe9 one</p>", "text/html; charset=latin-1"),
    ("http://a.example/2", "404 Not Found", b"<p>gone</p>", "text/html"),
    ("http://a.example/3", "200 OK", b"\x89PNG", "image/png"),
    ("http://a.example/4", "200 OK", "<p>漢字</p>".encode(), "text/html"),
    ("http://a.example/5", "200 OK", b"caf\xe9", "text/html"),
    ("http://a.example/6", "200 OK", b"plain & <text>", "text/plain"),
)


@pytest.mark.parametrize("gzipped", [True, False])
def test_a_warc_file_gives_its_pages_and_counts_what_is_none(tmp_path, gzipped):
    (tmp_path / "a.warc.gz").write_bytes(warc(*PAGES, gzipped=gzipped))
    items = items_of(local(tmp_path, format="warc"))
    assert [(item.rule, item.value) for _, item in items if item.rule] == [
        ("http_status", "404"),
        ("not_html", "image/png"),
        ("not_utf8", "byte 3"),
    ]
    assert [item.text for _, item in items if not item.rule] == ["café one", "漢字", "plain & <text>"]
    origin, item = items[0]
    assert "a.warc.gz#<urn:uuid:" in origin
    assert origin.endswith(" http://a.example/1")
    assert item.metadata["url"] == "http://a.example/1"


@pytest.mark.parametrize("gzipped", [True, False])
def test_a_warc_file_cut_anywhere_never_passes_for_whole(tmp_path, gzipped):
    """Unless it is cut between two records, where nothing can tell."""
    data = warc(*PAGES, gzipped=gzipped)
    path = tmp_path / "a.warc"
    path.write_bytes(data)
    whole = [item.text for _, item in items_of(local(path, format="warc"))]
    passed = []
    for cut in range(1, len(data), 7):
        path.write_bytes(data[:cut])
        items = items_of(local(path, format="warc", on_damage="skip"))
        texts = [item.text for _, item in items if item.rule != "damaged"]
        assert texts == whole[: len(texts)]
        if all(item.rule != "damaged" for _, item in items):
            passed.append(cut)
    assert len(passed) <= len(PAGES) + 1
    path.write_bytes(data[: len(data) * 2 // 3 + 1])
    with pytest.raises(DamagedError, match=r"a\.warc"):
        items_of(local(path, format="warc"))


def test_a_corrupt_warc_file_is_refused_by_name(tmp_path):
    data = warc(*PAGES, gzipped=False).replace(
        b"WARC/1.0\r\nWARC-Type: response", b"WARX/1.0\r\nWARC-Type: response", 2
    )
    (tmp_path / "a.warc").write_bytes(data)
    with pytest.raises(DamagedError, match=r"a\.warc"):
        items_of(local(tmp_path / "a.warc", format="warc"))


# ---- sources that are not what they were


@pytest.mark.parametrize("change", ["shrink", "grow", "rewrite", "remove"])
def test_a_file_that_changed_after_it_was_looked_at_is_refused_by_name(tmp_path, change):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' * 3)
    source = local(path)
    found = find.look(source, None, True)
    if change == "shrink":
        path.write_bytes(b'{"text": "one"}\n')
    elif change == "grow":
        path.write_bytes(b'{"text": "one"}\n' * 4)
    elif change == "rewrite":
        path.write_bytes(b'{"text": "two"}\n' * 3)
    else:
        path.unlink()
    with pytest.raises(
        StemmaError, match=r"a\.jsonl is not what it was when this run looked at it"
    ) as raised:
        items_of(source, found=found)
    assert ("now: gone" in str(raised.value)) == (change == "remove")


def test_a_change_behind_another_file_system_is_noticed_too():
    memory = fsspec.filesystem("memory")
    memory.pipe("/stemma_changes/a.jsonl", b'{"text": "one"}\n')
    try:
        source = local("memory://stemma_changes/*.jsonl")
        found = find.look(source, None, True)
        memory.pipe("/stemma_changes/a.jsonl", b'{"text": "two"}\n')
        with pytest.raises(StemmaError, match=r"memory:///stemma_changes/a\.jsonl is not what it was"):
            items_of(source, found=found)
    finally:
        memory.rm("/stemma_changes", recursive=True)


@pytest.mark.parametrize("on_damage", ["stop", "skip"])
def test_a_file_that_changes_while_it_is_read_is_refused_not_counted_as_damaged(tmp_path, on_damage):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(
        gzip.compress(
            "".join(json.dumps({"text": os.urandom(900).hex()}) + "\n" for _ in range(900)).encode()
        )
    )
    source = local(path, on_damage=on_damage)
    (unit,) = units("s", source, find.look(source, None, True))
    reading = read(source, unit)
    next(reading)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StemmaError, match="is not what it was"):
        list(reading)


def test_an_archive_that_is_replaced_is_refused_by_name(tmp_path, pack):
    source = packed(tmp_path, pack, pack.deb({"doc/a.txt": b"text"}))
    found = find.look(source, tmp_path, True)
    pack.put(tmp_path / "packages" / "a_1_all.deb", pack.deb({"doc/a.txt": b"other"}))
    with pytest.raises(StemmaError, match=r"a_1_all\.deb is not what it was"):
        items_of(source, found=found)


# ---- anything at all


@settings(max_examples=150)
@given(data=st.binary(max_size=300), format=st.sampled_from(sorted(set(readers.READERS) - {"parquet"})))
def test_any_bytes_end_in_items_or_in_an_error_of_ours(data, format):
    options = {"fields": ("text",)} if format == "jsonl" else {}
    stream = streams.decompressed(io.BytesIO(data))
    try:
        for item in readers.READERS[format](stream, "some/file.py", **options):
            documents.verdict(item, *documents.storable(item.text))
    except (StemmaError, *streams.DAMAGE) as error:
        if not (streams.is_damage(error) or "some/file.py" in str(error)):
            raise
