"""Sorted files of words: equal words make equal bytes, and many files are walked through as one."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.core.errors import DamagedError
from tokenizer.learning import wordfiles
from tokenizer.learning.wordfiles import joined, read_words, sums, text_bytes, walk, write_words
from tokenizer.learning.words import Words

# Few different bytes, so that words are prefixes of one another and stand in several files.
texts = st.binary(min_size=1, max_size=4).map(lambda raw: bytes(b"\x00a\x80\xff"[byte % 4] for byte in raw))
counts = st.dictionaries(texts, st.integers(1, 2**50), max_size=40)


@settings(max_examples=40, deadline=None)
@given(files=st.lists(counts, max_size=5), rows=st.sampled_from([2, 7, 1000]))
def test_files_walked_through_together_add_up(
    tmp_path_factory: pytest.TempPathFactory, files: list[dict[bytes, int]], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("files")
    total: Counter[bytes] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wordfiles, "BATCH_ROWS", rows)
        patch.setattr(wordfiles, "ROWS_AT_ONCE", 3 * rows)
        patch.setattr(wordfiles, "LEAST_ROWS", 1)
        for number, found in enumerate(files):
            write_words(folder / f"{number}", [Words.of(found)], 1)
            total.update(found)
        paths = [folder / f"{number}" for number in range(len(files))]
        stretches = list(walk(paths))
        parts = list(sums(paths))
    assert [pair for part in parts for pair in part] == sorted(total.items())
    for stretch in stretches:
        pairs = list(zip(stretch.words.to_pylist(), stretch.files.tolist()))
        assert pairs == sorted(pairs)
        assert all(
            files[file][word] == count
            for word, file, count in zip(
                stretch.words.to_pylist(), stretch.files.tolist(), stretch.counts.tolist(), strict=True
            )
        )


def test_the_bytes_of_a_file_follow_from_its_words(tmp_path: Path) -> None:
    pairs = [(b"%06d" % number, number + 1) for number in range(100_000)]
    whole = Words.of(dict(pairs))
    cuts = [0, 1, 70_000, 70_000, 99_999, 100_000]
    parts = [Words.of(dict(pairs[start:stop])) for start, stop in pairwise(cuts)]
    write_words(tmp_path / "whole", [whole], whole.text_bytes)
    write_words(tmp_path / "parts", parts, whole.text_bytes)
    write_words(tmp_path / "again", sums([tmp_path / "whole"]), whole.text_bytes)
    content = (tmp_path / "whole").read_bytes()
    assert (tmp_path / "parts").read_bytes() == content
    assert (tmp_path / "again").read_bytes() == content
    assert list(read_words(tmp_path / "whole")) == pairs
    assert list(joined(parts)) == pairs
    assert text_bytes(tmp_path / "whole") == whole.text_bytes == 6 * sum(count for _, count in pairs)
    assert not list(tmp_path.glob(".*"))


def test_no_words_make_a_file(tmp_path: Path) -> None:
    write_words(tmp_path / "none", [], 0)
    assert (len(read_words(tmp_path / "none")), text_bytes(tmp_path / "none")) == (0, 0)
    write_words(tmp_path / "one", [Words.of({b"": 3})], 0)
    assert list(read_words(tmp_path / "one")) == [(b"", 3)]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    def parts():  # type: ignore[no-untyped-def]
        yield Words.of({b"b": 1})
        raise RuntimeError("full")

    write_words(tmp_path / "file", [Words.of({b"a": 1})], 1)
    with pytest.raises(RuntimeError, match="full"):
        write_words(tmp_path / "file", parts(), 1)
    assert list(read_words(tmp_path / "file")) == [(b"a", 1)]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_no_file_of_words_is_named(tmp_path: Path) -> None:
    write_words(tmp_path / "torn", [Words.of({b"a": 1})], 1)
    raw = (tmp_path / "torn").read_bytes()
    (tmp_path / "torn").write_bytes(raw[: len(raw) // 2])
    with pa.OSFile(str(tmp_path / "other"), "wb") as sink:
        table = pa.table({"token": ["a"]})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    for name in ("torn", "other", "missing"):
        with pytest.raises(DamagedError, match=name):
            read_words(tmp_path / name)
        with pytest.raises(DamagedError, match=name):
            text_bytes(tmp_path / name)
