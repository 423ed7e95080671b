"""Formats: bytes to texts, with a counted reject for whatever is no text."""

import bz2
import gzip
import io
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.sources import (
    engram_wheel,
    factbook,
    item,
    markup,
    notebooks,
    pydoc,
    readers,
    source_code,
    streams,
    warc,
    wikitext,
)
from data_pipeline.sources.hypertext import charset_of, html_to_text, read_html
from stemma.core.errors import DamagedError

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


def opened(data: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(data))


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
    return f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/">{body}</mediawiki>'.encode()


def page(title: str, text: str, extra: str = "<ns>0</ns>") -> str:
    return f"<page><title>{title}</title>{extra}<revision><text>{text}</text></revision></page>"


def test_a_dump_gives_its_articles_and_no_redirects_or_talk_pages():
    data = dump(
        page("A", "Text &amp;lt; a"),
        page("B", "#REDIRECT [[A]]", '<ns>0</ns><redirect title="A"/>'),
        page("Talk:A", "talk", "<ns>1</ns>"),
    )
    stream = streams.decompressed(io.BytesIO(bz2.compress(data)))
    assert [(found.row, found.text) for found in readers.read_mediawiki(stream, "dump")] == [
        ("A", "A\n\nText < a")
    ]
    with pytest.raises(DamagedError, match="dump"):
        list(readers.read_mediawiki(opened(data[:-9]), "dump"))


def test_broken_lines_and_broken_utf8_are_rejects_with_a_rule_and_nothing_else_is_lost():
    data = b'{"text": "good"}\n\n{"text": 5}\n{"text": "caf\xe9"}\n{half\n[1]\n{"body": ""}\n{"text": "good"}'
    items = list(readers.read_jsonl(opened(data), "x.jsonl"))
    assert [(found.row, found.rule) for found in items] == [
        ("0", ""), ("2", "no_text"), ("3", "not_utf8"), ("4", "not_json"), ("5", "no_text"), ("6", "no_text"),
        ("7", ""),
    ]  # fmt: skip
    assert items[2].value == "byte 13"
    assert items[5].value == "no string under 'text'; keys: body"


def test_several_fields_are_joined_and_a_row_without_one_of_them_is_a_reject():
    rows = [
        {"prompt": "Why?", "choices": ["a", "b"], "answer": "So."},
        {"prompt": "", "choices": [], "answer": "So."},
        {"prompt": "Why?", "choices": None, "answer": 4},
        {"prompt": "Why?", "answer": "So."},
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    items = list(readers.read_jsonl(opened(data), "x", ("prompt", "choices", "answer")))
    assert [(found.text, found.rule) for found in items[:2]] == [("Why?\n\na\nb\n\nSo.", ""), ("So.", "")]
    assert [found.value for found in items[2:]] == [
        "no string under 'answer' but int",
        "no string under 'choices'; keys: prompt, answer",
    ]


def test_json_that_only_the_lenient_parser_takes_is_read():
    items = list(readers.read_jsonl(opened(b'{"text": "a\\ud800b", "score": NaN}'), "x"))
    assert [found.text for found in items] == ["a\ud800b"]


def parquet(table: pa.Table, rows: int = 1_000) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=rows)
    return buffer.getvalue()


def test_parquet_gives_rows_and_an_unreadable_file_is_refused_by_name():
    data = parquet(pa.table({"body": ["one", None, "two"], "n": [1, 2, 3]}))
    items = list(readers.read_parquet(io.BytesIO(data), "a.parquet", ["body"]))
    assert [(found.text, found.rule) for found in items] == [("one", ""), ("", "no_text"), ("two", "")]
    with pytest.raises(
        readers.SchemaError, match=r"a\.parquet has no column 'text'; its columns are body, n"
    ):
        list(readers.read_parquet(io.BytesIO(data), "a.parquet"))
    with pytest.raises(
        readers.SchemaError, match=r"a\.parquet: the column 'n' holds int64, expected strings"
    ):
        list(readers.read_parquet(io.BytesIO(data), "a.parquet", ["n"]))
    for cut in (0, 3, 50, len(data) - 1):
        with pytest.raises(DamagedError, match=r"a\.parquet"):
            list(readers.read_parquet(io.BytesIO(data[:cut]), "a.parquet", ["body"]))


