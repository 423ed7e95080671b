"""Texts with a tokenizer's cuts in colour."""

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizer.report.html import text

SHADES = 4


def coloured(data: bytes, sizes: Sequence[int]) -> str:
    """A text as HTML, each token on a shade of its own.

    Bytes of a character that tokens share are written in hexadecimal: they are no character to the model.

    Args:
        data: the text's UTF-8.
        sizes: bytes of each token; together all of the text's.
    """
    parts = []
    position = 0
    for at, length in enumerate(sizes):
        token = data[position : position + length]
        position += length
        try:
            inside = text(token.decode()).replace("\n", '<s aria-hidden="true">↵</s>\n')
            inside = inside.replace("\t", '<s aria-hidden="true">⇥</s>\t')
        except UnicodeDecodeError:
            inside = f"<u>{token.hex(' ')}</u>"
        parts.append(f"<b class=t{at % SHADES}>{inside}</b>")
    return "".join(parts)


def side_by_side(example: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """One text as each tokenizer cuts it, with how many tokens it took, as HTML."""
    data = str(example["text"]).encode()
    columns = []
    for name in (name for name in titles if name in example["by"]):
        sizes = example["by"][name]
        if sum(sizes) == len(data):
            shown = f"<pre>{coloured(data, sizes)}</pre>"
        else:
            shown = "<p class=note>Its normalizer alters this text, so its cuts have no place in it.</p>"
        figure = f"{len(sizes)} tokens · {len(data) / max(1, len(sizes)):.2f} bytes a token"
        columns.append(f"<div><h4>{text(titles[name])}</h4><p class=soft>{figure}</p>{shown}</div>")
    return f'<div class="cuts">{"".join(columns)}</div>'
