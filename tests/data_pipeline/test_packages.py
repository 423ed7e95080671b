import io

import pytest

from data_pipeline.sources import packages
from stemma.core.errors import DamagedError
from stemma.core.files import sha256_file

WHEEL = "stemma_sample-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path, monkeypatch, pack):
    """pip, told to look into a folder instead of a registry."""
    folder = tmp_path / "index"
    pack.put(folder / WHEEL, pack.wheel("stemma_sample", "1.0", {"stemma_sample/a.txt": b"hello"}))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def pinned(folder):
    return sha256_file(folder / WHEEL)


def test_pip_fetches_a_pinned_archive_once(index, tmp_path):
    cache = tmp_path / "cache"
    path = packages.fetch("pypi", "stemma-sample", "1.0", WHEEL, pinned(index), cache)
    assert packages.Archive(path).read("stemma_sample/a.txt") == b"hello"
    (index / WHEEL).unlink()
    assert packages.fetch("pypi", "stemma-sample", "1.0", WHEEL, sha256_file(path), cache) == path
    assert [entry.name for entry in path.parent.iterdir()] == [WHEEL]


def test_a_fetched_archive_with_another_hash_is_refused_and_not_kept(index, tmp_path):
    with pytest.raises(DamagedError, match=f"{WHEEL}.*pins {'0' * 64}"):
        packages.fetch("pypi", "stemma-sample", "1.0", WHEEL, "0" * 64, tmp_path / "cache")
    assert list((tmp_path / "cache" / "packages").iterdir()) == []


def test_a_damaged_archive_in_the_cache_is_refused_and_left(index, tmp_path, pack):
    target = tmp_path / "cache" / "packages" / WHEEL
    pack.put(target, b"damaged")
    with pytest.raises(DamagedError, match="delete that file"):
        packages.fetch("pypi", "stemma-sample", "1.0", WHEEL, pinned(index), tmp_path / "cache")
    assert target.read_bytes() == b"damaged"


def test_an_unknown_package_is_out_of_reach_but_an_unknown_version_is_an_error(index, tmp_path):
    with pytest.raises(packages.OutOfReach, match="stemma-other"):
        packages.fetch("pypi", "stemma-other", "1.0", "stemma_other-1.0-py3-none-any.whl", "0" * 64, tmp_path)
    with pytest.raises(packages.PackageError, match=r"2\.0.*from versions: 1\.0"):
        packages.fetch(
            "pypi", "stemma-sample", "2.0", "stemma_sample-2.0-py3-none-any.whl", "0" * 64, tmp_path
        )


def test_offline_asks_nobody_and_still_uses_the_cache(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(packages, "run_client", lambda command: pytest.fail("a registry was asked"))
    with pytest.raises(packages.OutOfReach, match="offline"):
        packages.fetch("pypi", "stemma-sample", "1.0", WHEEL, "0" * 64, tmp_path, offline=True)
    digest = pack.put(tmp_path / "packages" / WHEEL, pack.zip({"a.txt": b"a"}))
    assert packages.fetch("pypi", "stemma-sample", "1.0", WHEEL, digest, tmp_path, offline=True).exists()


def test_a_registry_that_does_not_answer_is_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(packages.OutOfReach):
        packages.fetch("pypi", "stemma-sample", "1.0", WHEEL, "0" * 64, tmp_path)


def test_a_wheel_is_fetched_for_the_platform_in_its_name_not_for_this_one(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(packages, "run_client", lambda command: asked.append(command) or (0, ""))
    packages.pip_download(
        "a", "1", "a-1-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl", tmp_path
    )
    text = " ".join(asked[0])
    assert "--python-version 311 --abi cp311" in text
    assert "--platform manylinux_2_24_x86_64 --platform manylinux_2_28_x86_64" in text
    packages.pip_download("a", "1", "a-1-py3-none-any.whl", tmp_path)
    assert "--platform" not in asked[1]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_are_listed_by_glob_and_read_in_place(tmp_path, pack, kind):
    inner = pack.zip({"x/fw.jsonl": b"1", "x/gsm8k.jsonl": b"2"})
    path = tmp_path / ("a.zip" if kind == "zip" else "a.tar.gz")
    pack.put(path, getattr(pack, kind)({"b/legs.zip": inner, "b/c.txt": b"text", "empty.txt": b""}))
    archive = packages.Archive(path)
    assert archive.members(("b/*.txt", "b/legs.zip!x/fw*")) == {"b/c.txt": 4, "b/legs.zip!x/fw.jsonl": 1}
    assert archive.read("b/legs.zip!x/fw.jsonl") == b"1"
    assert archive.read("empty.txt") == b""
    with pytest.raises(packages.PackageError, match="no member"):
        archive.members(("b/*.json",))


@pytest.mark.parametrize("name", ["../evil.txt", "/etc/evil.txt", "a/../../evil.txt", "..\\evil.txt"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_whose_members_lead_out_of_it_is_refused(tmp_path, name, pack, kind):
    path = tmp_path / ("a.zip" if kind == "zip" else "a.tgz")
    pack.put(path, getattr(pack, kind)({"fine.txt": b"fine", name: b"evil"}))
    with pytest.raises(DamagedError, match="lead out"):
        packages.Archive(path).members(("*",))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_truncated_archive_is_refused_by_name(tmp_path, suffix, pack):
    whole = (pack.zip if suffix == ".zip" else pack.tar)({"a.txt": bytes(range(256)) * 200})
    path = tmp_path / f"half{suffix}"
    pack.put(path, whole[: len(whole) // 2])
    with pytest.raises(DamagedError, match="half"):
        packages.Archive(path).members(("*",))


def test_a_member_with_a_wrong_checksum_is_refused_by_name(tmp_path, pack):
    text = b"the quick brown fox " * 50
    buffer = io.BytesIO(pack.zip({"a.txt": text}))
    raw = bytearray(buffer.getvalue())
    raw[raw.index(b"a.txt") + 20] ^= 0xFF  # inside the compressed data
    pack.put(tmp_path / "a.zip", bytes(raw))
    with pytest.raises(DamagedError, match=r"a\.zip: a\.txt"):
        packages.Archive(tmp_path / "a.zip").read("a.txt")
