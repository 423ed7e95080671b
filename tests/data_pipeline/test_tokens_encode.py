"""Documents go through our encoder where the tokenizer artifact keeps its vocabulary: same ids, less time."""

import json
import shutil
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.tokens.encode import Job, encode_batch, plain_encoder
from tokenizer.encoding.encoder import Encoder
from tokenizer.errors import TextError
from tokenizer.export.hf import save_folder, to_tokenizers
from tokenizer.learning.hf_trainer import train_hf
from tokenizer.load import load, token_bytes
from tokenizer.vocabulary import VOCABULARY_FILE, Entry, Vocabulary

CONVERSATION = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:80]
    found = [path.read_text(encoding="utf-8", errors="replace")[:5000] for path in paths]
    return [*found, "", "<think>so</think> <|end_of_text|> 本当に？\r\n"]


@pytest.fixture(scope="module")
def artifact(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    learned = token_bytes(train_hf(900, texts))[256:]
    entries = Vocabulary().extended([Entry(text, "learned") for text in learned])
    entries.save(folder / VOCABULARY_FILE)
    save_folder(to_tokenizers(entries), 20, folder / "hf")
    return folder


@pytest.fixture
def documents(texts: list[str], tmp_path: Path) -> Path:
    facts = {"origin": "o", "cluster": "", "decisions": "{}", "split": "train"}
    rows = [{"id": str(n), "text": text, "messages": "", **facts} for n, text in enumerate(texts)]
    rows.insert(3, {"id": "c", "text": "", "messages": json.dumps(CONVERSATION), **facts})
    path = tmp_path / "00000.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_both_encoders_give_the_same_batch(artifact: Path, documents: Path, tmp_path: Path) -> None:
    count = pq.ParquetFile(documents).metadata.num_rows
    assert encode_batch(Job(documents, 0, count, artifact / "hf", tmp_path / "ours")) == count
    assert isinstance(plain_encoder(artifact / "hf").__self__, Encoder)  # type: ignore[attr-defined]
    alone = shutil.copytree(artifact / "hf", tmp_path / "exported" / "hf")  # without its vocabulary
    encode_batch(Job(documents, 0, count, alone, tmp_path / "theirs"))
    for kind in ("tokens", "arrow"):
        assert (tmp_path / f"ours.{kind}").read_bytes() == (tmp_path / f"theirs.{kind}").read_bytes()


def test_what_is_written_is_the_text(
    artifact: Path, documents: Path, texts: list[str], tmp_path: Path
) -> None:
    encode_batch(Job(documents, 80, 83, artifact / "hf", tmp_path / "batch"))
    ids = np.fromfile(tmp_path / "batch.tokens", np.uint16).tolist()
    assert load(artifact / "hf").decode(ids) == "".join(text + "<|end_of_text|>" for text in texts[79:])


def test_a_lone_surrogate_is_refused(artifact: Path) -> None:
    with pytest.raises(TextError, match="U\\+D800"):
        plain_encoder(artifact / "hf")(["\ud800"])
