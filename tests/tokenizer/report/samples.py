"""Documents and encoders small enough to count by hand."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from tokenizer.learning.prune import Pruned
from tokenizer.load import byte_characters
from tokenizer.report.encoders import NamedEncoder, from_tokenizers
from tokenizer.report.measure import MeasuredText

HOSTILE = "<script>alert('x')</script>\x1b[31m\u202e"
ENTRIES = {
    "base": ["in", "er", " t", "th", " th", " the", "ing", "re", "  ", "    ", " {", '":'],
    "general": ["el", "mo", "del", " mo", "model", " model", "模", "型", "模型", "\\f", "rac", "\\frac"],
}


def texts() -> list[MeasuredText]:
    made = []
    for number in range(14):
        made.append(
            MeasuredText("books", "web", "en", (f"the modeling of the {number} things\n",), f"b{number}")
        )
        code = f'if x:\n    return {{"model": {number}}}\n        # \\frac{{1}}{{{number}}}\n'
        made.append(MeasuredText("repo", "code", "en", (code, "and a second piece"), f"c{number}", True))
    return [*made, MeasuredText("docs", "web", "zh", ("模型的参数，模型型。",), "z0")]


def taken_out(text: bytes, evidence: str) -> dict[str, Any]:
    return Pruned(text, "base", "spam", evidence, 2.5, text + b"s", b"", (text[:1], text[1:])).row()


def nfc_encoder() -> NamedEncoder:
    tokenizer = Tokenizer(models.BPE(vocab={c: at for at, c in enumerate(byte_characters())}, merges=[]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return from_tokenizers("nfc", "NFC", tokenizer)


def row_of(report: dict[str, Any], group: str, name: str) -> dict[str, Any]:
    return next(row for row in report["groups"] if (row["group"], row["name"]) == (group, name))
