"""Config models of filter chains: each step by its name, with its own options.

A step is written as a name (`gopher_quality`) or as a mapping from the name to options
(`{gopher_quality: {min_doc_words: 30}}`). Thresholds are the papers', as datatrove has them, unless a
description says otherwise; `null` switches a rule off.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from data_pipeline.config.rewriting import PII, Licence, Normalise
from stemma.core.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
Words = Annotated[int, Field(ge=1, le=64)]


class Language(Config):
    """Keeps texts in their source's language, as fastText's lid.176 sees it."""

    name: Literal["language"] = "language"
    min_score: Share = Field(0.65, description="lowest probability of the language (FineWeb's 0.65)")


class GopherRepetition(Config):
    """Gopher's repetition rules (arXiv 2112.11446, table A1): largest shares of repeated text."""

    name: Literal["gopher_repetition"] = "gopher_repetition"
    dup_line_frac: Share | None = Field(0.3, description="share of lines that occurred before")
    dup_para_frac: Share | None = Field(0.3, description="share of paragraphs that occurred before")
    dup_line_char_frac: Share | None = Field(0.2, description="share of characters in such lines")
    dup_para_char_frac: Share | None = Field(0.2, description="share of characters in such paragraphs")
    top_n_grams: tuple[tuple[Words, Share], ...] = Field(
        ((2, 0.2), (3, 0.18), (4, 0.16)),
        description="(n, share of characters in the most frequent n-gram of words)",
    )
    dup_n_grams: tuple[tuple[Words, Share], ...] = Field(
        ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1)),
        description="(n, share of characters in n-grams of words that occurred before)",
    )


class GopherQuality(Config):
    """Gopher's quality rules (arXiv 2112.11446, section A1)."""

    name: Literal["gopher_quality"] = "gopher_quality"
    min_doc_words: int | None = Field(50, ge=0, description="words that are not punctuation")
    max_doc_words: int | None = Field(100_000, ge=1, description="words that are not punctuation")
    min_avg_word_length: float | None = Field(3, ge=0, description="characters per word")
    max_avg_word_length: float | None = Field(10, ge=0, description="characters per word")
    max_symbol_word_ratio: float | None = Field(0.1, ge=0, description="`#`, or ellipses, per word")
    max_bullet_lines_ratio: Share | None = Field(0.9, description="share of lines that begin with a bullet")
    max_ellipsis_lines_ratio: Share | None = Field(0.3, description="share of lines that end in an ellipsis")
    min_alpha_words_ratio: Share | None = Field(0.8, description="share of words that have a letter")
    min_stop_words: int | None = Field(2, ge=0, description="different stop words")
    stop_words: tuple[str, ...] = Field(
        ("the", "be", "to", "of", "and", "that", "have", "with"), description="stop words of the language"
    )


class C4(Config):
    """C4's rules (arXiv 1910.10683): drops lines, and documents that have few sentences left."""

    name: Literal["c4"] = "c4"
    split_paragraph: bool = Field(True, description="judge lines (false: sentences)")
    remove_citations: bool = Field(True, description="remove `[1]`, `[edit]`, `[citation needed]`")
    filter_no_terminal_punct: bool = Field(
        False, description="drop lines that do not end in punctuation (C4 does, FineWeb does not)"
    )
    min_num_sentences: int = Field(5, ge=-1, description="sentences of the lines that are left; -1 = any")
    min_words_per_line: int = Field(3, ge=-1, description="words of a line that is left; -1 = any")
    max_word_length: int = Field(1000, ge=-1, description="characters of a line's longest word; -1 = any")
    filter_lorem_ipsum: bool = Field(True, description="drop documents with `lorem ipsum`")
    filter_javascript: bool = Field(True, description="drop lines that mention JavaScript")
    filter_curly_bracket: bool = Field(True, description="drop documents with a curly bracket")
    filter_policy: bool = Field(True, description="drop lines about cookies, privacy policies, terms of use")


