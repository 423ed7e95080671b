"""Pre-tokenization: how text is cut before merging; no learned entry crosses a cut.

The reference's cascade of two splits. The first isolates runs of Hangul, CJK punctuation, Bopomofo, and Han
with kana, so a space before Han text is never glued to it. The second is o200k's pattern with single digits
instead of up to three.
"""

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from tokenizer.splitting.unicode import CJK

CJK_RUNS = "|".join(f"[{characters}]+" for characters in CJK)

_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?"
WORDS = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

# The cascade as one pattern, for readers that split once (tiktoken): what can stand in a CJK run is taken out
# of every class, so no match crosses the edge of a run, and each run has alternatives of its own. Written
# without set operations, which engines spell differently: letters apart from CJK are what is neither another
# category nor CJK.
_CJK = "".join(CJK)
_NO_LETTER = rf"\p{{N}}\p{{Z}}\p{{P}}\p{{S}}\p{{C}}{_CJK}"
_PREFIX = rf"[^\r\n\p{{L}}\p{{N}}{_CJK}]?"
_UPPER_APART = rf"[^\p{{Ll}}{_NO_LETTER}]"
_LOWER_APART = rf"[^\p{{Lu}}\p{{Lt}}{_NO_LETTER}]"
_PUNCTUATION_LETTERS = r"々〆\u302A-\u302F〱-〵〻〼"
_PUNCTUATION_SYMBOLS = r"！…“”‘’—：；，、-〄〈-〠\u302A-〰〶〷〽-〿︰-﹏"  # with marks, as in WORDS
_KANA_LETTERS = r"一-龥ぁ-\u3096\u3099\u309Aゝ-ゟァ-ヺー-ヿ"
_KANA_SYMBOLS = r"\u3040\u3097-゜゠・"
PATTERN = "|".join(
    (
        rf"{_PREFIX}{_UPPER_APART}*{_LOWER_APART}+{_CONTRACTION}",
        rf"{_PREFIX}{_UPPER_APART}+{_LOWER_APART}*{_CONTRACTION}",
        rf"[{CJK[0]}]+",
        rf"[{_PUNCTUATION_SYMBOLS}]?[{_PUNCTUATION_LETTERS}]+",
        rf"[{_PUNCTUATION_SYMBOLS}]+",
        rf"[{CJK[2]}]+",
        rf"[{_KANA_SYMBOLS}]?[{_KANA_LETTERS}]+",
        rf"[{_KANA_SYMBOLS}]+",
        r"\p{N}",
        rf" ?[^\s\p{{L}}\p{{N}}{_CJK}]+[\r\n/]*",
        r"\s*[\r\n]+",
        rf"\s+(?![^\s{_CJK}])",
        r"\s+",
    )
)


def pre_tokenizer() -> PreTokenizer:
    """Both splits, then bytes as printable characters (GPT-2's mapping), for a ``tokenizers.Tokenizer``."""
    return Sequence(
        [
            Split(Regex(CJK_RUNS), behavior="isolated"),
            Split(Regex(WORDS), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
