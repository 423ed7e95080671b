"""Rewards besides the task's own score, and how they add up.

The two auxiliary rewards are those Youtu-LLM's successor attributes to it: one against answers in another
language than the question's, one against heavy repetition. Their formulas are ours; the papers give none.
Both are 0 where nothing is wrong and fall to -1.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

from posttrain.config import RewardConfig


def reward(
    config: RewardConfig, score: float, question: str, answer: str, ids: Sequence[int]
) -> dict[str, float]:
    """All parts of one answer's reward, and their weighted sum as ``total``.

    Args:
        config: weights and thresholds.
        score: what the environment's scorer gave, in [0, 1].
        question: what the user asked.
        answer: all text the model wrote.
        ids: the token ids it sampled, in order.
    """
    parts = {
        "score": score,
        "language": language_consistency(question, answer),
        "repetition": repetition(ids, config.repetition_ngram, config.repetition_tolerance),
    }
    total = (
        config.score * parts["score"]
        + config.language * parts["language"]
        + config.repetition * parts["repetition"]
    )
    return {**parts, "total": total}


def language_consistency(question: str, answer: str) -> float:
    """0 if the answer's letters are mostly of the question's script, or either has none; else -1.

    Scripts stand in for languages: answers of a few words are too short for a language identifier.
    """
    asked, answered = dominant_script(question), dominant_script(answer)
    return 0.0 if not asked or not answered or asked == answered else -1.0


def dominant_script(text: str) -> str:
    """The script most letters belong to, as the first word of their Unicode names ("LATIN", "CJK"); ""
    without letters.

    A tie goes to the alphabetically first, so that the answer does not depend on the order of letters.
    """
    counts = Counter(unicodedata.name(char, "").partition(" ")[0] for char in text if char.isalpha())
    counts.pop("", None)
    return min(counts, key=lambda script: (-counts[script], script), default="")


def repetition(ids: Sequence[int], ngram: int, tolerance: float) -> float:
    """From 0 down to -1, in a line, as the share of repeated n-grams grows from ``tolerance`` to 1.

    Args:
        ids: token ids.
        ngram: tokens of an n-gram.
        tolerance: share of n-grams that may be repeats of earlier ones without penalty.
    """
    total = len(ids) - ngram + 1
    if total < 2:
        return 0.0
    distinct = len({tuple(ids[start : start + ngram]) for start in range(total)})
    share = 1 - distinct / total
    return -max(0.0, (share - tolerance) / (1 - tolerance))
