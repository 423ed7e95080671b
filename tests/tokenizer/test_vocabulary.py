"""The vocabulary's own file: what is read is what was written, and nothing else is read."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stemma.core.errors import DamagedError
from tokenizer.vocabulary import Entry, Vocabulary, byte_order

BYTES = Vocabulary().entries
entries = st.lists(
    st.builds(
        Entry,
        st.binary(min_size=2, max_size=6),
        st.sampled_from(["base", "general", "code"]),
        st.integers(0, 2**62),
        st.booleans(),
    ),
    max_size=20,
    unique_by=lambda entry: entry.text,
)


def test_bytes_come_in_gpt_2_s_order() -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert byte_order() == list(bytes_to_unicode())


@settings(max_examples=40, deadline=None)
@given(learned=entries)
def test_what_is_read_is_what_was_written(
    learned: list[Entry], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("vocabulary")
    vocabulary = Vocabulary().extended(learned)
    vocabulary.save(folder / "a.parquet")
    Vocabulary.load(folder / "a.parquet").save(folder / "b.parquet")
    assert Vocabulary.load(folder / "b.parquet") == vocabulary
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


def test_scaffolds_have_ranks_and_no_ids(tmp_path: Path) -> None:
    vocabulary = Vocabulary().extended(
        [Entry(b"ab", "general", 9), Entry(b"abc", "general", 5, scaffold=True), Entry(b"abcd", "code", 4)]
    )
    assert len(vocabulary) == 258
    assert vocabulary.ids.tolist() == [*range(257), -1, 257]
    assert vocabulary.token_bytes == [*vocabulary.texts[:257], b"abcd"]
    vocabulary.save(tmp_path / "vocabulary.parquet")
    rows = pq.read_table(tmp_path / "vocabulary.parquet").slice(256).to_pylist()
    assert rows == [
        {"rank": 256, "id": 256, "bytes": b"ab", "stage": "general", "count": 9, "scaffold": False},
        {"rank": 257, "id": None, "bytes": b"abc", "stage": "general", "count": 5, "scaffold": True},
        {"rank": 258, "id": 257, "bytes": b"abcd", "stage": "code", "count": 4, "scaffold": False},
    ]


@pytest.mark.parametrize(
    ("vocabulary", "complaint"),
    [
        (Vocabulary(BYTES[1:]), "not the bytes in their order"),
        (Vocabulary((BYTES[1], BYTES[0], *BYTES[2:])), "not the bytes in their order"),
        (Vocabulary((Entry(b"!", "bytes", scaffold=True), *BYTES[1:])), "a byte is a scaffold"),
        (Vocabulary().extended([Entry(b"", "code")]), "entry 256 is empty"),
        (Vocabulary().extended([Entry(b"ab", "code"), Entry(b"ab", "base")]), "256 and 257 are both b'ab'"),
        (Vocabulary().extended([Entry(b"!", "code")]), "0 and 256 are both b'!'"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(
    vocabulary: Vocabulary, complaint: str, tmp_path: Path
) -> None:
    vocabulary.save(tmp_path / "vocabulary.parquet")
    with pytest.raises(DamagedError, match=complaint):
        Vocabulary.load(tmp_path / "vocabulary.parquet")


def test_a_damaged_or_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.parquet"
    with pytest.raises(DamagedError, match=r"vocabulary\.parquet is not a readable"):
        Vocabulary.load(path)
    vocabulary = Vocabulary().extended([Entry(b"ab", "general")])
    vocabulary.save(path)
    whole, table = path.read_bytes(), pq.read_table(path)
    path.write_bytes(whole[:-40])
    with pytest.raises(DamagedError, match=r"vocabulary\.parquet is not a readable"):
        Vocabulary.load(path)
    pq.write_table(pa.table({"token": ["a"]}), path)
    with pytest.raises(DamagedError, match="holds token string"):
        Vocabulary.load(path)
    pq.write_table(table.take(np.arange(len(table))[::-1]), path)
    with pytest.raises(DamagedError, match="not the bytes in their order"):
        Vocabulary.load(path)
    pq.write_table(table.set_column(1, "id", pa.array(range(1, 258), pa.int32())), path)
    with pytest.raises(DamagedError, match="ranks or ids are not in order"):
        Vocabulary.load(path)
    pq.write_table(table.set_column(3, "stage", pa.array([None] * 257, pa.string())), path)
    with pytest.raises(DamagedError, match="expected the columns"):
        Vocabulary.load(path)


def test_a_flipped_bit_is_never_read_as_another_vocabulary(tmp_path: Path) -> None:
    path, rng = tmp_path / "vocabulary.parquet", random.Random(0)
    vocabulary = Vocabulary().extended([Entry(b"entry %d" % index, "general", index) for index in range(200)])
    vocabulary.save(path)
    raw, refused = path.read_bytes(), 0
    for _ in range(150):
        bent = bytearray(raw)
        bent[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(bent)
        try:
            assert Vocabulary.load(path) == vocabulary
        except DamagedError:
            refused += 1
    assert refused > 120