class FineWeb(Config):
    """FineWeb's rules on lines (arXiv 2406.17557, section 3.6)."""

    name: Literal["fineweb"] = "fineweb"
    line_punct_thr: Share = Field(0.12, description="least share of lines that end in punctuation")
    line_punct_exclude_zero: bool = Field(False, description="let pass if no line ends in punctuation")
    short_line_thr: Share = Field(0.67, description="largest share of short lines")
    short_line_length: int = Field(30, ge=0, description="characters up to which a line is short")
    char_duplicates_ratio: Share = Field(0.01, description="largest share of characters in repeated lines")
    new_line_ratio: float = Field(0.3, ge=0, description="most line breaks per word")


class LineRules(Config):
    """Rules on lines and characters, for what is not prose. `null` switches a rule off."""

    min_bytes: int = Field(ge=0, description="UTF-8 bytes of a document")
    max_line: int = Field(ge=1, description="characters of the longest line")
    max_mean_line: float = Field(ge=1, description="mean characters of a line")
    min_alphanumeric: Share = Field(description="least share of letters and digits in the characters")
    max_duplicate_lines: Share | None = Field(
        description="share of the characters, without indentation, in lines that occurred before; lines of "
        "less than 10 characters do not count"
    )
    max_encoded_run: int | None = Field(
        1024, ge=64, description="characters of a base64, hexadecimal or escaped string; after The Stack v2"
    )
    max_encoded: Share | None = Field(
        0.5, description="share of the characters in such strings; not checked against that paper"
    )


class SourceCode(LineRules):
    """Source code: line lengths and letters as in The Stack (arXiv 2211.15533).

    Smallest size and repeated lines are ours: tables that a program wrote repeat theirs.
    """

    name: Literal["source_code"] = "source_code"
    min_bytes: int = Field(100, ge=0, description="UTF-8 bytes of a document")
    max_line: int = Field(1000, ge=1, description="characters of the longest line")
    max_mean_line: float = Field(100, ge=1, description="mean characters of a line")
    min_alphanumeric: Share = Field(0.25, description="least share of letters and digits in the characters")
    max_duplicate_lines: Share | None = Field(0.5, description="share of characters in repeated lines")


class Technical(LineRules):
    """Documentation and papers: the same rules, for lines that are paragraphs. Thresholds are ours."""

    name: Literal["technical"] = "technical"
    min_bytes: int = Field(200, ge=0, description="UTF-8 bytes of a document")
    max_line: int = Field(4000, ge=1, description="characters of the longest line")
    max_mean_line: float = Field(500, ge=1, description="mean characters of a line")
    min_alphanumeric: Share = Field(0.25, description="least share of letters and digits in the characters")
    max_duplicate_lines: Share | None = Field(0.5, description="share of characters in repeated lines")


class Maths(LineRules):
    """Mathematics with formulas: longer lines (a display is one), fewer letters. Thresholds are ours.

    Derivations repeat their lines with small changes, worked problems repeat whole ones.
    """

    name: Literal["maths"] = "maths"
    min_bytes: int = Field(100, ge=0, description="UTF-8 bytes of a document")
    max_line: int = Field(10_000, ge=1, description="characters of the longest line")
    max_mean_line: float = Field(1000, ge=1, description="mean characters of a line")
    min_alphanumeric: Share = Field(0.2, description="least share of letters and digits in the characters")
    max_duplicate_lines: Share | None = Field(0.7, description="share of characters in repeated lines")


def named(value: Any) -> Any:
    """A step as the profile writes it, in the form of its model."""
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and "name" not in value:
        if len(value) != 1:
            raise ValueError(
                f"a step is a name or one name with its options, not {len(value)} keys: {sorted(value)}"
            )
        ((name, options),) = value.items()
        if not isinstance(options, dict):
            raise ValueError(f"the options of {name!r} are a mapping, not {options!r}")
        return {**options, "name": name}
    return value


FilterStep = Annotated[
    Language
    | GopherRepetition
    | GopherQuality
    | C4
    | FineWeb
    | SourceCode
    | Technical
    | Maths
    | Normalise
    | PII
    | Licence,
    Field(discriminator="name"),
    BeforeValidator(named),
]


def each_once(steps: tuple[Any, ...]) -> tuple[Any, ...]:
    names = [step.name for step in steps]
    if not names:
        raise ValueError("a chain has at least one step")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"a chain has a step at most once: {', '.join(twice)}")
    return steps


Chain = Annotated[tuple[FilterStep, ...], AfterValidator(each_once)]
