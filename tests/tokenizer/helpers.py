"""What several tests of the vocabulary share: one learned from real text, and texts of every sort."""

import sysconfig
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from tokenizer.learning.hf_trainer import train_hf
from tokenizer.load import token_bytes
from tokenizer.specials import MARKUP, NAMED
from tokenizer.vocabulary import Entry, Vocabulary

SLOTS = 32
ENTRIES = 1200
SAMPLES = (
    "The Fibonacci sequence begins with 0, 1, 1, 2, 3, 5, 8, 13. I'll say: it's Arizona's arizona zona.",
    "生活就像一盒巧克力，你永远不知道下一颗是什么味道。ひらがなとカタカナ。한국어 문장입니다. ㄅㄆㄇ",
    r"\begin{align} \frac{\partial f}{\partial x} &= \sum_{i=0}^{n} x_i^2 \\ \end{align}",
    "Fünf Bäume; naïve café — “quotes” … Ελληνικά, кириллица, עברית, العربية, हिन्दी",
)


@cache
def texts(count: int = 12) -> tuple[str, ...]:
    """Sources of the standard library, and samples of other writing often enough to be learned."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(library.glob("*.py"))[:count]
    return (*(path.read_text(encoding="utf-8", errors="replace") for path in files), *SAMPLES * 30)


@cache
def learned() -> Vocabulary:
    """``ENTRIES`` entries, as Hugging Face's trainer finds them."""
    entries = token_bytes(train_hf(ENTRIES, texts()))[256:]
    return Vocabulary().extended([Entry(text, "general") for text in entries])


@cache
def scaffolded() -> Vocabulary:
    """Every fifth learned entry a scaffold: far more than Scaffold-BPE marks, some within others."""
    entries = learned().entries
    marked = [
        Entry(entry.text, entry.stage, scaffold=index % 5 == 0) for index, entry in enumerate(entries[256:])
    ]
    return Vocabulary((*entries[:256], *marked))


_ODD = (
    *(
        "\r\n",
        "\n\n",
        "\t",
        "  ",
        "\u00a0",
        "\u2028",
        "\x85",
        "\x00",
        "\u200d",
        "\ufeff",
        "\ufffd",
        "/",
        "//\r",
    ),
    *("0", "42", "٣", "Ⅳ", "½", "'s", "'LL", "’re", "don't", "I'M", "x'", "ǅ", "ʰ", "ß", "İ", "ſ"),
    *(
        "e\u0301",
        "\u0301\u0301",
        "n\u0303o",
        "क्षि",
        "\u1100\u1161\u11a8",
        "각",
        "ᄀ",
        "ㄱ",
        "ㄅ",
        "々",
        "〇",
        "﨑",
        "𠮷",
    ),
    *(
        "👩\u200d👩\u200d👧\u200d👦",
        "🏳\ufe0f\u200d🌈",
        "👍🏽",
        "🇩🇪",
        "\ue000",
        "\U0010ffff",
        "\u0378",
        "\U000e0041",
    ),
    *("，", "。", "！", "…", "—", "ー", "゛", "・", "（", "﹏", "Ġ", "<0x0A>", "<think", "<|end_of_text|"),
)
plain_text = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        st.sampled_from(_ODD),
        st.sampled_from(" ".join(SAMPLES).split()).map(lambda word: " " + word),
        st.builds(
            lambda part, times: part * times,
            st.sampled_from(["a", " ", "\n", "ab", "=", "中", "é"]),
            st.integers(2, 90),
        ),
    ),
    max_size=12,
).map("".join)
"""Any Unicode text without a special token: unassigned, private, combining, joined, long runs."""

any_text = st.lists(st.one_of(plain_text, st.sampled_from(NAMED)), max_size=5).map("".join)
"""With special tokens."""

markup_text = st.lists(st.one_of(plain_text, st.sampled_from(sorted(MARKUP))), max_size=5).map("".join)
"""With the special tokens that ordinary text may hold."""
