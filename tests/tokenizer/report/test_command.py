"""``stemma tokenizer``: the report, pedigrees and comparisons of what is on disk."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from stemma.cli import app
from stemma.core.artifact import Store
from stemma.core.config import Config
from stemma.core.errors import StemmaError
from stemma.core.files import read_json, write_json
from stemma.core.stage import Stage, Workspace, execute
from tests.tokenizer.report.samples import row_of, taken_out, texts
from tokenizer.errors import VocabularyError
from tokenizer.export.hf import save_folder, to_tokenizers
from tokenizer.report.encoders import from_vocabulary
from tokenizer.report.page import report_page
from tokenizer.report.pedigree import pedigree_of, text_of
from tokenizer.report.texts import file_texts, measured_texts
from tokenizer.report.write import open_encoder
from tokenizer.specials import END_OF_TEXT
from tokenizer.vocabulary import VOCABULARY_FILE, Entry, Vocabulary


def test_a_pedigree_says_what_an_entry_is_made_of(vocabulary: Vocabulary) -> None:
    found = pedigree_of(vocabulary, b" model", [taken_out(b" model", "a twin"), taken_out(b"mo", "no")])
    assert found.made is not None
    assert [part.entry.text for part in found.made.parts] == [b" mo", b"del"]
    assert vocabulary.texts[found.made.rank] == b" model"
    assert vocabulary.token_bytes[found.id or 0] == b" model"
    assert {(vocabulary.texts[a], vocabulary.texts[b]) for a, b in found.splits} == {
        (b" mo", b"del"),
        (b" ", b"model"),
    }
    assert found.pruned == (taken_out(b" model", "a twin"),)
    inner = pedigree_of(vocabulary, b"mo")
    assert [vocabulary.texts[rank] for rank in inner.inside] == [b" mo", b"model"]
    unknown = pedigree_of(vocabulary, b" models")
    assert (unknown.made, unknown.becomes) == (None, (b" model", b"s"))
    assert text_of(vocabulary, found.id or 0) == b" model"
    specials = {END_OF_TEXT: len(vocabulary)}
    assert text_of(vocabulary, len(vocabulary), specials) == END_OF_TEXT.encode()
    for wrong in (-1, len(vocabulary) + 1):
        with pytest.raises(VocabularyError, match=f"ids are 0 to {len(vocabulary)}"):
            text_of(vocabulary, wrong, specials)
    with pytest.raises(VocabularyError, match="at least one byte"):
        pedigree_of(vocabulary, b"")


def test_a_scaffold_has_no_id_and_says_what_it_becomes() -> None:
    made = Vocabulary().extended([Entry(b"ab", "a", 9, scaffold=True), Entry(b"abc", "a", 8)])
    found = pedigree_of(made, b"ab")
    assert (found.id, found.becomes) == (None, (b"a", b"b"))
    assert "scaffold" in found.facts["id"]
    encoder = from_vocabulary("s", "S", made, 0)
    ids = [encoder.encode([text])[0].tolist() for text in ("ab", "abc")]
    assert [[encoder.token_bytes[index] for index in row] for row in ids] == [[b"a", b"b"], [b"abc"]]


class Written(Stage):
    """An artifact of given files."""

    def run(self, work: Workspace) -> dict[str, Any]:
        self.write(work.path)
        return {}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Store:
    report = {
        "pruned": [taken_out(b"spam", "a phrase")],  # no schema: of a version that measured otherwise
        "learning": [{"name": "base", "entries": 14, "words": 5, "bytes": 6, "last_count": 7}],
        "tokenizers": [{"name": "ours", "title": "Ours"}, {"name": "hf_bpe", "title": "Hugging Face BPE"}],
    }
    return make_store(tmp_path_factory.mktemp("store"), vocabulary, report)


def make_store(root: Path, vocabulary: Vocabulary, report: dict[str, Any]) -> Store:
    """A store with a run ``demo``: a corpus, and a tokenizer that held ``books`` out."""
    store = Store(root)

    class Corpus(Written):
        kind = "corpus"

        def write(self, path: Path) -> None:
            for source in ("books", "repo", "docs"):
                rows = [
                    {
                        "id": text.id,
                        "text": "".join(text.pieces) + END_OF_TEXT,
                        "domain": text.domain,
                        "language": text.language,
                        "split": "valid" if at % 2 == 0 else "train",
                    }
                    for at, text in enumerate(text for text in texts() if text.source == source)
                ]
                (path / "documents" / source).mkdir(parents=True)
                pq.write_table(pa.Table.from_pylist(rows), path / "documents" / source / "00000.parquet")

    class Made(Written):
        kind = "tokenizer"

        def write(self, path: Path) -> None:
            vocabulary.save(path / VOCABULARY_FILE)
            save_folder(to_tokenizers(vocabulary), 16, path / "hf")
            write_json(path / "report.json", report)

    class HeldOut(Config):
        held_out: tuple[str, ...] = ("books",)

    corpus = execute(Corpus("corpus", Config(), {}), store)
    made = {"corpus": corpus, "tokenizer": execute(Made("tokenizer", HeldOut(), {"corpus": corpus}), store)}
    nodes = {
        name: {
            "fingerprint": artifact.fingerprint,
            "identity": {"inputs": {} if name == "corpus" else {"corpus": str(corpus)}},
            "sealed": True,
        }
        for name, artifact in made.items()
    }
    write_json(store.root / "demo" / "run.json", {"profile": "demo", "nodes": nodes})
    return store


def ask(store: Store, *arguments: str) -> str:
    result = CliRunner().invoke(
        app, ["tokenizer", *arguments, "--root", str(store.root)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.output


def test_only_documents_nothing_was_learned_from_are_measured(store: Store) -> None:
    folder = next(store.artifacts.glob("corpus-*"))
    found = list(measured_texts([folder], held_out=["books"]))
    assert {(text.source, text.held_out): 0 for text in found}.keys() == {
        ("books", True),
        ("docs", False),
        ("repo", False),
    }
    by = {source: sorted(text.id for text in found if text.source == source) for source in ("books", "repo")}
    assert len(by["books"]) == 14
    assert by["repo"] == sorted(f"c{number}" for number in range(0, 14, 2))
    assert not any(END_OF_TEXT in piece for text in found for piece in text.pieces)
    fewer = list(measured_texts([folder], held_out=["books"], source_bytes=200, seed=1))
    size = sum(len(piece) for text in fewer if text.source == "books" for piece in text.pieces)
    assert 0 < size < 260
    assert {text.id for text in fewer} < {text.id for text in found}
    other = list(measured_texts([folder], held_out=["books"], source_bytes=200, seed=2))
    assert {text.id for text in other} != {text.id for text in fewer}


def test_the_command_line_writes_the_report(store: Store) -> None:
    path = Path(ask(store, "report", "demo").strip())
    assert path == store.root / "demo" / "reports" / "tokenizer.html"
    found = read_json(path.with_suffix(".json"))
    assert row_of(found, "source", "books")["held_out"]
    assert found["pruned"] == [taken_out(b"spam", "a phrase")]
    assert found["tokenizers"][0]["title"] == "demo"
    assert found["learning"][0]["words"] == 5
    assert "Hugging Face BPE is not compared: it was learned" in path.read_text("utf-8")
    assert [row["stage"] for row in found["stages"]] == ["bytes", "base", "general"]
    again = Path(ask(store, "report", "demo", *["--anchor", "qwen3"] * 2, "--offline").strip())
    assert read_json(again.with_suffix(".json"))["groups"] == found["groups"]
    assert "Qwen3 is not compared" in again.read_text("utf-8")


def test_a_report_that_was_sealed_is_drawn_as_it_is(
    report: dict[str, Any], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    sealed = make_store(tmp_path, vocabulary, report)
    path = Path(ask(sealed, "report", "demo").strip())
    assert read_json(path.with_suffix(".json")) == json.loads(json.dumps(report))
    assert path.read_text("utf-8") == report_page(report, "demo")


def test_the_command_line_shows_an_entry(store: Store, vocabulary: Vocabulary) -> None:
    said = ask(store, "show", " model", "--run", "demo")
    for part in ("' model'", "general", "' mo'", "'del'", "when it was learned"):
        assert part in said
    index = vocabulary.token_bytes.index(b" model")
    assert ask(store, "show", str(index), "--id", "--run", "demo") == said
    assert ask(store, "show", r"\x20model", "--escapes", "--run", "demo") == said
    assert "taken out: spam, a phrase; added by base, seen 2.5 times" in ask(
        store, "show", "spam", "--run", "demo"
    )
    special = ask(store, "show", END_OF_TEXT, "--run", "demo")
    assert "a special token" in special
    assert ask(store, "show", str(len(vocabulary) + 1), "--id", "--run", "demo") == special
    for wrong, reason in ((["many", "--id"], "no id"), ([r"\x2", "-e"], "cannot be read")):
        with pytest.raises(StemmaError, match=reason):
            ask(store, "show", *wrong, "--run", "demo")


def test_the_command_line_compares_runs_folders_and_files(store: Store, tmp_path: Path) -> None:
    folder = str(next(store.artifacts.glob("tokenizer-*")) / "hf")
    said = ask(store, "compare", "demo", folder, "--html", str(tmp_path / "out"))
    assert "1.000" in said
    assert "books" in said
    assert (tmp_path / "out" / "tokenizer.html").is_file()
    text = tmp_path / "[red]a.txt"
    text.write_bytes(b"the model \xff " * 9)
    assert text.name in ask(
        store, "compare", "demo", "--text", str(text), "--text", folder + "/tokenizer.json"
    )
    for arguments, reason in (
        (["demo", "demo"], "named twice"),
        (["demo", "nowhere"], "is no tokenizer"),
        (["demo", "o200k", "--offline"], "cannot be had"),
        ([folder], "say with --on RUN"),
        (["demo", "--on", "nowhere"], "no run 'nowhere'"),
        (["demo", "--text", str(tmp_path / "none")], "cannot be read"),
    ):
        with pytest.raises(StemmaError, match=reason):
            ask(store, "compare", *arguments)
    with pytest.raises(StemmaError, match="no published vocabulary"):
        ask(store, "report", "demo", "--anchor", "gpt2")


def test_a_damaged_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(StemmaError, match=re.escape(str(tmp_path / "tokenizer.json"))):
        open_encoder(str(tmp_path), tmp_path)


@settings(max_examples=30)
@given(st.binary(max_size=40))
def test_files_that_are_not_text_are_measured_all_the_same(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("text") / "a.bin"
    path.write_bytes(data)
    (text,) = file_texts([path])
    assert text.pieces[0].encode().decode() == data.decode("utf-8", "replace")