def test_parts_of_a_parquet_file_are_its_row_groups_with_their_own_row_numbers():
    table = pa.table({"text": [f"{number} " * 50 for number in range(100)]})
    data = parquet(table, rows=9)
    ranges = readers.parquet_ranges(io.BytesIO(data), "a", 1_100)
    assert 3 < len(ranges) < 12
    parts = [
        found
        for start, stop, _ in ranges
        for found in readers.read_parquet(io.BytesIO(data), "a", start=start, stop=stop)
    ]
    assert parts == list(readers.read_parquet(io.BytesIO(data), "a"))
    assert [found.row for found in parts] == [str(number) for number in range(100)]


def test_dictionary_and_list_columns_are_texts_too():
    table = pa.table({"a": pa.array(["x", "y"]).dictionary_encode(), "b": [["1", "2"], []]})
    items = readers.read_parquet(io.BytesIO(parquet(table)), "a", ["a", "b"])
    assert [found.text for found in items] == ["x\n\n1\n2", "y"]


def test_a_long_text_comes_in_pieces_that_make_the_whole(monkeypatch):
    monkeypatch.setattr(readers, "TEXT_BYTES", 100)
    monkeypatch.setattr(readers, "MAX_LINE_BYTES", 300)
    text = "".join(f"line {number}\r\n" if number % 3 else f"{'x' * number}\n" for number in range(90))
    items = list(readers.read_text(opened(text.encode()), "a.txt"))
    assert "".join(found.text for found in items) == text
    assert [found.row for found in items] == [str(number) for number in range(len(items))]
    assert len(items) > 5
    broken = f"good\n{'y' * 301}\n".encode() + b"x" * 99 + b"\nbad \xe9\n" + b"fine\n" * 30
    rules = [found.rule for found in readers.read_text(opened(broken), "a.txt")]
    assert rules.count("line_too_long") == 1
    assert rules.count("not_utf8") == 1
    assert rules.count("") >= 2


def test_utf16_with_its_mark_is_text():
    (found,) = readers.read_text(opened("\ufeffcaf\u00e9".encode("utf-16-le")), "a.txt")
    assert found.text == "café"


def test_docstrings_come_with_their_name_and_signature():
    long = "Says something. " * 20
    module = f'class A:\n    def f(self, x: int = 3):\n        "{long}"\n    def g(self):\n        "Short."\n'
    (found,) = pydoc.read_docstrings(opened(module.encode()), "pkg/__init__.py")
    assert found.row == "pkg.A.f"
    assert found.text.startswith("pkg.A.f(self, x: int=3)\n\nSays something.")
    for broken in (
        b"def (",
        b"not " * 100_000 + b"x",
        b"def f(x=" + b"1+" * 900 + b'1):\n    "' + b"y" * 300 + b'"',
    ):
        assert [each.rule for each in pydoc.read_docstrings(opened(broken), "x.py")] == ["not_python"]


def test_a_country_becomes_outlines_by_section():
    country = {
        "Government": {"Country name": {"conventional short form": {"text": "Freedonia"}}},
        "Geography": {
            "Climate": {"text": "<p>mild &amp; wet</p>"},
            "Area": {"total ": {"text": "5 sq km"}, "note": "<strong>note:</strong> small"},
        },
    }
    items = list(factbook.read_factbook(opened(json.dumps(country).encode()), "x/fr.json"))
    assert items[1].row == "Geography"
    assert items[1].text == "Freedonia: Geography\n\nClimate: mild & wet\nArea: note: small\n  total: 5 sq km"
    for broken in (b"[1]", b'{"Government": {"Country name": {"conventional short form": {"text": 1}}}}'):
        with pytest.raises(DamagedError, match=r"fr\.json"):
            list(factbook.read_factbook(opened(broken), "x/fr.json"))


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
    first = list(engram_wheel.generate(wheel, 3))
    monkeypatch.setenv("PYTHONHASHSEED", "2")
    assert list(engram_wheel.generate(wheel, 3)) == first
    assert [found.row for found in first] == ["a", "b"]
    assert first[0].text.startswith("Add words\n\nProblem: 0\nSolution:\n1. ")
    assert "skip" not in first[0].text
    pack.put(wheel, pack.zip({"other.py": b""}))
    with pytest.raises(DamagedError, match="engram_generator-9"):
        list(engram_wheel.generate(wheel, 3))


