import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from stemma.core.artifact import Artifact, Store
from stemma.core.errors import DamagedError
from stemma.core.stage import execute
from tokenizer.config import TokenizerConfig
from tokenizer.errors import TextError, VocabularyError
from tokenizer.learning.sample import Part, read_documents, survey
from tokenizer.learning.sentencepiece_backend import carry_over, train_model, with_specials
from tokenizer.load import encode_text, load, token_bytes
from tokenizer.specials import CONTROL, MARKUP, NAMED, special_tokens
from tokenizer.stage import TokenizerStage, texts
from tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

STAGE = {"name": "rest", "weights": {"web": 1.0}}

unicode_text = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
        st.sampled_from("\u2581 \n\t\r0\x00\u200d中é"),
        st.sampled_from([*NAMED, "<0x0A>", "<unk>", "Ġ", "    ", "def "]),
    ),
    max_size=16,
).map("".join)


def make(corpus: Artifact, root: Path, **changes) -> Artifact:
    config = TokenizerConfig(
        **{"vocab_size": 2048, "special_slots": 64, "source_bytes": 2_000_000, **changes}
    )
    return execute(TokenizerStage("tokenizer", config, {"corpus": corpus}), Store(root))


@pytest.fixture(scope="module")
def of_id(tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    return token_bytes(tokenizer)


@settings(max_examples=300, deadline=None)
@given(text=unicode_text)
def test_every_text_round_trips_and_its_bytes_are_accounted_for(
    tokenizer: PreTrainedTokenizerFast, of_id: list[bytes], text: str
) -> None:
    (plain,) = encode_text(tokenizer, [text])
    assert tokenizer.decode(plain) == text
    assert b"".join(of_id[i] for i in plain) == text.encode()
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert not {tokenizer.convert_tokens_to_ids(token) for token in CONTROL} & set(plain)


@settings(max_examples=100, deadline=None)
@given(text=unicode_text)
def test_readers_agree(readers, text: str) -> None:
    tokenizers_library, transformers_library = readers
    ids = tokenizers_library.encode(text).ids
    assert transformers_library(text).input_ids == ids


@pytest.fixture(scope="module")
def readers(artifact: Artifact) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    folder = str(artifact.path / "hf")
    return Tokenizer.from_file(f"{folder}/tokenizer.json"), AutoTokenizer.from_pretrained(folder)


def test_real_text_round_trips(tokenizer: PreTrainedTokenizerFast, corpus: Artifact) -> None:
    written = [document.text for document in read_documents([corpus.path], "valid")]
    for text, ids in zip(written, encode_text(tokenizer, written), strict=True):
        assert tokenizer.decode(ids) == text
        assert len(ids) < len(text.encode())


def test_special_tokens_are_the_last_entries(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 2048
    assert tokenizer.convert_tokens_to_ids(list(NAMED)) == list(range(1984, 1984 + len(NAMED)))
    assert tokenizer.convert_ids_to_tokens(2047) == f"<|reserved_special_token_{64 - len(NAMED) - 1}|>"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (NAMED[0], NAMED[1], NAMED[1])
    assert tokenizer.clean_up_tokenization_spaces is False
    assert tokenizer.truncation_side == "left"
    assert tokenizer.model_max_length == 131_072


def test_the_reference_numbering_at_full_size() -> None:
    assert TokenizerConfig().learned_size == 128_000


def test_markup_survives_skipping_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("".join(NAMED)).input_ids
    assert len(ids) == len(NAMED)
    kept = tokenizer.decode(ids, skip_special_tokens=True)
    assert kept == "".join(token for token in NAMED if token in MARKUP)


def test_digits_are_never_merged(tokenizer: PreTrainedTokenizerFast) -> None:
    for raw in token_bytes(tokenizer)[: tokenizer.convert_tokens_to_ids(NAMED[0])]:
        text = raw.decode(errors="replace")
        assert len(text) == 1 or not any(character.isdigit() for character in text), text
    assert len(encode_text(tokenizer, ["31415926535"])[0]) == 11


def test_an_export_beside_a_model_config_loads_as_the_same_tokenizer(
    artifact: Artifact, tmp_path: Path
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(artifact.path / "hf", folder)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "youtu", "architectures": ["YoutuForCausalLM"]})
    )
    loaded = AutoTokenizer.from_pretrained(str(folder))
    original = load(artifact.path / "hf")
    assert loaded.chat_template == original.chat_template
    assert "begin_of_tool_description" in loaded.chat_template
    text = "def f(x): return x  # <think> 中 42"
    assert loaded(text).input_ids == original(text).input_ids
    settings_file = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings_file["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert "chat_template" in settings_file


def test_report_counts_every_validation_byte(artifact: Artifact, corpus: Artifact, tokenizer) -> None:
    report = json.loads(artifact.file("report.json").read_text())
    rows = {row["name"]: row for row in report["groups"] if row["group"] == "domain"}
    assert set(rows) == {"code", "web"}
    for domain, row in rows.items():
        texts = [
            document.text for document in read_documents([corpus.path], "valid") if document.domain == domain
        ]
        ours = row["by"]["ours"]
        assert row["documents"] == len(texts) > 0
        assert row["bytes"] == sum(len(text.encode()) for text in texts)
        assert ours["tokens"] == sum(map(len, encode_text(tokenizer, texts)))
        assert artifact.summary["bytes_per_token"][domain] == ours["bytes_per_token"]
        assert ours["bytes_per_token"] == pytest.approx(row["bytes"] / ours["tokens"], abs=1e-4)


def test_same_input_same_bytes_whatever_the_threads(
    corpus: Artifact, trajectories: Artifact, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; from stemma.core.artifact import Store, open_artifact;"
        "from stemma.core.stage import Execution, execute; from tokenizer.config import TokenizerConfig;"
        "from tokenizer.stage import TokenizerStage;"
        "corpus, trajectories, root, workers = sys.argv[1:];"
        "inputs = {'trajectories': open_artifact(Path(trajectories)), 'corpus': open_artifact(Path(corpus))};"
        "configs = [TokenizerConfig(backend=backend, vocab_size=1024, special_slots=64, source_bytes=500_000)"
        " for backend in ('bpe', 'sentencepiece')];"
        "stages = [TokenizerStage('tokenizer', config, inputs) for config in configs];"
        "run = Execution(workers=int(workers));"
        "print(*(execute(stage, Store(Path(root)), run).path for stage in stages), sep='\\n')"
    )
    files = []
    for workers in ("1", "3"):
        arguments = [str(corpus.path), str(trajectories.path), str(tmp_path / workers), workers]
        environment = {**os.environ, "PYTHONHASHSEED": workers}
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        made = [Path(line) for line in done.stdout.split()]
        assert len(set(made)) == 2, "one of each backend"
        files.append([json.loads((path / "manifest.json").read_text())["files"] for path in made])
    assert files[0] == files[1]


def test_sentencepiece_reads_the_artifact_without_us(artifact: Artifact) -> None:
    path = artifact.path / "sentencepiece" / "tokenizer.model"
    assert path.is_file() == (artifact.manifest["config"]["backend"] == "sentencepiece")
    if path.is_file():
        alone, ours = sentencepiece.SentencePieceProcessor(model_file=str(path)), load(artifact.path / "hf")
        assert alone.get_piece_size() == len(ours)
        assert alone.piece_to_id(NAMED[1]) == ours.eos_token_id
        line = "    return fibonacci(n - 1)  # naïve, 中 42"
        assert alone.encode(line) == encode_text(ours, [line])[0]


def test_sentencepiece_itself_gives_the_same_ids(corpus: Artifact) -> None:
    texts = [document.text for document in read_documents([corpus.path], "train")][:60]
    model = train_model(1984, texts)
    original = sentencepiece.SentencePieceProcessor(model_proto=with_specials(model, special_tokens(64)))
    ours = carry_over(model)
    assert original.get_piece_size() == 2048
    assert [original.piece_to_id(token) for token in NAMED] == list(range(1984, 1984 + len(NAMED)))
    think = original.encode("a<think>b<|User|>")
    assert original.piece_to_id("<think>") in think
    assert original.piece_to_id("<|User|>") not in think, "text cannot spell a turn mark"
    lines = [
        line for document in read_documents([corpus.path], "valid") for line in document.text.split("\n")
    ]
    assert len(lines) > 500
    for line in lines:
        assert ours.encode(line).ids == original.encode(line), line


def test_a_source_above_its_bytes_gives_a_seeded_choice(corpus: Artifact) -> None:
    def chosen(**changes) -> tuple[list[Part], set[str]]:
        config = TokenizerConfig(**{"source_bytes": 300_000, **changes})
        parts = survey([corpus.path], config)
        ids = {
            document.id
            for document in read_documents([corpus.path], "train")
            if any(part.has("stdlib", document, config.seed) for part in parts)
        }
        return parts, ids

    parts, ids = chosen()
    assert (parts, ids) == chosen()
    assert chosen(seed=1)[1] != ids
    code, web = parts
    assert (code.domain, web.domain) == ("code", "web")
    assert 300_000 <= code.sampled_bytes < code.available_bytes
    assert web.sampled_bytes == web.available_bytes, "a part with less gives all it has"
    sizes = {document.id: len(document.text.encode()) for document in read_documents([corpus.path], "train")}
    assert ids < set(sizes), "validation documents are never learned from"
    assert sum(sizes[identifier] for identifier in ids) == code.sampled_bytes + web.sampled_bytes
    assert chosen(source_bytes=10**9)[1] == set(sizes)


def test_sentencepiece_reads_less_of_what_weighs_less(corpus: Artifact) -> None:
    parts = survey([corpus.path], TokenizerConfig())
    code, web = parts

    def size(share: float) -> int:
        return sum(map(len, texts([corpus.path], parts, 0, {code: share, web: 1.0})))

    everything = sum(map(len, texts([corpus.path], parts, 0)))
    assert size(1.0) == everything
    assert size(0.0) == everything - sum(map(len, texts([corpus.path], [code], 0)))
    assert size(0.0) < size(0.3) < size(0.6) < size(1.0)


def test_nothing_is_learned_from_a_held_out_source(make_corpus, documents, tmp_path: Path) -> None:
    words = " ".join(f"zq{index}xv" for index in range(50)) + "\n"
    odd = [{**row, "source": "odd", "text": words * 40} for row in documents[:10]]
    corpus = make_corpus([*documents[10:], *odd])
    with_it = make(corpus, tmp_path / "with")
    without = make(corpus, tmp_path / "without", held_out=("odd",))
    assert any(b"zq" in text for text in Vocabulary.load(with_it.path / VOCABULARY_FILE).texts)
    assert not any(b"zq" in text for text in Vocabulary.load(without.path / VOCABULARY_FILE).texts)
    rows = {
        row["name"]: row
        for row in json.loads(without.file("report.json").read_text())["groups"]
        if row["group"] == "source"
    }
    assert rows["odd"]["held_out"]
    assert rows["odd"]["documents"] == 10, "all of it is there to measure on"
    assert not rows["stdlib"]["held_out"]
    with pytest.raises(VocabularyError, match="held_out names nowhere; the sources are odd, stdlib"):
        make(corpus, tmp_path / "unknown", held_out=("nowhere",))


@pytest.mark.parametrize("backend", ["bpe", "sentencepiece"])
def test_too_little_text_is_an_error_not_a_smaller_vocabulary(
    make_corpus, documents, tmp_path, backend
) -> None:
    tiny = make_corpus([{**row, "text": "one two three one two three"} for row in documents[:6]])
    with pytest.raises(VocabularyError, match="1,728 entries.*only 10" if backend == "bpe" else "1984"):
        make(tiny, tmp_path, backend=backend)
    assert not list((tmp_path / "artifacts").glob("*/manifest.json")), "nothing may be sealed"


def test_an_empty_corpus_is_refused(make_corpus, documents, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="no documents"):
        make(make_corpus([]), tmp_path)
    with pytest.raises(VocabularyError, match="no training text"):
        make(make_corpus([{**row, "split": "valid"} for row in documents[:4]]), tmp_path)
    with pytest.raises(VocabularyError, match="the corpus has code"):
        make(
            make_corpus([row for row in documents if row["domain"] == "code"]),
            tmp_path,
            stages=[{"name": "general", "weights": {"web": 1}}],
        )


def test_a_damaged_or_foreign_file_is_refused_by_name(make_corpus, documents, tmp_path: Path) -> None:
    corpus = make_corpus(documents[:8])
    victim = sorted(corpus.path.glob("documents/*/*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(DamagedError, match=victim.name):
        list(read_documents([corpus.path], "train"))
    foreign = make_corpus([{"id": "x", "text": "y", "split": "train"}])
    with pytest.raises(DamagedError, match=r"no column \['domain', 'language'\]"):
        list(read_documents([foreign.path], "train"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DamagedError, match="not a readable tokenizer"):
        load(tmp_path)
    with pytest.raises(DamagedError, match=r"no tokenizer\.json"):
        load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"vocab_size": 320, "special_slots": 64}, "need more than 321"),
        ({"special_slots": 11}, "special_slots"),
        ({"stages": [{"name": "a", "weights": {"web": 0.0}}]}, "not all 0"),
        ({"stages": [{"name": "a", "weights": {"web": -1.0, "code": 2.0}}]}, "0 or more"),
        ({"stages": [{"name": "a", "weights": {"web": float("inf")}}]}, "finite"),
        ({"stages": []}, "at least 1"),
        ({"stages": [{**STAGE, "name": "a"}, {**STAGE, "name": "b"}]}, "share or entries for a"),
        ({"stages": [{**STAGE, "name": "a", "share": 0.5}]}, "give no share or entries"),
        ({"stages": [{**STAGE, "name": "a", "entries": 10**6}, {**STAGE, "name": "b"}]}, "leave nothing"),
        ({"stages": [{**STAGE, "name": "a", "entries": 1, "share": 0.1}, STAGE]}, "not both"),
        ({"stages": [{**STAGE, "entries": 1}, STAGE]}, "one name"),
        ({"backend": "sentencepiece", "scaffold": True}, "without scaffolds"),
        ({"base": {"sha256": "0" * 64}}, "either path, or package"),
        ({"backend": "wordpiece"}, "backend"),
    ],
)
def test_impossible_configs_are_refused(changes, complaint) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TokenizerConfig(**changes)


def test_lone_surrogates_are_refused_with_their_place(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TextError, match=r"character 2 .*U\+DC80"):
        encode_text(tokenizer, ["fine", "ab\udc80"])


def test_documents_cannot_forge_special_tokens_but_the_setting_is_restored(tokenizer) -> None:
    (plain,) = encode_text(tokenizer, ["<|end_of_text|>"])
    assert tokenizer.eos_token_id not in plain
    assert tokenizer("<|end_of_text|>").input_ids == [tokenizer.eos_token_id]


def test_a_corpus_with_nothing_to_measure_on_still_gives_a_tokenizer(
    make_corpus, documents, tmp_path: Path
) -> None:
    artifact = make(make_corpus([{**row, "split": "train"} for row in documents[:40]]), tmp_path)
    assert artifact.summary["bytes_per_token"] == {}
    assert json.loads(artifact.file("report.json").read_text())["groups"] == []
    assert len(load(artifact.path / "hf")) == 2048
