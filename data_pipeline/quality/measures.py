"""Measures of a scorer against labels: precision and recall, errors, rank correlation, intervals."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

INTERVAL = (2.5, 97.5)  # percent
BINS = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])  # of predicted quality, for its calibration


def measure_classes(truth: np.ndarray, said: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro F1 over the classes that occur, and precision, recall and F1 of each.

    Precision is None for a class that was never said, recall for one that never occurs.
    """
    known = truth >= 0
    truth, said = truth[known], said[known]
    classes = {}
    for index, name in enumerate(names):
        right = int(((truth == index) & (said == index)).sum())
        occurs, claimed = int((truth == index).sum()), int((said == index).sum())
        classes[name] = {
            "labels": occurs,
            "predicted": claimed,
            "precision": right / claimed if claimed else None,
            "recall": right / occurs if occurs else None,
            "f1": 2 * right / (occurs + claimed) if occurs else None,
        }
    scores = [entry["f1"] for entry in classes.values() if entry["f1"] is not None]
    return {
        "labels": len(truth),
        "accuracy": float((truth == said).mean()) if len(truth) else None,
        "macro_f1": float(np.mean(scores)) if scores else None,
        "classes": classes,
    }


def measure_score(truth: np.ndarray, said: np.ndarray, good: float) -> dict[str, float | int | None]:
    """Mean absolute error, Spearman's correlation, the area under the ROC curve of "``good`` or more"."""
    known = ~np.isnan(truth)
    truth, said = truth[known], said[known]
    return {
        "labels": len(truth),
        "mae": float(np.abs(truth - said).mean()) if len(truth) else None,
        "spearman": spearman(truth, said),
        "auc": auc(truth >= good, said),
    }


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[index]


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation; None where one side does not vary."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def auc(positive: np.ndarray, said: np.ndarray) -> float | None:
    """Probability that a positive is ranked above a negative, ties a half; None without both kinds."""
    count = int(positive.sum())
    others = len(positive) - count
    if not count or not others:
        return None
    return float((ranks(said)[positive].sum() - count * (count + 1) / 2) / (count * others))


def bootstrap(
    groups: Sequence[str], statistic: Callable[[np.ndarray], float | None], resamples: int, seed: int
) -> list[float] | None:
    """A 95 % percentile interval of a statistic of the documents, resampling groups, not documents.

    Args:
        groups: of each document; kin are drawn together.
        statistic: of documents given by row numbers; None where it is not defined.
        resamples: how often groups are drawn, with replacement.
        seed: of the draws.
    """
    _, index = np.unique(np.array(groups), return_inverse=True)
    order, sizes = np.argsort(index, kind="stable"), np.bincount(index)
    starts = np.cumsum(sizes) - sizes
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(sizes), len(sizes))
        ends = np.cumsum(sizes[drawn])
        rows = order[np.repeat(starts[drawn] - ends + sizes[drawn], sizes[drawn]) + np.arange(ends[-1])]
        if (value := statistic(rows)) is not None:
            found.append(value)
    return [float(bound) for bound in np.percentile(found, INTERVAL)] if len(found) > resamples // 2 else None


def calibration(truth: np.ndarray, said: np.ndarray) -> list[dict[str, float | int]]:
    """Mean predicted and mean labelled quality, by bins of the predicted."""
    bins = np.digitize(said, BINS)
    return [
        {
            "documents": int((bins == index).sum()),
            "predicted": float(said[bins == index].mean()),
            "labelled": float(truth[bins == index].mean()),
        }
        for index in np.unique(bins)
    ]