PAGE = r"""<!DOCTYPE html><html><head><title>T</title><style>p {}</style></head><body>
<div class="sphinxsidebar"><ul><li><a href="x">Elsewhere</a></li></ul></div>
<div class="document"><div class="body" role="main">
<h1>Gamma<a class="headerlink" href="#g">¶</a></h1>
<p>The <code><span class="pre">gamma</span></code> function is <img class="math" alt="\Gamma(n) = (n - 1)!"/>
when <span class="math">\(n \in \mathbb{N}\)</span>, and <script type="math/tex">a &lt; b</script> else.</p>
<div class="math"><p><img src="x.png" alt="\int_0^\infty t^{x-1} e^{-t}\,dt"/></p></div>
<div class="math">\[\begin{aligned}a &amp;= b \\ c &amp;= d\end{aligned}\]</div>
<p>So <math display="block"><semantics><annotation encoding="application/x-tex">E = mc^2</annotation>
</semantics></math> and <span><math alttext="{\displaystyle x^2}"><mi>x</mi></math>
<img class="mwe-math-fallback-image-inline" alt="{\displaystyle x^2}"></span> hold.</p>
<div class="highlight"><pre><span></span><span class="k">def</span> <span class="nf">f</span>(x):
<span class="linenos">2</span>    <span class="k">if</span> x &lt; 0:
<span class="w">        </span><span class="k">return</span> {
<span class="go">    &quot;4&quot;: 5</span>
    }
</pre></div>
<table><tr><th>JSON</th><th>Python</th></tr><tr><td>object</td><td>dict</td></tr></table>
</div></div><footer role="contentinfo">Copyright</footer></body></html>"""


def test_html_keeps_formulas_code_and_tables_and_drops_the_site_around_them():
    text = html_to_text(PAGE)
    assert text.splitlines()[0] == "Gamma"
    for kept in (
        r"The gamma function is $\Gamma(n) = (n - 1)!$ when \(n \in \mathbb{N}\), and $a < b$ else.",
        r"$$\int_0^\infty t^{x-1} e^{-t}\,dt$$",
        r"\[\begin{aligned}a &= b \\ c &= d\end{aligned}\]",
        "So $$E = mc^2$$ and $x^2$ hold.",
        'def f(x):\n    if x < 0:\n        return {\n    "4": 5\n    }',
        "JSON    Python\nobject  dict",
    ):
        assert kept in text
    for gone in ("Elsewhere", "¶", "Copyright", "T\n", "displaystyle"):
        assert gone not in text


@given(st.text(alphabet="<>/ab &;\"'=!-\x00\n", max_size=120))
def test_any_html_gives_a_text_or_nothing(markup):
    assert "\x00" not in html_to_text(markup)


def test_a_page_of_many_levels_is_read_to_its_end_or_rejected():
    """Tags that nobody closes nest: the parser's own limit of 256 levels would end the text in silence."""
    for levels in (100, 300, 480):
        text = html_to_text("first " + "<font>" * levels + "deep<p>last")
        assert text.split() == ["first", "deep", "last"]
    for levels in (600, 5_000, 100_000):
        (found,) = read_html(opened(b"first" + b"<font>" * levels + b"deep"), "a.html")
        assert (found.rule, found.value) == ("too_deep", "more than 499 levels of elements")


def test_the_encoding_a_page_declares_is_believed_where_it_is_not_utf8():
    latin = '<meta charset="iso-8859-1"><p>caf\u00e9 \u2019</p>'.encode("windows-1252")
    (found,) = read_html(opened(latin), "a.html")
    assert found.text == "café ’"
    (found,) = read_html(opened(b"<p>caf\xe9</p>"), "a.html")
    assert found.rule == "not_utf8"


