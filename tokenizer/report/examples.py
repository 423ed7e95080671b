"""Texts to look at: the same few in every report, one of each kind measured, and those ours does worst on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenizer.report.encoders import NamedEncoder
from tokenizer.report.spans import COMMANDS, pieces

SNIPPET = 360  # characters
WORST_BYTES = 400  # a shorter document is a line or two: its ratio is chance
WORST = 6
MAX_INDENTATION = 32

_CALL = {"name": "search_papers", "arguments": {"query": "grokking modular addition", "max_results": 5}}
FIXED: Mapping[str, str] = {
    "Prose": (
        "When the committee reconvened on Thursday, nobody could remember who had proposed the amendment, "
        "let alone why it mattered. “It wasn't us,” said the treasurer; they'd been counting receipts."
    ),
    "Mathematics": (
        "Let $f \\colon \\mathbb{R} \\to \\mathbb{R}$ be continuous. Then\n\\begin{equation}\n"
        "  \\int_{-\\infty}^{\\infty} e^{-x^2}\\,dx = \\sqrt{\\pi}, \\qquad "
        "\\sum_{n=1}^{\\infty} \\frac{1}{n^2} = \\frac{\\pi^2}{6}.\n\\end{equation}"
    ),
    "Reasoning": (
        "Let's check: 17 × 24 = 17 × 20 + 17 × 4 = 340 + 68 = 408. So x ≡ 408 (mod 1009), and therefore "
        "x² = 166464 ≡ 988, since 1009 × 164 = 165476 and 166464 − 165476 = 988. ✓"
    ),
    "Python": (
        "def moving_average(values: list[float], window: int = 3) -> list[float]:\n"
        "    if window <= 0:\n"
        '        raise ValueError(f"window must be positive, got {window}")\n'
        "    return [sum(values[i : i + window]) / window\n"
        "            for i in range(len(values) - window + 1)]\n"
    ),
    "Tool call": json.dumps(_CALL) + "\n" + json.dumps({"tool_calls": [_CALL]}, indent=2),
    "Chinese": (
        "注意力机制让模型在生成每个词元时，能够动态地关注输入序列中最相关的部分。2024年，"
        "研究人员发现，较小的语言模型经过精心设计的训练，也能完成复杂的推理任务。"
    ),
}


@dataclass(frozen=True)
class Excerpt:
    """A part of a document, and whose."""

    id: str
    source: str
    domain: str
    language: str
    text: str


@dataclass
class Chooser:
    """Picks excerpts while documents pass by.

    Attributes:
        typical: of each domain and language, one that a hash chooses.
        worst: of each source, the one whose ratio to the first anchor is lowest, and that ratio.
    """

    typical: dict[tuple[str, str], tuple[str, Excerpt]] = field(default_factory=dict)
    worst: dict[str, tuple[float, Excerpt]] = field(default_factory=dict)

    def see(self, excerpt: Excerpt, size: int, ratio: float | None) -> None:
        """Look at one document.

        Args:
            excerpt: with its whole text; it is cut if it is chosen.
            size: UTF-8 bytes.
            ratio: tokens of the first anchor by ours; None without an anchor.
        """
        group = (excerpt.domain, excerpt.language)
        key = hashlib.sha256(f"{excerpt.id}:{excerpt.text[:200]}".encode()).hexdigest()
        if excerpt.text.strip() and (group not in self.typical or key < self.typical[group][0]):
            self.typical[group] = (key, _cut(excerpt))
        if ratio is not None and size >= WORST_BYTES:
            before = self.worst.get(excerpt.source)
            if before is None or ratio < before[0]:
                self.worst[excerpt.source] = (ratio, _cut(excerpt))

    def examples(self, encoders: Sequence[NamedEncoder]) -> list[dict[str, Any]]:
        """The fixed texts, then the typical ones, with every tokenizer's cuts."""
        fixed = [{"title": title, "text": text} for title, text in FIXED.items()]
        found = [_row(excerpt) for _, (_, excerpt) in sorted(self.typical.items())]
        return [{**row, "by": cuts(encoders, row["text"])} for row in [*fixed, *found]]

    def worst_rows(self, encoders: Sequence[NamedEncoder]) -> list[dict[str, Any]]:
        """Where ours does worst beside the first anchor: at most one document of a source."""
        ranked = sorted(self.worst.values(), key=lambda pair: (pair[0], pair[1].source))[:WORST]
        return [
            {**_row(excerpt), "ratio": round(ratio, 4), "by": cuts(encoders[:2], excerpt.text)}
            for ratio, excerpt in ranked
        ]


def cuts(encoders: Sequence[NamedEncoder], text: str) -> dict[str, list[int]]:
    """UTF-8 bytes of each token of a text, by encoder."""
    return {encoder.name: encoder.sizes[encoder.encode([text])[0]].tolist() for encoder in encoders}


def probes(encoder: NamedEncoder) -> dict[str, Any]:
    """What an encoder does with things that no corpus is needed to ask about.

    Returns:
        ``latex``: command -> tokens; ``indentation``: tokens that have a part in 1, 2, .. 32 spaces before a
        word; ``number``: tokens of ten digits.
    """
    commands = [f"\\{name}" for name in COMMANDS]
    taken = [len(ids) for ids in encoder.encode(commands)]
    lines = encoder.encode(["x\n" + " " * width + "return" for width in range(1, MAX_INDENTATION + 1)])
    touched = [_touching(encoder.sizes[ids], 2, 2 + width) for width, ids in enumerate(lines, 1)]
    return {
        "latex": dict(zip(COMMANDS, taken)),
        "indentation": touched,
        "number": len(encoder.encode(["3141592653"])[0]),
    }


def _touching(sizes: NDArray[np.int64], begin: int, end: int) -> int:
    return int(pieces(np.cumsum(sizes), np.array([[begin, end, end - begin]], np.int64))[0])


def _row(excerpt: Excerpt) -> dict[str, Any]:
    title = f"{excerpt.domain} · {excerpt.language}"
    return {"title": title, "text": excerpt.text, "source": excerpt.source, "id": excerpt.id}


def _cut(excerpt: Excerpt) -> Excerpt:
    """A stretch of the middle, which is more like the rest than a beginning; from a line's start if near."""
    text = excerpt.text
    start = max(0, (len(text) - SNIPPET) // 2)
    line = text.find("\n", start, start + SNIPPET // 2) + 1
    start = line or start
    return Excerpt(
        excerpt.id, excerpt.source, excerpt.domain, excerpt.language, text[start : start + SNIPPET]
    )
