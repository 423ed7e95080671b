"""The evaluation card: what the scorer can and cannot do, on labels it had not seen."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipeline.config.quality import QualityConfig
from data_pipeline.quality.features import Features
from data_pipeline.quality.labels import Consensus
from data_pipeline.quality.measures import bootstrap, calibration, measure_classes, measure_score
from data_pipeline.quality.scorer import Predictions, Targets
from data_pipeline.quality.taxonomy import Taxonomy
from data_pipeline.quality.validation import fold_of, held_out, kin, simple_guesses, targets
from stemma.core.errors import StageFailed

GOOD = 2 / 3  # of the highest score: what the AUC of a criterion separates
QUALITY_GOOD = 0.7  # and of the overall quality


def evaluate(
    features: Features,
    labels: Sequence[Consensus],
    taxonomy: Taxonomy,
    config: QualityConfig,
    done: Callable[[int, int], None] = lambda step, total: None,
) -> dict[str, Any]:
    """Cross-validate the scorer on its labels; the content of ``card.json``.

    Args:
        features: of the labelled documents.
        labels: one per document, in the same order.
        taxonomy: gives the questions.
        config: folds, bootstrap, seed and scorer.
        done: called with how many trainings are done, and of how many.

    Raises:
        StageFailed: the labelled documents are all kin.
    """
    truth = targets(labels, taxonomy)
    groups = kin(labels, config.folds)
    source = np.array([label.document.source for label in labels])
    fold = fold_of(groups, config.folds, config.seed)
    folds = len(np.unique(fold))
    if folds < 2:
        raise StageFailed(
            f"all {len(labels)} labelled documents are kin (parts of one text, or near-duplicates): there is "
            "nothing that a scorer could be tested on. Label documents of other files too"
        )
    sources = np.unique(source)
    total = folds + (len(sources) if len(sources) > 1 else 0)
    said = held_out(features, truth, fold, taxonomy, config, lambda step, _: done(step, total))
    guesses = simple_guesses(truth, fold, source)
    card: dict[str, Any] = {
        "taxonomy": taxonomy.version,
        "labels": _counts(labels),
        "method": {
            "folds": folds,
            "groups": len(set(groups)),
            "resamples": config.resamples,
            "interval": "95 % percentile bootstrap over groups",
        },
        "domain": _classes(truth.domain, said.domain, list(taxonomy.domains), guesses, 0, groups, config),
        "subdomain": _classes(
            truth.subdomain, said.subdomain, list(taxonomy.domain_of), guesses, 1, groups, config
        ),
        "confusion": _confusion(truth.domain, said.domain, list(taxonomy.domains)),
        "criteria": _criteria(truth, said, taxonomy, guesses, groups, config),
        "quality": _quality(truth, said, taxonomy, guesses, groups, config),
    }
    if len(sources) > 1:
        unseen = held_out(
            features, truth, source, taxonomy, config, lambda step, _: done(folds + step, total)
        )
        card["unseen_source"] = _unseen(truth, unseen, taxonomy)
    return card


def _counts(labels: Sequence[Consensus]) -> dict[str, Any]:
    return {
        "documents": len(labels),
        "by_source": dict(sorted(Counter(label.document.source for label in labels).items())),
        "by_kind": dict(sorted(Counter(label.kind for label in labels).items())),
        "by_annotator": dict(sorted(Counter(name for label in labels for name in label.annotators).items())),
    }


def _classes(
    truth: np.ndarray,
    said: np.ndarray,
    names: list[str],
    guesses: dict[str, tuple[np.ndarray, ...]],
    which: int,
    groups: Sequence[str],
    config: QualityConfig,
) -> dict[str, Any]:
    found = measure_classes(truth, said, names)
    known = truth >= 0

    def accuracy(rows: np.ndarray) -> float | None:
        rows = rows[known[rows]]
        return float((truth[rows] == said[rows]).mean()) if len(rows) else None

    found["accuracy_interval"] = bootstrap(groups, accuracy, config.resamples, config.seed)
    found["baselines"] = {
        name: {key: measured[key] for key in ("accuracy", "macro_f1")}
        for name, guess in guesses.items()
        if (measured := measure_classes(truth, guess[which], names))
    }
    return found


def _confusion(truth: np.ndarray, said: np.ndarray, names: list[str]) -> dict[str, Any]:
    """``counts[i][j]``: documents labelled ``names[i]`` that were called ``names[j]``."""
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (truth[truth >= 0], said[truth >= 0]), 1)
    return {"names": names, "counts": counts.tolist()}


def _criteria(
    truth: Targets,
    said: Predictions,
    taxonomy: Taxonomy,
    guesses: dict[str, tuple[np.ndarray, ...]],
    groups: Sequence[str],
    config: QualityConfig,
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for index, (name, criterion) in enumerate(taxonomy.criteria.items()):
        labelled, predicted = truth.scores[:, index], said.scores[:, index]
        good = GOOD * criterion.highest
        entry: dict[str, Any] = measure_score(labelled, predicted, good)

        def error(rows: np.ndarray, off: np.ndarray = np.abs(labelled - predicted)) -> float | None:  # noqa: B008
            value = off[rows]
            return float(np.nanmean(value)) if not np.isnan(value).all() else None

        entry["highest"] = criterion.highest
        entry["good"] = good
        entry["mae_interval"] = bootstrap(groups, error, config.resamples, config.seed)
        entry["baselines"] = {
            key: {"mae": measure_score(labelled, guess[2][:, index], good)["mae"]}
            for key, guess in guesses.items()
        }
        found[name] = entry
    return found


def _quality(
    truth: Targets,
    said: Predictions,
    taxonomy: Taxonomy,
    guesses: dict[str, tuple[np.ndarray, ...]],
    groups: Sequence[str],
    config: QualityConfig,
) -> dict[str, Any]:
    labelled = overall(truth.scores, taxonomy)
    known = ~np.isnan(labelled)
    found: dict[str, Any] = measure_score(labelled, said.quality, QUALITY_GOOD)

    def correlation(rows: np.ndarray) -> float | None:
        rows = rows[known[rows]]
        return measure_score(labelled[rows], said.quality[rows], QUALITY_GOOD)["spearman"]

    found["good"] = QUALITY_GOOD
    found["spearman_interval"] = bootstrap(groups, correlation, config.resamples, config.seed)
    found["baselines"] = {
        name: {key: measured[key] for key in ("mae", "spearman", "auc")}
        for name, guess in guesses.items()
        if (measured := measure_score(labelled, overall(guess[2], taxonomy), QUALITY_GOOD))
    }
    found["calibration"] = calibration(labelled[known], said.quality[known])
    return found


def overall(scores: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """``[n]`` overall quality of scores ``[n, criteria]``; NaN where one is unknown."""
    return np.asarray(
        taxonomy.quality({name: scores[:, index] for index, name in enumerate(taxonomy.criteria)})
    )


def _unseen(truth: Targets, said: Predictions, taxonomy: Taxonomy) -> dict[str, Any]:
    measured = measure_score(overall(truth.scores, taxonomy), said.quality, QUALITY_GOOD)
    domain = measure_classes(truth.domain, said.domain, list(taxonomy.domains))
    return {
        "domain": {key: domain[key] for key in ("accuracy", "macro_f1")},
        "quality": {key: measured[key] for key in ("mae", "spearman", "auc")},
        "criteria": {
            name: {"mae": measure_score(truth.scores[:, index], said.scores[:, index], 0)["mae"]}
            for index, name in enumerate(taxonomy.criteria)
        },
    }