def test_rst_loses_what_only_builds_a_site_and_keeps_code_and_formulas():
    text = (
        "Title\n=====\n\n.. toctree::\n   :maxdepth: 2\n\n   a\n   b\n\n.. index:: pair: x; y\n\n"
        ".. math::\n\n   a^2\n"
        "\n.. note::\n\n   .. index:: z\n\n   Careful.\n\n::\n\n   .. toctree:: in code is text of another\n"
    )
    kept = markup.strip_rst(text)
    assert "maxdepth" not in kept
    assert "index::" not in kept
    assert ".. math::\n\n   a^2\n" in kept
    assert ".. note::\n\n   Careful.\n" in kept.replace("\n\n\n", "\n\n")


def test_markdown_loses_front_matter_and_comments_but_not_those_in_code():
    text = (
        "---\ntitle: x\n---\n# T\n<!-- no -->\nText\n\n```html\n<!-- yes -->\n---\n```\n\n---\nrule above\n"
    )
    assert markup.strip_markdown(text) == "# T\nText\n\n```html\n<!-- yes -->\n---\n```\n\n---\nrule above\n"


def test_a_rule_at_the_beginning_is_no_front_matter():
    for text in ("---\n\nA: text\n\n---\nmore\n", "---\nSome words.\n---\n", "---\nhttp://a.b\n---\n"):
        assert markup.strip_markdown(text) == text
    assert markup.strip_markdown("---\n# about: x\ntitle:\n  y\n...\nText\n") == "Text\n"
    assert markup.strip_markdown("---\n---\nText\n") == "Text\n"


def test_blank_lines_of_code_stay_where_a_directive_goes():
    code = "Text::\n\n   def f():\n       pass\n\n\n   def g():\n       pass\n"
    assert markup.strip_rst(f".. index:: x\n\n{code}\n.. toctree::\n\n   a\n\nEnd.\n") == f"{code}\nEnd.\n"


@pytest.mark.parametrize(
    "read",
    [
        lambda: markup.strip_markdown("<!--" * 100_000),
        lambda: markup.strip_markdown("---\na: b\n" * 50_000),
        lambda: wikitext.to_text("<ref>x" * 100_000),
        lambda: wikitext.to_text("<!-- x" * 100_000),
        lambda: wikitext.to_text("{{" * 20_000 + "}}" * 20_000),
        lambda: wikitext.to_text("{{convert|" + " " * 100_000),
        lambda: wikitext.to_text("{{lang|fr|" + " " * 100_000),
        lambda: wikitext.to_text("[http://a b " * 50_000),
        lambda: wikitext.to_text("[http://a" * 50_000),
        lambda: wikitext.to_text("==" + " " * 100_000 + "x"),
        lambda: wikitext.to_text("a" + " " * 100_000 + "x"),
        lambda: wikitext.to_text("(" + " " * 100_000 + "x"),
        lambda: charset_of("text/html; charset=" + " " * 100_000 + ";"),
        lambda: warc.dechunked(b"1\r\nx\r\n" * 300_000),
        lambda: list(notebooks.fenced("`` " * 200_000, "")),
    ],
)
def test_time_is_linear_in_what_is_made_to_take_long(read):
    start = time.process_time()
    read()
    assert time.process_time() - start < 3


def test_chunks_of_a_response_are_joined_and_what_is_none_is_left():
    body = b"4\r\nWiki\r\n6;name=x\r\npedia \r\n A \r\nin chunks.\r\n0\r\n\r\n"
    assert warc.dechunked(body) == b"Wikipedia in chunks."
    assert warc.dechunked(body[:-12]) == b"Wikipedia in ch"  # cut off by the crawler
    for plain in (b"", b"<html>", b"10\r\ntext", b"-2\r\ntext", b"4\r\nWikipedia"):
        assert warc.dechunked(plain) == plain


@given(st.text(alphabet="`~<!->ab\n ", max_size=120))
def test_markdown_without_comments_and_front_matter_stays_as_it_is(text):
    if "<!--" not in text and not text.startswith("---"):
        assert markup.strip_markdown(text) == text


