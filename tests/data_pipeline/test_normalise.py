import ast
import importlib
import inspect
import pathlib
import re
import sysconfig
import time
import unicodedata

import pytest
from datatrove.data import Document
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.cleaning.normalise import NormaliseText, normalise
from data_pipeline.cleaning.protect import delimited, is_laid_out
from data_pipeline.config.rewriting import Normalise

STDLIB = pathlib.Path(sysconfig.get_path("stdlib"))

# what repairs look for, among what they must not see
PIECES = st.sampled_from([
    "a", "é", "e\u0301", " ", "  ", "\t", "\n", "\n\n", "\n\n\n\n\n", "\r", "\r\n", "\x00", "\x07", "\x0c",
    "\x1b[31m", "&amp;", "&amp;lt;", "&#36;", "&#96;", "&nbsp;", "<b>", "â€™", "Ã©", "Â ", "Ã ", "ï»¿",
    "\u00ad", "\u200b", "\u200d", "\ufeff", "\u200f", "ﬁ", "\u00a0", "\u0958", "\u212b", "\u2126", "मि",
    "می\u200cخواهم", "👩\u200d🔬", "가", "\u1112\u1161", "$", "$$", "`", "```", "~~~", "\\[", "\\]", "\\(",
    "\\)", "\\begin{a}", "\\end{a}", "<pre>", "</pre>", ">>> ", "|", "\\", "x", "1", "-----", "    ",
    "\x85", "\x92", "\u2028", "\ufffe", "=", "“”",
])  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("They donâ€™t know the cafÃ©.", "They don’t know the café."),
        ("Tom &amp; Jerry &quot;run&quot; &amp;lt;", 'Tom & Jerry "run" <'),
        ("co\u00adopera\u200btion and\ufeff mo\u200dre", "cooperation and more"),
        ("cafe\u0301 ﬁne 10\u00a0kg", "café fine 10 kg"),
        ("one  \ntwo \t\n\n\n\n\n\nthree  ", "one\ntwo\n\n\nthree"),
        ("a\r\nb\rc\x00\x07d\x1b[1;31mred\x1b[0m\x0ce", "a\nb\ncdred\ne"),
        ("it\x92s \u2028new", "it’s\nnew"),
        ("left \u200eto\u200f right", "left to right"),
    ],
)
def test_prose_is_repaired(before, after):
    assert normalise(before, "prose")[0] == after


@pytest.mark.parametrize(
    "text",
    [
        "“Curly” ‘quotes’ – and — dashes… stay",
        "full-width ＡＢＣ，。！ and ½ x² H₂O ① ㎏ ™ stay",
        "angle brackets 〈x〉 \u2329x\u232a, ohm \u2126 and kelvin \u212a are not NFC, and stay",
        "می\u200cخواهم क्\u200dष ශ්\u200dරී 👩\u200d🔬 👨\u200d👩\u200d👧 ❤️\u200d🔥 ไทย\u200bไทย",
        "ה\u200eabc\u200fא",
        "AT&T; R&D; x = a &b; fish & chips",
        "use <b>&amp;amp;</b> to write &lt;",
        "Il est à la plage. Ça va ? Où êtes-vous ? Ñandú, Ångström, Øre, šč",
        "Привет, мир. В начале было слово. 中文，日本語テキスト。 한국어 텍스트",
        "It costs $5 or $6 and a|b",
    ],
)
@pytest.mark.parametrize("mode", ["prose", "technical", "code"])
def test_what_carries_meaning_stays(text, mode):
    assert normalise(text, mode) == (text, {})


@pytest.mark.parametrize(
    "span",
    [
        "$x &amp; y \u00a0 e\u0301$",
        "$$\na &amp;= b  \n\n\n\n\n\nc\n$$",
        "\\[ \\begin{matrix} a &amp; b \\end{matrix} \u00a0\\]",
        "\\begin{align}\na &amp; \\\\  \n\n\n\n\n\\begin{align} x \\end{align} \u00ad\n\\end{align}",
        "\\(x\u00a0&lt;\u00a0y\\)",
        "`&amp;\u200b`",
        "``a ` &lt; \u00a0``",
        "```html\n&amp; \u00a0  \n\n\n\n\n\n```",
        "~~~\n&amp;  \n~~~",
        "> ```\n> &amp;\n> ```",
        "<pre>\n&nbsp;&nbsp; x  \n</pre>",
        "<code>a &amp; b</code>",
        ">>> print('&amp;  \u00a0')\n&amp;\n",
        "    x = '&amp;\u00ad'  ",
        "\tx = '&amp;'",
        "| a &amp; b | c |",
        "a\u00a0  | &amp; |  c",
        "name      &amp;     value",
        "+-----+-----+",
        "=====  =====",
        "│ &amp;\u00a0│",
    ],
)
@pytest.mark.parametrize("mode", ["prose", "technical"])
def test_code_formulas_and_tables_in_prose_pass_byte_for_byte(span, mode):
    text = f"cafe\u0301 here \n{span}\nthere cafe\u0301 "
    after, repairs = normalise(text, mode)
    assert span.encode() in after.encode()
    assert after == f"café here\n{span}\nthere café"
    assert repairs["composed"] == 2


def latex_docstrings() -> list[str]:
    """Docstrings with formulas, as the installed libraries have them."""
    found = []
    for name in (
        *(
            "sympy.functions.special.bessel",
            "sympy.functions.special.error_functions",
            "sympy.stats.crv_types",
        ),
        *("sympy.physics.quantum.cg", "torch.nn.modules.loss", "torch.nn.modules.activation", "numpy.fft"),
        *("torch.nn.modules.normalization", "torch.optim.adam", "numpy.random.mtrand"),
    ):
        module = importlib.import_module(name)
        for _, value in sorted(vars(module).items(), key=lambda entry: entry[0]):
            document = inspect.getdoc(value) or ""
            if re.search(r"\$|:math:|\\[a-z]+\{", document):
                found.append(document)
    return found


