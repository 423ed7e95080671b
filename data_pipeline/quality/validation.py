"""Held-out predictions: cross-validation by groups of kin, and what simple baselines would say.

Every labelled document is predicted by a scorer that saw neither it nor its kin: documents of the same
near-duplicate cluster, parts of one text, and, where a source has many files, the same file. A second figure
is stricter: each source predicted by a scorer that saw none of it.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from data_pipeline.config.quality import QualityConfig
from data_pipeline.quality.features import Features
from data_pipeline.quality.labels import Consensus
from data_pipeline.quality.scorer import Predictions, Targets, fit
from data_pipeline.quality.taxonomy import Taxonomy

_PART = re.compile(r"(?<=[0-9])[.][0-9]+$")  # of a long text, in its origin


def targets(labels: Sequence[Consensus], taxonomy: Taxonomy) -> Targets:
    """Labels as arrays."""
    domains, subs = list(taxonomy.domains), list(taxonomy.domain_of)
    return Targets(
        np.array([domains.index(label.domain) if label.domain else -1 for label in labels], np.int64),
        np.array([subs.index(label.subdomain) if label.subdomain else -1 for label in labels], np.int64),
        np.array(
            [[label.scores.get(name, np.nan) for name in taxonomy.criteria] for label in labels], np.float32
        ).reshape(len(labels), len(taxonomy.criteria)),
    )


def kin(labels: Sequence[Consensus], folds: int) -> list[str]:
    """The group of each labelled document, which the evaluation keeps on one side.

    A near-duplicate cluster is a group. So is a file, where the labels of a source come from at least
    ``4 * folds`` files; else a row of it, whose numbered parts (``#7.0``, ``#7.1``) stay together.
    """
    files: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        files[label.document.source].add(label.document.origin.rpartition("#")[0])
    groups = []
    for label in labels:
        source, origin = label.document.source, label.document.origin
        if label.document.cluster:
            groups.append(f"cluster {label.document.cluster}")
        elif len(files[source]) >= 4 * folds:
            groups.append(f"{source} {origin.rpartition('#')[0]}")
        else:
            groups.append(f"{source} {_PART.sub('', origin)}")
    return groups


def fold_of(groups: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """``[n]`` the fold of each document: groups by rising hash, each to the fold that is smallest so far."""
    sizes: dict[str, int] = defaultdict(int)
    for group in groups:
        sizes[group] += 1
    load = [0] * folds
    chosen = {}
    for group in sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest()):
        fold = load.index(min(load))
        chosen[group] = fold
        load[fold] += sizes[group]
    return np.array([chosen[group] for group in groups])


def held_out(
    features: Features,
    truth: Targets,
    part: np.ndarray,
    taxonomy: Taxonomy,
    config: QualityConfig,
    done: Callable[[int, int], None] = lambda step, total: None,
) -> Predictions:
    """Predict each part of the documents by a scorer trained on the other parts.

    Args:
        features, truth: of all labelled documents.
        part: ``[n]`` which part each belongs to.
        done: called with how many parts are done, and of how many.
    """
    parts = np.unique(part)
    found: dict[str, np.ndarray] = {}
    for step, value in enumerate(parts):
        inside, rest = np.flatnonzero(part == value), np.flatnonzero(part != value)
        scorer = fit(features.take(rest), truth.take(rest), taxonomy, config.scorer)
        predicted = scorer.predict_features(features.take(inside))
        for name, values in vars(predicted).items():
            whole = found.setdefault(name, np.zeros((len(part), *values.shape[1:]), values.dtype))
            whole[inside] = values
        done(step + 1, len(parts))
    return Predictions(**found)


def simple_guesses(truth: Targets, part: np.ndarray, source: np.ndarray) -> dict[str, tuple[np.ndarray, ...]]:
    """What two baselines would say of each part, knowing the others.

    Returns:
        ``overall`` (most frequent domain, mean scores) and ``by_source`` (the same, of the document's source
        where the other parts have any of it): domain ``[n]``, sub-domain ``[n]``, scores ``[n, criteria]``.
    """
    guesses = {}
    for name in ("overall", "by_source"):
        domain, sub = np.zeros(len(part), np.int64), np.zeros(len(part), np.int64)
        scores = np.zeros(truth.scores.shape, np.float32)
        for value in np.unique(part):
            for here in np.unique(source[part == value]):
                inside = (part == value) & (source == here)
                known = part != value
                if name == "by_source" and (known & (source == here)).any():
                    known &= source == here
                domain[inside] = _most_frequent(truth.domain[known])
                sub[inside] = _most_frequent(truth.subdomain[known])
                scores[inside] = np.nanmean(truth.scores[known], axis=0)
        guesses[name] = (domain, sub, scores)
    return guesses


def _most_frequent(values: np.ndarray) -> int:
    named, counts = np.unique(values[values >= 0], return_counts=True)
    return int(named[counts.argmax()]) if len(named) else -1
