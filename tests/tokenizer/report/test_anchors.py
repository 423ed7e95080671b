"""Published vocabularies: pinned, cut as their makers cut, said to be missing where they are."""

import io
import tarfile
from pathlib import Path

import pytest
import tiktoken_ext.openai_public

from stemma.core.files import sha256_file
from tokenizer.config import Anchor
from tokenizer.encoding.encoder import Encoder
from tokenizer.export.hf import to_tokenizers
from tokenizer.report import anchors as anchors_module
from tokenizer.report.anchors import ANCHORS, O200K, Published, load_anchor, load_anchors
from tokenizer.vocabulary import Vocabulary


def test_o200k_is_cut_as_tiktoken_cuts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken_ext.openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    known = tiktoken_ext.openai_public.o200k_base()
    assert known["pat_str"] == O200K
    assert known["special_tokens"] == anchors_module.O200K_SPECIALS


def test_anchors_come_from_a_pinned_archive_or_are_said_to_be_missing(
    vocabulary: Vocabulary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "packages" / "anchor-1.0.0.tgz"
    archive.parent.mkdir()
    data = to_tokenizers(vocabulary).to_str().encode()
    with tarfile.open(archive, "w:gz") as tarred:
        about = tarfile.TarInfo("package/tokenizer.json")
        about.size = len(data)
        tarred.addfile(about, io.BytesIO(data))
    given_to = Published(
        "Anchor", "npm", "anchor", "1.0.0", archive.name, sha256_file(archive), "package/tokenizer.json"
    )
    monkeypatch.setitem(ANCHORS, "llama3_1", given_to)
    found, missing = load_anchors(["llama3_1", "qwen3", "o200k"], tmp_path, offline=True)
    assert [encoder.name for encoder in found] == ["llama3_1"]
    assert found[0].encode([" model"])[0].tolist() == Encoder(vocabulary).encode(" model").tolist()
    assert [row["name"] for row in missing] == ["qwen3", "o200k"]
    assert "offline" in missing[0]["reason"]
    absent = Published(*(*list(vars(given_to).values())[:6], "package/nothing.json"))
    monkeypatch.setitem(ANCHORS, "llama3_1", absent)
    found, missing = load_anchors(["llama3_1"], tmp_path, offline=True)
    assert found == []
    assert "nothing.json" in missing[0]["reason"]


@pytest.mark.network
def test_published_vocabularies_give_the_ids_they_are_known_for(tmp_path: Path) -> None:
    hello: dict[Anchor, list[int]] = {
        "llama3_1": [15339, 1917],
        "o200k": [24912, 2375],
        "qwen3": [14990, 1879],
    }
    for name, ids in hello.items():
        assert load_anchor(name, tmp_path).encode(["hello world"])[0].tolist() == ids
    deepseek = load_anchor("deepseek_v3", tmp_path)
    ids = deepseek.encode(["hello 世界 1234\n"])[0]
    assert b"".join(deepseek.token_bytes[index] for index in ids).decode() == "hello 世界 1234\n"