def test_real_formulas_pass_byte_for_byte():
    documents = latex_docstrings()
    assert len(documents) > 150
    seen = 0
    for document in documents:
        damaged = document.replace("'s ", "â€™s ") + "\ncafe\u0301 "
        before = [damaged[start:end] for start, end in delimited(damaged)]
        lines = [line for line in damaged.split("\n") if is_laid_out(line, 0, len(line))]
        for mode in ("prose", "technical"):
            after, _ = normalise(damaged, mode)
            assert [after[start:end] for start, end in delimited(after)] == before
            assert [line for line in after.split("\n") if line in set(lines)] == lines
            assert normalise(after, mode) == (after, {})
        assert re.findall(r"\\[A-Za-z]+|[\^_{}&$]", after) == re.findall(r"\\[A-Za-z]+|[\^_{}&$]", damaged)
        seen += len(before) + len(lines)
    assert seen > 2_000


def test_real_code_is_the_same_program():
    """As code, byte for byte; and even as technical text, the same syntax tree for nearly every module."""
    files = sorted(STDLIB.glob("*.py")) + sorted((STDLIB / "email").glob("*.py"))
    assert len(files) > 150
    for file in files:
        text = file.read_bytes().decode("utf-8")
        assert normalise(text, "code") == (text, {})
        if file.stat().st_size < 40_000:
            after, _ = normalise(text, "technical")
            assert ast.dump(ast.parse(after)) == ast.dump(ast.parse(text)), file


def test_code_gets_line_ends_and_nothing_else():
    assert normalise("\ufeffx = '\u00a0&amp;\u00ad'  \r\n\n\n\n\n\n\ty = 'a\rb'\x00\r\n", "code") == (
        "x = '\u00a0&amp;\u00ad'  \n\n\n\n\n\n\ty = 'a\rb'\n",
        {"control": 1, "invisible": 1, "line_ends": 2},
    )
    assert normalise("old\rMac\r", "code")[0] == "old\nMac\n"


@given(TEXTS, st.sampled_from(["prose", "technical", "code"]))
@settings(max_examples=1_000, deadline=None)
@example("&amp;amp;lt;b&gt;", "prose")
@example("&#36;x &amp; y&#36;  ", "prose")
@example("`\x07`` &amp;`", "prose")
def test_normalising_twice_changes_nothing_more(text, mode):
    once, _ = normalise(text, mode)
    assert normalise(once, mode) == (once, {})


@given(st.lists(st.tuples(TEXTS, st.integers(0, 200)), max_size=4))
@settings(max_examples=200, deadline=None)
def test_no_letter_or_digit_of_plain_text_is_lost(pieces):
    """Whatever stands around them: words of ASCII come out as they went in, in order."""
    words = [f"word{number}" for _, number in pieces]
    text = "".join(f"{junk} {word} " for (junk, _), word in zip(pieces, words))
    after, _ = normalise(text, "technical")
    place = 0
    for word in words:
        place = after.index(word, place) + len(word)


def test_hard_breaks_stay_in_technical_text():
    assert (
        normalise("roses  \nare red   \nviolets  \n\nblue  ", "technical")[0]
        == "roses  \nare red\nviolets\n\nblue"
    )


@pytest.mark.parametrize(
    "unclosed", ["\\begin{a} ", "```\n", "$$ ", "<pre> ", "\\[ ", "$x ", "` ", ">>> ", "$$\n\n", "``\n\n"]
)
def test_time_is_linear_in_what_is_never_closed(unclosed):
    text = unclosed * 20_000 + "cafe\u0301"
    start = time.process_time()
    normalise(text, "prose")
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" * 200_000 + "a",
        "a" + " " * 100_000 + "b\nc ",
        "=" * 100_000 + "x cafe\u0301 ",
        "x ~~~ " * 100_000 + "cafe\u0301",
        "`a` cafe\u0301 \n" * 40_000,
        "\\begin{a}x\\end{a} " * 40_000 + "cafe\u0301",
    ],
)
def test_time_is_linear_in_what_there_is_much_of(text):
    start = time.process_time()
    normalise(text, "prose")
    assert time.process_time() - start < 5


def test_the_step_goes_by_domain_and_counts():
    texts = {domain: f"donâ€™t &amp; \x07{domain}" for domain in ("web", "stem", "code", "agent")}
    documents = [Document(text, domain, metadata={"domain": domain}) for domain, text in texts.items()]
    web, stem, code, agent = NormaliseText(Normalise()).run(iter(documents))
    assert web.text == "don’t & web"
    assert web.metadata["found"] == {"normalise": {"control": 1, "entities": 1, "mojibake": 1}}
    assert stem.text == "don’t &amp; stem"
    assert (code.text, agent.text) == (texts["code"], texts["agent"])
    assert "found" not in code.metadata
    (forced,) = NormaliseText(Normalise(mode="prose")).run(
        iter([Document("a &amp; b", "0", metadata={"domain": "code"})])
    )
    assert forced.text == "a & b"


def test_composition_is_that_of_unicode_where_marks_are():
    text = "A\u030angstro\u0308m i\u0307 q\u0323\u0307 한국 가"
    assert normalise(text, "prose")[0] == unicodedata.normalize("NFC", text)
