"""Stages of learning: each adds its own entries, a crash costs none of them, pruned places are refilled."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from stemma.core.artifact import Artifact, Store
from stemma.core.errors import DamagedError
from stemma.core.progress import Progress
from stemma.core.stage import execute
from tokenizer.config import RanksFile, TokenizerConfig
from tokenizer.encoding.encoder import Encoder
from tokenizer.errors import VocabularyError
from tokenizer.learning import staged
from tokenizer.learning.merging import extend
from tokenizer.learning.sample import Part, read_documents
from tokenizer.learning.wordfiles import write_words
from tokenizer.learning.words import Words
from tokenizer.load import encode_text, load
from tokenizer.stage import TokenizerStage
from tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

POEM = "床前明月光，疑是地上霜。举头望明月，低头思故乡。\n"
STAGES = (
    {"name": "general", "entries": 700, "weights": {"web": 1.0, "code": 0.3}, "languages": ["en"]},
    {"name": "chinese", "entries": 8, "weights": {"web": 1.0}, "languages": ["zh"]},
    {"name": "code", "weights": {"code": 1.0}},
)
ONE = ({"name": "general", "weights": {"web": 0.5, "code": 0.5}},)


@pytest.fixture(scope="module")
def mixed(make_corpus, documents) -> Artifact:
    """English, code, and Chinese of its own source."""
    about = {"source": "poems", "domain": "web", "language": "zh"}
    poems = [{**documents[0], **about, "id": f"zh{index}", "text": POEM * 5} for index in range(4)]
    return make_corpus([*documents, *poems])


def make(corpus: Artifact, root: Path, listeners=(), **changes) -> Artifact:
    config = TokenizerConfig(**{"vocab_size": 2048, "special_slots": 64, "stages": STAGES, **changes})
    stage = TokenizerStage("tokenizer", config, {"corpus": corpus})
    return execute(stage, Store(root), None, list(listeners))


@pytest.fixture(scope="module")
def whole(mixed: Artifact, tmp_path_factory) -> Artifact:
    return make(mixed, tmp_path_factory.mktemp("whole"))


def vocabulary_of(artifact: Artifact) -> Vocabulary:
    return Vocabulary.load(artifact.path / VOCABULARY_FILE)


def hashes(artifact: Artifact) -> dict[str, str]:
    return {name: file["sha256"] for name, file in artifact.manifest["files"].items()}


def test_each_stage_adds_its_entries_behind_the_earlier_ones(
    mixed: Artifact, whole: Artifact, tmp_path: Path
) -> None:
    entries = vocabulary_of(whole).entries
    stages = [entry.stage for entry in entries]
    assert stages == ["bytes"] * 256 + ["general"] * 700 + ["chinese"] * 8 + ["code"] * 1020
    assert "明月".encode() in {entry.text for entry in entries if entry.stage == "chinese"}
    learning = json.loads(whole.file("report.json").read_text())["learning"]
    assert {row["name"]: row["entries"] for row in learning} == {"general": 700, "chinese": 8, "code": 1020}
    without = make(mixed, tmp_path, stages=(STAGES[0], STAGES[2]))
    assert vocabulary_of(without).texts[:956] == vocabulary_of(whole).texts[:956]


def test_a_crash_between_stages_costs_no_stage_and_changes_nothing(
    mixed: Artifact, whole: Artifact, tmp_path: Path
) -> None:
    seen: list[str] = []

    def crash(event) -> None:
        seen.append(event.text)
        if event.text == "code":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(mixed, tmp_path, [crash])
    assert "general" in seen
    assert not list((tmp_path / "artifacts").glob("*/manifest.json"))
    again: list[str] = []
    artifact = make(mixed, tmp_path, [lambda event: again.append(event.text)])
    assert "general" not in again, "a finished stage is not repeated"
    assert hashes(artifact) == hashes(whole)


def ranks_file(texts: list[bytes], path: Path) -> dict[str, str]:
    path.write_text("".join(f"{base64.b64encode(text).decode()} {rank}\n" for rank, text in enumerate(texts)))
    return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_published_vocabulary_is_begun_from_and_left_room_for(mixed: Artifact, tmp_path: Path) -> None:
    published = [b" t", b"he", b" the", b"23", b"in", b"def", b" de", "的".encode()[:2], "的".encode()]
    pinned = ranks_file([*Vocabulary().texts, *published], tmp_path / "ranks")
    entries = vocabulary_of(make(mixed, tmp_path, base=pinned)).entries
    base = [entry.text for entry in entries if entry.stage == "base"]
    assert base[:3] == [b" t", b"he", b" the"]
    assert b"23" not in base, "behind single digits no text can produce it"
    assert "的".encode() not in base, "not of the scripts to keep"
    assert len(entries) == 1984
    with pytest.raises(VocabularyError, match=r"nothing of the 1,728 is left"):
        make(mixed, tmp_path, base=pinned, stages=({**STAGES[0], "entries": 1725}, STAGES[2]))
    with pytest.raises(DamagedError, match="ranks"):
        make(mixed, tmp_path, base={**pinned, "sha256": "0" * 64})


def test_polluted_entries_go_and_the_last_stage_fills_their_places(
    make_corpus, documents, tmp_path: Path
) -> None:
    spam = "write to sales@gmail or offers@yahoo, see us:www or me,https or x.facebook today\n" * 30
    corpus = make_corpus([{**row, "text": spam + row["text"]} for row in documents])
    artifact = make(corpus, tmp_path, stages=ONE)
    left = make(corpus, tmp_path / "unpruned", stages=ONE, prune={"addresses": False})
    vocabulary, report = vocabulary_of(artifact), json.loads(artifact.file("report.json").read_text())
    gone = {bytes.fromhex(row["bytes"]) for row in report["pruned"]}
    assert b"@gmail" in gone
    assert gone <= set(vocabulary_of(left).texts), "they would be there"
    assert not gone & set(vocabulary.texts)
    assert len(vocabulary) == len(vocabulary_of(left)) == 1984


def learn(words: dict[bytes, int], entries: int, folder: Path, **changes) -> staged.Learned:
    """One stage of so many entries from these words; drafts are kept in the folder."""
    part = Part("somewhere", "web", "en", 1, 1, 1)
    path = folder / f"{part.name}.arrow"
    write_words(path, [Words.of(words)], sum(len(word) * count for word, count in words.items()))
    config = TokenizerConfig(
        vocab_size=256 + 12 + entries,
        special_slots=12,
        stages=({"name": "only", "weights": {"web": 1.0}},),
        **changes,
    )
    return staged.learn(config, {part: path}, Vocabulary(), folder, Progress("tokenizer"))


SPAM = {b"@gmail": 50, b"@yahoo": 40, b"honest": 9}


def test_places_of_pruned_entries_go_to_the_next_pairs(tmp_path: Path) -> None:
    found = learn(SPAM, 12, tmp_path)
    assert [row["entry"] for row in found.pruned] == ["@gmail", "@yahoo"]
    assert [text for text in found.vocabulary.texts if len(text) == 6] == [b"honest"]
    assert found.stages[0]["entries"] == 12


def test_places_nothing_is_left_to_fill_are_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        VocabularyError, match=r"took out 2 .*to learn 2 .*only 1 .*a rule of tokenizer\.prune"
    ):
        learn(SPAM, 13, tmp_path)
    (tmp_path / "only.parquet").unlink()
    assert len(learn(SPAM, 13, tmp_path, prune={"addresses": False}).vocabulary) == 256 + 13


def test_pruning_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "MOST_ROUNDS", 1)
    with pytest.raises(VocabularyError, match=r"after 1 rounds .*2 in the last"):
        learn(SPAM, 12, tmp_path)


def test_a_draft_that_is_not_this_runs_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    expected = learn(SPAM, 12, tmp_path)
    draft = tmp_path / "only.parquet"
    assert learn(SPAM, 12, tmp_path) == expected, "resumed from its draft"
    extend(Vocabulary(), Words.of(SPAM), 11, stage="only").save(draft)
    with pytest.raises(DamagedError, match=r"only\.parquet has 267 entries; .*Remove it"):
        learn(SPAM, 12, tmp_path)
    draft.write_bytes(draft.read_bytes()[:-40])
    with pytest.raises(DamagedError, match=r"only\.parquet is not a readable .*Remove it"):
        learn(SPAM, 12, tmp_path)
    draft.unlink()
    assert learn(SPAM, 12, tmp_path) == expected


def test_scaffolds_build_entries_and_are_never_given_out(mixed: Artifact, tmp_path: Path) -> None:
    artifact = make(mixed, tmp_path, scaffold=True)
    vocabulary = vocabulary_of(artifact)
    assert len(vocabulary) == 1984
    assert vocabulary.scaffolds.sum() > 10
    assert not (artifact.path / "tiktoken").exists(), "tiktoken cannot express them"
    tokenizer, encoder = load(artifact.path / "hf"), Encoder.load(artifact.path)
    texts = [document.text for document in read_documents([mixed.path], "valid")]
    encoded = encode_text(tokenizer, texts)
    assert encoded == [ids.tolist() for ids in encoder.encode_batch(texts)]
    for text, ids in zip(texts, encoded, strict=True):
        assert max(ids) < 1984
        assert tokenizer.decode(ids) == text


def test_a_base_needs_one_place_to_come_from() -> None:
    with pytest.raises(ValueError, match="either path, or package"):
        RanksFile(path="x", package="y", version="1", archive="z", member="m", sha256="0" * 64)
