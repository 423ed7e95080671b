"""Archives read in place: what is in them, and what is refused."""

import bz2
import gzip
import io
import lzma

import pytest
import zstandard

from data_pipeline.sources import archives
from stemma.core.errors import DamagedError


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_are_listed_by_glob_and_read_in_place(tmp_path, pack, kind):
    inner = pack.zip({"x/fw.jsonl": b"1", "x/gsm8k.jsonl": b"2"})
    path = tmp_path / ("a.zip" if kind == "zip" else "a.tar.gz")
    pack.put(path, getattr(pack, kind)({"b/legs.zip": inner, "b/c.txt": b"text", "empty.txt": b""}))
    archive = archives.Archive(path)
    assert archive.members(("b/*.txt", "b/legs.zip!x/fw*")) == {"b/c.txt": 4, "b/legs.zip!x/fw.jsonl": 1}
    assert archive.read("b/legs.zip!x/fw.jsonl") == b"1"
    assert archive.read("empty.txt") == b""
    with pytest.raises(archives.PackageError, match="no member"):
        archive.members(("b/*.json",))


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_whose_members_lead_out_of_it_is_refused(tmp_path, name, pack, kind):
    path = tmp_path / ("a.zip" if kind == "zip" else "a.tgz")
    pack.put(path, getattr(pack, kind)({"fine.txt": b"fine", name: b"evil"}))
    with pytest.raises(DamagedError, match="lead out"):
        archives.Archive(path).members(("*",))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_truncated_archive_is_refused_by_name(tmp_path, suffix, pack):
    whole = (pack.zip if suffix == ".zip" else pack.tar)({"a.txt": bytes(range(256)) * 200})
    path = tmp_path / f"half{suffix}"
    pack.put(path, whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match="half"):
        archives.Archive(path).members(("*",))


def test_a_member_with_a_wrong_checksum_is_refused_by_name(tmp_path, pack):
    text = b"the quick brown fox " * 50
    buffer = io.BytesIO(pack.zip({"a.txt": text}))
    raw = bytearray(buffer.getvalue())
    raw[raw.index(b"a.txt") + 20] ^= 0xFF  # inside the compressed data
    pack.put(tmp_path / "a.zip", bytes(raw))
    with pytest.raises(DamagedError, match=r"a\.zip: a\.txt"):
        archives.Archive(tmp_path / "a.zip").read("a.txt")


@pytest.mark.parametrize(("at", "byte"), [(6, 1), (8, 98)], ids=["encrypted", "unknown compression"])
def test_a_member_that_cannot_be_unpacked_is_refused_by_name(tmp_path, pack, at, byte):
    raw = bytearray(pack.zip({"a.txt": b"text " * 50}))
    raw[at] = raw[raw.index(b"PK\x01\x02") + at + 2] = byte  # in both of its heads
    pack.put(tmp_path / "a.zip", bytes(raw))
    with pytest.raises(DamagedError, match=r"a\.zip.*a\.txt: .*(password|not supported)"):
        archives.Archive(tmp_path / "a.zip").read("a.txt")


PACKERS = {"xz": lzma.compress, "zst": zstandard.ZstdCompressor().compress, "gz": gzip.compress, "": bytes}


@pytest.mark.parametrize("kind", PACKERS)
def test_a_debian_package_gives_its_data_whatever_packs_it(tmp_path, pack, kind):
    members = {"usr/share/doc/a/b.txt": b"b" * 70_000, "usr/share/doc/a/c.txt": b"c", "usr/bin/x": b""}
    pack.put(tmp_path / "a_1_all.deb", pack.deb(members, kind, PACKERS[kind]))
    archive = archives.Archive(tmp_path / "a_1_all.deb")
    found = archive.members(("usr/share/doc/*",))
    assert found == {"usr/share/doc/a/b.txt": 70_000, "usr/share/doc/a/c.txt": 1}
    assert {name: stream.read() for name, stream in archive.stream(found)} == {
        name: members[name] for name in found
    }


@pytest.mark.parametrize("kind", PACKERS)
def test_a_debian_package_cut_anywhere_is_refused_by_name(tmp_path, pack, kind):
    whole = pack.deb({"usr/share/doc/a.txt": bytes(range(256)) * 40}, kind, PACKERS[kind])
    path = tmp_path / "a_1_all.deb"
    for cut in (0, 5, 30, 100, len(whole) // 2, len(whole) * 9 // 10):
        pack.put(path, whole[:cut])
        with pytest.raises(DamagedError, match=r"a_1_all\.deb"):
            archives.Archive(path).read("usr/share/doc/a.txt")


def test_an_archive_is_read_once_whatever_number_of_its_members_is_asked_for(tmp_path, pack, monkeypatch):
    members = {f"{number:03d}.txt": b"x" for number in range(200)}
    pack.put(tmp_path / "a.tar.gz", pack.tar(members))
    opened = []
    monkeypatch.setattr(archives, "decompressed", lambda handle: opened.append(1) or bz2_or_gz(handle))
    found = dict.fromkeys(members)
    for name, stream in archives.Archive(tmp_path / "a.tar.gz").stream(members):
        found[name] = stream.read()
    assert found == members
    assert len(opened) == 1


def bz2_or_gz(handle):
    return bz2.open(handle) if handle.peek(2)[:2] == b"BZ" else gzip.open(handle)


def test_archives_may_be_nested_to_any_depth(tmp_path, pack):
    inner = pack.tar({"x/a.txt": b"deep"})
    pack.put(tmp_path / "a.zip", pack.zip({"b.zip": pack.zip({"c.tar.gz": inner})}))
    archive = archives.Archive(tmp_path / "a.zip")
    assert archive.members(("b.zip!c.tar.gz!x/*",)) == {"b.zip!c.tar.gz!x/a.txt": 4}
    assert archive.read("b.zip!c.tar.gz!x/a.txt") == b"deep"


def test_a_file_that_is_no_archive_is_said_to_be_none(tmp_path, pack):
    pack.put(tmp_path / "a.rar", b"Rar!")
    with pytest.raises(archives.PackageError, match=r"a\.rar is no archive of a known kind"):
        archives.Archive(tmp_path / "a.rar").members(("*",))