def test_a_notebook_gives_its_cells_in_order_and_no_images():
    notebook = {
        "metadata": {"kernelspec": {"language": "julia", "name": "julia-1.9"}},
        "cells": [
            {"cell_type": "markdown", "source": ["# Title\n", "with $x^2$"]},
            {
                "cell_type": "code",
                "source": "plot(x)",
                "outputs": [
                    {"output_type": "stream", "text": ["one\n", "two\n"]},
                    {
                        "output_type": "display_data",
                        "data": {"image/png": "iVBORw0KGgo" * 50, "text/plain": "<Figure>"},
                    },
                    {
                        "output_type": "error",
                        "ename": "KeyError",
                        "evalue": "'k'",
                        "traceback": ["\u001b[31m"],
                    },
                ],
            },
            {"cell_type": "code", "source": "", "outputs": []},
        ],
    }
    (found,) = notebooks.read_notebook(opened(json.dumps(notebook).encode()), "a.ipynb")
    assert found.text == (
        "# Title\nwith $x^2$\n\n```julia\nplot(x)\n```\n\n```text\none\ntwo\n```\n\n```text\n<Figure>\n```"
        "\n\n```text\nKeyError: 'k'\n```"
    )
    assert found.metadata == {"programming_language": "julia"}
    code = {"cell_type": "code", "language": "python", "input": "1\n```"}
    code["outputs"] = [{"output_type": "pyout", "text": ["1"]}]
    old = {"worksheets": [{"cells": [{"cell_type": "heading", "level": 2, "source": "H"}, code]}]}
    (found,) = notebooks.read_notebook(opened(json.dumps(old).encode()), "a.ipynb")
    assert found.text == "## H\n\n````python\n1\n```\n````\n\n```text\n1\n```"
    for broken in (b"{", b"[]", b'{"cells": [3]}', b'{"cells": [{}]}', b"{}"):
        assert [each.rule for each in notebooks.read_notebook(opened(broken), "x")] == ["not_notebook"]


@pytest.mark.parametrize(
    ("path", "data", "rule"),
    [
        ("src/a.rs", b"// SPDX-License-Identifier: MIT OR Apache-2.0\nfn main() {}\n", ""),
        ("node_modules/x/a.js", b"let a = 1;\n", "vendored"),
        ("a/third_party/b.c", b"int a;\n", "vendored"),
        ("logo.png", b"\x89PNG", "unknown_language"),
        ("a.py", b"x = 1\n\x00\x00", "binary"),
        ("a_pb2.py", b"x = 1\n", "generated"),
        ("zz.go", b"// Code generated by stringer -type=X; DO NOT EDIT.\npackage a\n", "generated"),
        ("b.py", b'"""Reads files. Do not edit them while it runs."""\n', ""),
        ("c.py", b"def generate():\n    # reports generated by hand\n    pass\n", ""),
        ("a.js", b"var a=1;" * 100, "minified"),
        ("a.c", b"caf\xe9", "not_utf8"),
        ("Makefile", b"all:\n\ttrue\n", ""),
    ],
)
def test_of_a_source_tree_only_what_people_wrote_is_taken(path, data, rule):
    (found,) = source_code.read_code(opened(data), path, licence="GPL-2.0-only")
    assert found.rule == rule
    assert bool(found.value) == bool(rule)
    assert found.metadata["licence_found"] == ("MIT OR Apache-2.0" if path == "src/a.rs" else "GPL-2.0-only")
    if path == "Makefile":
        assert found.metadata["programming_language"] == "makefile"


def test_a_file_too_large_for_one_text_is_a_reject(monkeypatch):
    monkeypatch.setattr(item, "MAX_FILE_BYTES", 100)
    (found,) = markup.read_rst(opened(b"x" * 101), "a.rst")
    assert (found.rule, len(found.text)) == ("file_too_large", 101)


def test_a_compressed_file_is_known_by_its_bytes_not_by_its_name():
    data = b'{"text": "good"}\n'
    stream = streams.decompressed(io.BytesIO(gzip.compress(data) + gzip.compress(data)))
    assert [found.text for found in readers.read_jsonl(stream, "named.jsonl")] == ["good", "good"]
