"""Beginning from a published vocabulary."""

import base64
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from stemma.core.errors import DamagedError
from stemma.core.packages import PackageError, read_member
from tokenizer.config import RanksFile
from tokenizer.errors import VocabularyError
from tokenizer.learning.base import parse_ranks, read_ranks, written_in
from tokenizer.merges import pairs
from tokenizer.vocabulary import byte_order


def ranks(*texts: str | bytes) -> bytes:
    singles = [bytes([byte]) for byte in byte_order()]
    entries = [*singles, *(text.encode() if isinstance(text, str) else text for text in texts)]
    lines = [base64.b64encode(text) + b" %d\n" % rank for rank, text in enumerate(entries)]
    return b"".join(lines)


def rank_file(tmp_path: Path, data: bytes, **options: object) -> RanksFile:
    path = tmp_path / "published.tiktoken"
    path.write_bytes(data)
    return RanksFile(path=str(path), sha256=hashlib.sha256(data).hexdigest(), **options)


def parts(text: str) -> list[bytes]:
    """UTF-8 joined from the left: what every prefix is built from."""
    data = text.encode()
    return [data[:end] for end in range(2, len(data) + 1)]


def kept(file: RanksFile, tmp_path: Path) -> list[bytes]:
    vocabulary = read_ranks(file, tmp_path / "cache", offline=True)
    assert vocabulary.fault() is None
    assert {entry.stage for entry in vocabulary.entries[256:]} == {"base"}
    return vocabulary.texts[256:]


def joined(*texts: str) -> list[bytes]:
    return list(dict.fromkeys(part for text in texts for part in parts(text)))


def test_ascii_symbols_and_emoji_stay_in_their_order_without_what_is_cut(tmp_path: Path) -> None:
    published = [
        *joined("the", "12"),
        b" t",
        b" the",
        *joined("中", "–", "½", "🏁"),
        b" \xe2",
        b"\n\n",
        b"=>",
    ]
    found = kept(rank_file(tmp_path, ranks(*published)), tmp_path)
    assert found == [text for text in published if text in set(found)]
    assert found == [
        *(b"th", b"the", b" t", b" the", b"\xe2\x80", "–".encode(), "½".encode()),
        *(*parts("🏁"), b"\n\n", b"=>"),
    ]


def test_what_only_stands_inside_pre_tokens_stays_if_joining_comes_to_it(tmp_path: Path) -> None:
    """`a'l` is inside `a'll`, and `c'l` inside `c'll`; but nothing is there to join `c'l` from."""
    published = [b"a'", b"a'l", b"'ll", b"c'l"]
    assert kept(rank_file(tmp_path, ranks(*published)), tmp_path) == [b"a'", b"a'l", b"'ll"]


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        (("ascii",), [" the", "ab", "=>", "\n\n"]),
        (("latin",), [" the", "ab", "är", "l’"]),
        (("han",), ["中国"]),
        (("kana",), ["スーパー"]),
        (("hangul",), ["가나"]),
        (("cyrillic",), [" Привет"]),
        (("greek",), ["αβ"]),
        (("symbols",), [" –", "½", "∑", "…", "⌨️", "=>", "、。"]),
        (("emoji",), ["🏁", "👩🏽‍🚀", "⌨️"]),
        (("ascii", "han"), [" the", "中国", "ab", "a中", "=>", "\n\n"]),
    ],
)
def test_an_entry_is_of_a_script_if_all_its_characters_are(
    scripts: tuple[str, ...], expected: list[str]
) -> None:
    texts = [
        " the",
        "中国",
        "ab",
        "är",
        "l’",
        " Привет",
        "αβ",
        " –",
        "½",
        "∑",
        "…",
        "🏁",
        "👩🏽‍🚀",
        "⌨️",
        "a中",
    ]
    texts += ["スーパー", "가나", "=>", "、。", "\n\n"]
    found = written_in([text.encode() for text in texts], scripts)
    assert [text for text, own in zip(texts, found) if own] == [text for text in texts if text in expected]


def test_the_first_entries_count_their_parts(tmp_path: Path) -> None:
    data = ranks(*joined("–", "the", "🏁"), "=>")
    everything = kept(rank_file(tmp_path, data), tmp_path)
    found = [kept(rank_file(tmp_path, data, entries=limit), tmp_path) for limit in range(1, 9)]
    assert list(map(len, found)) == [1, 2, 3, 4, 5, 5, 7, 8], "the flag brings two parts or does not come"
    for texts in found:
        assert texts == [text for text in everything if text in set(texts)]
        assert all(len(text) == 2 or text[:-1] in texts for text in texts)


def test_parts_are_joined_as_in_the_published_vocabulary(tmp_path: Path) -> None:
    published = joined("–", "—", "…", "½", "🏁", "🏂", "中国", "Привет", "the", "then")
    vocabulary = read_ranks(rank_file(tmp_path, ranks(*published)), tmp_path, offline=True)
    made = pairs(vocabulary)
    halves = {
        text: tuple(vocabulary.texts[part] for part in made[rank])
        for rank, text in enumerate(vocabulary.texts)
        if rank >= 256
    }
    assert halves == {text: (text[:-1], text[-1:]) for text in halves}


