import os

import pytest

from stemma.core.errors import DamagedError
from stemma.core.files import read_json, read_jsonl, write_atomic, write_json


def test_write_atomic_replaces_whole_files_and_leaves_no_litter(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "one")
    write_atomic(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["file.txt"]


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_atomic(path, "new")
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"ü": [1, 2.5, None]})
    assert read_json(path) == {"ü": [1, 2.5, None]}
    path.write_text("{")
    with pytest.raises(DamagedError, match=r"a\.json"):
        read_json(path)


def test_jsonl_forgives_a_torn_last_line_only(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(DamagedError, match=":2"):
        list(read_jsonl(path))
    assert list(read_jsonl(tmp_path / "none.jsonl")) == []
