"""Our reader and writer of token shards against Megatron's own, and refusal of damaged files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.tokens.shards import Tokens, TokenShard, open_shards, token_dtype, write_index
from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import write_json

DOCUMENTS = st.lists(st.lists(st.integers(0, 65_535), min_size=1, max_size=20), max_size=12)


def write(prefix: Path, documents: list[list[int]], dtype: type[np.generic] = np.uint16) -> Path:
    prefix.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{prefix}.bin").write_bytes(b"".join(np.array(ids, dtype=dtype).tobytes() for ids in documents))
    write_index(Path(f"{prefix}.idx"), [len(ids) for ids in documents], dtype)
    return prefix


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_megatron_reads_what_is_written_and_the_other_way_round(
    dtype: type[np.generic], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    documents = [[1, 2, 3], [65_535], [7, 8, 9, 10]]
    dataset = megatron.IndexedDataset(str(write(tmp_path / "ours", documents, dtype)))
    assert [dataset[i].tolist() for i in range(len(dataset))] == documents
    assert dataset.document_indices.tolist() == [0, 1, 2, 3]
    assert dataset.sequence_lengths.tolist() == [3, 1, 4]
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=dtype)
    for ids in documents:
        builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (tmp_path / f"theirs.{suffix}").read_bytes()


@settings(max_examples=50)
@given(documents=DOCUMENTS, data=st.data())
def test_reads_across_documents_and_knows_whose_each_token_is(
    documents: list[list[int]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shard = TokenShard(write(tmp_path_factory.mktemp("shard") / "s", documents))
    flat = [token for ids in documents for token in ids]
    owners = [number for number, ids in enumerate(documents) for _ in ids]
    assert len(shard) == len(flat)
    start = data.draw(st.integers(0, len(flat)))
    count = data.draw(st.integers(0, len(flat) - start))
    read = shard.read(start, count)
    assert read.dtype == np.int64
    assert read.tolist() == flat[start : start + count]
    assert [shard.document_at(token) for token in range(len(flat))] == owners
    if count:
        inside = owners[start : start + count]
        assert shard.documents(start, count).tolist() == [owner - inside[0] for owner in inside]


def test_reading_past_the_end_is_refused(tmp_path: Path) -> None:
    shard = TokenShard(write(tmp_path / "s", [[1, 2], [3]]))
    for start, count in ((2, 2), (-1, 1), (0, -1), (4, 0)):
        for call in (shard.read, shard.documents):
            with pytest.raises(IndexError, match="which has 3"):
                call(start, count)
    with pytest.raises(IndexError, match="token 3 of"):
        shard.document_at(3)


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        ("bin", lambda raw: raw[:-1], r"s\.bin has 5 bytes, its index says 6"),
        ("bin", lambda raw: raw + b"\0", r"s\.bin has 7 bytes"),
        ("bin", None, r"s\.bin is missing"),
        ("idx", None, r"s\.idx is missing"),
        ("idx", lambda raw: raw[:-1], r"s\.idx has .* bytes, its header says"),
        ("idx", lambda raw: raw[:10], "not even a header"),
        ("idx", lambda raw: b"X" + raw[1:], "is not a token index"),
        ("idx", lambda raw: raw[:17] + b"\x05" + raw[18:], "is not a token index"),
    ],
)
def test_damage_is_refused_by_name(suffix: str, damage: object, message: str, tmp_path: Path) -> None:
    prefix = write(tmp_path / "s", [[1, 2], [3]])
    path = Path(f"{prefix}.{suffix}")
    raw = path.read_bytes()
    path.unlink()
    if callable(damage):
        path.write_bytes(damage(raw))
    with pytest.raises(DamagedError, match=message):
        TokenShard(prefix)


def test_two_bytes_hold_a_vocabulary_of_65536() -> None:
    assert token_dtype(65_536) is np.uint16
    assert token_dtype(65_537) is np.int32


def test_sidecar_rows_are_found_by_number_and_by_id(tmp_path: Path) -> None:
    prefix = write(tmp_path / "s", [[1]] * 10)
    rows = pa.table({"document": list(range(10)), "id": [f"id{n}" for n in range(10)]})
    pq.write_table(rows, f"{prefix}.docs.parquet", row_group_size=4)
    shard = TokenShard(prefix)
    assert [shard.describe(number)["id"] for number in (0, 3, 4, 9)] == ["id0", "id3", "id4", "id9"]
    assert (shard.pieces("id7"), shard.pieces("id")) == ([7], [])
    with pytest.raises(IndexError, match="which has 10"):
        shard.describe(10)


def test_an_artifact_opens_its_shards_and_lists_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "train" / "wiki", [[1, 2]])
    index = {"eos": 2, "sources": {"wiki": {"domain": "web", "splits": {"train": {"tokens": 2}}}}}
    write_json(tmp_path / "tokens.json", index)
    tokens = Tokens(tmp_path)
    assert tokens.sources("train") == {"wiki": "web"}
    assert tokens.shard("wiki").read(0, 2).tolist() == [1, 2]
    assert tokens.shard("wiki") is tokens.shard("wiki")
    with pytest.raises(StemmaError, match="no train tokens of 'news'; sources there: wiki"):
        tokens.shard("news")
    with pytest.raises(StemmaError, match=r"sources there: \(none\)"):
        tokens.shard("wiki", "valid")
    with pytest.raises(DamagedError, match="expected a tokens artifact"):
        Tokens(tmp_path / "train")


def test_shards_of_several_artifacts_open_by_source_and_only_as_they_were_written(tmp_path: Path) -> None:
    for artifact, source, domain in (("text", "wiki", "web"), ("acts", "repair", "agent")):
        write(tmp_path / artifact / "train" / source, [[1, 2], [3]])
        write(tmp_path / artifact / "train" / "nothing", [])
        sources = {source: {"domain": domain, "splits": {"train": {"tokens": 3}}}}
        if artifact == "text":
            sources["nothing"] = {"domain": "web", "splits": {"train": {"tokens": 0}}}
        write_json(tmp_path / artifact / "tokens.json", {"eos": 2, "sources": sources})
    folders = [tmp_path / "text", tmp_path / "acts"]
    found = open_shards(folders, "train")
    assert {source: shard.domain for source, shard in found.items()} == {"wiki": "web", "repair": "agent"}
    assert found["repair"].tokens.tolist() == [1, 2, 3]
    with pytest.raises(StemmaError, match="'wiki' is in two tokens artifacts"):
        open_shards([folders[0], folders[0]], "train")
    write(folders[0] / "train" / "wiki", [[1, 2]])  # whole, but another one
    with pytest.raises(DamagedError, match=r"wiki\.bin has 2 tokens, .* says 3"):
        open_shards(folders, "train")