def test_ranks_decide_the_order_and_bytes_come_in_our_own(tmp_path: Path) -> None:
    lines = [base64.b64encode(bytes([byte])) + b" %d" % (1000 + byte) for byte in range(256)]
    data = b"\n".join([b"dGhl 7", b"dGg= 3", b"", *lines, b"YWI= 5"])
    vocabulary = read_ranks(rank_file(tmp_path, data), tmp_path, offline=True)
    assert vocabulary.texts == [*(bytes([byte]) for byte in byte_order()), b"th", b"ab", b"the"]


def archive_of(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".whl"):
        with zipfile.ZipFile(path, "w") as zipped:
            zipped.writestr("pack/ranks", data)
    else:
        with tarfile.open(path, "w:gz") as tarred:
            member = tarfile.TarInfo("pack/ranks")
            member.size = len(data)
            tarred.addfile(member, io.BytesIO(data))
            tarred.addfile(tarfile.TarInfo("pack/folder"), None)
    return path


def packed(path: Path, **options: object) -> RanksFile:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    given = {
        "package": "pack",
        "version": "1",
        "archive": path.name,
        "member": "pack/ranks",
        "sha256": sha256,
    }
    return RanksFile(**{**given, **options})


@pytest.mark.parametrize("name", ["pack-1-py3-none-any.whl", "pack-1.tgz"])
def test_ranks_are_read_out_of_an_archive_in_the_cache(name: str, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "cache" / "packages", name, ranks("th", "the"))
    assert kept(packed(path), tmp_path) == [b"th", b"the"]


def test_an_archive_that_is_not_what_it_was_said_to_be(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = archive_of(cache / "packages", "pack-1-py3-none-any.whl", ranks("th"))
    with pytest.raises(PackageError, match="has no file 'pack/other'"):
        read_ranks(packed(path, member="pack/other"), cache, offline=True)
    with pytest.raises(DamagedError, match="the profile pins 000"):
        read_ranks(packed(path, sha256="0" * 64), cache, offline=True)
    with pytest.raises(
        VocabularyError, match=r"offline.*Put gone\.whl into .*or take `base` out of the profile"
    ):
        read_ranks(packed(path, archive="gone.whl"), cache, offline=True)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DamagedError, match="cannot be read"):
        read_ranks(packed(path), cache, offline=True)
    for name in ("pack.deb", "pack.tgz"):
        (tmp_path / name).write_bytes(b"no archive")
    with pytest.raises(PackageError, match="neither a wheel, a zip nor a tarball"):
        read_member(tmp_path / "pack.deb", "x")
    with pytest.raises(DamagedError, match="cannot be read"):
        read_member(tmp_path / "pack.tgz", "x")
    tarball = archive_of(tmp_path, "pack-1.tgz", b"x")
    with pytest.raises(PackageError, match="has no file 'pack/none'"):
        read_member(tarball, "pack/none")


def test_a_file_that_is_not_there_or_not_the_one_pinned(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="is no file"):
        read_ranks(RanksFile(path=str(tmp_path / "none"), sha256="0" * 64), tmp_path)
    file = rank_file(tmp_path, ranks("th"))
    Path(file.path).write_bytes(b"IQ== 0\n")
    with pytest.raises(DamagedError, match="Either the file or the pin is wrong"):
        read_ranks(file, tmp_path)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "has no entries"),
        (b"IQ== 0\nnonsense\n", "name:2 is 'nonsense'"),
        (b"IQ== zero\n", "name:1 is 'IQ== zero'"),
        (b"I*Q== 0\n", "name:1"),
        (b"IQ== 0\nIQ== 1\n", "name:2.*was there before"),
        (b"IQ== 0\nIg== 0\n", "one rank to several entries"),
        (b"\xff\xfe 0\n", "name:1"),
    ],
)
def test_files_that_are_no_rank_files(data: bytes, complaint: str) -> None:
    with pytest.raises(VocabularyError, match=complaint):
        parse_ranks(data, "name")


def test_nothing_to_keep_is_said(tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="2 entries, and none is both written in greek"):
        read_ranks(rank_file(tmp_path, ranks("th", "12"), keep=("greek",)), tmp_path)


@pytest.mark.network
def test_the_vocabulary_the_reference_begins_from(tmp_path: Path) -> None:
    """o200k: its ASCII entries but for the 1,100 of several digits, symbols and emoji, and their parts."""
    file = RanksFile(
        package="litellm",
        version="1.109.1",
        archive="litellm-1.109.1-cp310-abi3-manylinux_2_28_x86_64.whl",
        member="litellm/litellm_core_utils/tokenizers/fb374d419588a4632f3f557e76b4b70aebbca790",
        sha256="1c8b4dd671fa0cd0850aa751678704ff77e595fb1e6085b2dc3be39ee19bdaaf",
    )
    vocabulary = read_ranks(file, tmp_path)
    assert len(vocabulary) == 128_611
    assert sum(text.isascii() for text in vocabulary.texts) == 128_835 - 1_100
