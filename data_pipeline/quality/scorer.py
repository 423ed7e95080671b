"""The scorer: one linear map from features to every output, trained by L-BFGS, applied with numpy alone.

Outputs, side by side in one matrix of weights:

- domain: multinomial logistic regression;
- sub-domain: a softmax among the sub-domains of one domain, so that P(sub) = P(domain) P(sub | domain);
- each criterion: ordinal regression with one weight vector and a bias per threshold, trained on the binary
  questions "is the score above k?" (CORAL, arXiv 1901.07884, section 3.3); the expected score is the sum of
  their probabilities.

Each loss is convex in the weights and so is their sum with the l2 term: training finds the one optimum, from
zero, in a fixed order on one thread; same labels, same bytes.
"""

import io
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.config.quality import ScorerConfig
from data_pipeline.quality.features import Features, featurize
from data_pipeline.quality.lbfgs import minimise
from data_pipeline.quality.taxonomy import Taxonomy
from stemma.core.errors import DamagedError
from stemma.core.files import read_json, write_atomic, write_json

if TYPE_CHECKING:  # training needs torch; the processes that score documents do without
    from torch import Tensor

MODEL = "scorer.json"
ARRAYS = ("buckets", "idf", "mean", "scale", "weights", "bias", "thresholds")
SMALL = 2048  # labelled documents up to which training reduces the problem first
FARTHEST = 4.0  # standard deviations: a 100 MB line of one letter is no farther from the mean than this
SHAPE_SCALE = np.float32(0.15)
_MISSING = -1


@dataclass(frozen=True)
class Targets:
    """What labelled documents should get; what is not labelled is masked.

    Attributes:
        domain: ``[n]`` int64, index into the taxonomy's domains, -1 where unknown.
        subdomain: ``[n]`` int64, index into its sub-domains, -1 where unknown.
        scores: ``[n, criteria]`` float32, NaN where unknown.
    """

    domain: np.ndarray
    subdomain: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.domain)

    def take(self, rows: np.ndarray) -> "Targets":
        """The targets of some documents."""
        return Targets(self.domain[rows], self.subdomain[rows], self.scores[rows])


@dataclass(frozen=True)
class Predictions:
    """What the scorer says of ``n`` documents.

    Attributes:
        quality: ``[n]`` float32, 0 to 1.
        domain: ``[n]`` int64; ``subdomain`` ``[n]`` int64, always one of that domain.
        domain_probability: ``[n]`` float32 of the domain named.
        scores: ``[n, criteria]`` float32, expected scores.
    """

    quality: np.ndarray
    domain: np.ndarray
    subdomain: np.ndarray
    domain_probability: np.ndarray
    scores: np.ndarray


class Scorer:
    """A trained model. Make one with ``fit`` or ``load``.

    Args:
        taxonomy: what its outputs mean.
        config: how features are taken.
        arrays: ``buckets`` ``[rows]`` int32 rising; ``idf`` ``[rows]``; ``mean`` and ``scale`` of the shapes;
            ``weights`` ``[rows + shapes, outputs]``; ``bias`` ``[domains + sub-domains]``;
            ``thresholds`` ``[criteria, most thresholds]``, NaN beyond a criterion's own.
    """

    def __init__(self, taxonomy: Taxonomy, config: ScorerConfig, arrays: dict[str, np.ndarray]) -> None:
        self.taxonomy = taxonomy
        self.config = config
        self.arrays = arrays
        self.row_of = np.full(config.buckets, _MISSING, np.int32)
        self.row_of[arrays["buckets"]] = np.arange(len(arrays["buckets"]), dtype=np.int32)
        self.domains = list(taxonomy.domains)
        self.subdomains = list(taxonomy.domain_of)
        owners = [self.domains.index(taxonomy.domain_of[name]) for name in self.subdomains]
        self.owner = np.array(owners, np.int64)

    def predict(self, texts: Sequence[str]) -> Predictions:
        """Score documents; a document's scores do not depend on the others in the batch."""
        return self.predict_features(featurize(texts, self.config))

    def predict_features(self, features: Features) -> Predictions:
        """Score documents whose features were taken before."""
        outputs = self._outputs(features)
        domains, subs = len(self.domains), len(self.subdomains)
        logits = outputs[:, : domains + subs] + self.arrays["bias"]
        probability = _softmax(logits[:, :domains])
        domain = probability.argmax(1)
        among = np.where(self.owner == domain[:, None], logits[:, domains:], -np.inf)
        thresholds = self.arrays["thresholds"]
        above = 0.5 + 0.5 * np.tanh((outputs[:, domains + subs :, None] - thresholds) / 2)  # the sigmoid
        scores = np.nansum(above, axis=2, dtype=np.float32)
        columns = {name: scores[:, index] for index, name in enumerate(self.taxonomy.criteria)}
        quality = np.asarray(self.taxonomy.quality(columns), np.float32).clip(0, 1)  # of rounding
        return Predictions(
            quality, domain, among.argmax(1), probability[np.arange(len(domain)), domain], scores
        )

    def _outputs(self, features: Features) -> np.ndarray:
        """``[n, outputs]`` float32: features times weights."""
        rows, offsets = _known(features, self.row_of)
        known = rows >= 0
        rows = rows[known]
        values = _weigh(features.counts[known], self.arrays["idf"][rows], offsets)
        weights = self.arrays["weights"]
        split = len(self.arrays["buckets"])
        shape = _standardise(features.shape, self.arrays["mean"], self.arrays["scale"])
        found = np.empty((len(features), weights.shape[1]), np.float32)
        table = weights[:split]
        for document in range(len(features)):  # a matrix product per document: summation order is its own
            span = slice(offsets[document], offsets[document + 1])
            found[document] = values[span] @ table[rows[span]] + shape[document] @ weights[split:]
        return found

    def save(self, folder: Path) -> None:
        """Write the model to a folder: ``scorer.json`` and a ``.npy`` per array."""
        for name in ARRAYS:
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(self.arrays[name]))
            write_atomic(folder / f"{name}.npy", buffer.getvalue())
        described = {"config": self.config.model_dump(), "taxonomy_version": self.taxonomy.version}
        write_json(folder / MODEL, described)

    @classmethod
    def load(cls, folder: Path, taxonomy: Taxonomy) -> "Scorer":
        """Read a model that ``save`` wrote.

        Raises:
            DamagedError: a file is missing or not readable, or it was trained for another taxonomy.
        """
        try:
            described = read_json(folder / MODEL)
            version, config = described["taxonomy_version"], ScorerConfig.model_validate(described["config"])
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        except (OSError, ValueError, KeyError) as error:
            raise DamagedError(
                f"{folder} is not a readable scorer ({error}). It was left as it is."
            ) from error
        if version != taxonomy.version:
            raise DamagedError(
                f"{folder} was trained for version {version!r} of the taxonomy, not {taxonomy.version!r}"
            )
        return cls(taxonomy, config, arrays)


def fit(features: Features, targets: Targets, taxonomy: Taxonomy, config: ScorerConfig) -> Scorer:
    """Train a scorer.

    Args:
        features: of the labelled documents.
        targets: their labels.
        taxonomy: gives the outputs.
        config: regularisation and the like.
    """
    documents = np.bincount(features.buckets, minlength=config.buckets)
    buckets = np.flatnonzero(documents >= config.min_documents).astype(np.int32)
    idf = (np.log((1 + len(features)) / (1 + documents[buckets])) + 1).astype(np.float32)
    mean = features.shape.mean(0)
    scale = np.maximum(features.shape.std(0), 1e-3).astype(np.float32)
    row_of = np.full(config.buckets, _MISSING, np.int32)
    row_of[buckets] = np.arange(len(buckets), dtype=np.int32)
    rows, offsets = _known(features, row_of)
    known = rows >= 0
    values = _weigh(features.counts[known], idf[rows[known]], offsets)
    shape = _standardise(features.shape, mean, scale)
    weights, bias, thresholds = _optimise(
        (rows[known], values, offsets, len(buckets)), shape, targets, taxonomy, config
    )
    arrays = {"buckets": buckets, "idf": idf, "mean": mean, "scale": scale}
    arrays |= {"weights": weights, "bias": bias, "thresholds": thresholds}
    return Scorer(taxonomy, config, arrays)


def _standardise(shape: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Shapes in standard deviations, held within what a straight line may be trusted with, and scaled so that
    all of them together are about as long as the n-grams' vector: l2 then weighs both alike."""
    return ((shape - mean) / scale).clip(-FARTHEST, FARTHEST).astype(np.float32) * SHAPE_SCALE


def _known(features: Features, row_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of all n-grams (-1 where unknown), and the offsets that remain when those are dropped."""
    rows = row_of[features.buckets]
    kept = np.concatenate([[0], np.cumsum(rows >= 0)])
    return rows, kept[features.offsets]


def _weigh(counts: np.ndarray, idf: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """``(1 + log count) * idf``, each document's scaled to length 1."""
    values = (1 + np.log(counts)) * idf
    for start, stop in itertools.pairwise(offsets):  # per document: its rounding is its own
        values[start:stop] /= max(float(np.linalg.norm(values[start:stop])), 1e-6)
    return values


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _optimise(
    ngrams: tuple[np.ndarray, np.ndarray, np.ndarray, int],
    shape: np.ndarray,
    targets: Targets,
    taxonomy: Taxonomy,
    config: ScorerConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Minimise the mean loss plus ``l2 / 2`` times the weights' squared norm.

    Args:
        ngrams: row of each n-gram, its value, offsets of the documents, number of rows.
        shape: ``[n, shapes]``, standardised.

    Returns:
        weights, bias of domains and sub-domains, thresholds of the criteria; as in ``Scorer``.
    """
    import torch

    highest = list(taxonomy.highest.values())
    named = len(taxonomy.domains) + len(taxonomy.domain_of)
    loss = _loss(targets, taxonomy)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so that sums are made in one order
    try:
        matrix, transposed = _design(ngrams, shape)
        small = len(targets) <= SMALL
        expand = transposed
        if small:
            matrix, expand = _reduce(matrix, transposed)
            transposed = matrix.T
        sizes = [(matrix.shape[1], named + len(highest)), (named,), (len(highest), max(highest))]
        counts = [math.prod(size) for size in sizes]

        def split(flat: torch.Tensor) -> list[torch.Tensor]:
            return [part.view(size) for part, size in zip(flat.split(counts), sizes)]

        def objective(flat: torch.Tensor) -> tuple[float, torch.Tensor]:
            weights, *rest = split(flat)
            leaves = [(matrix @ weights).requires_grad_(), *(part.clone().requires_grad_() for part in rest)]
            value = loss(*leaves)
            grads = torch.autograd.grad(value, leaves)
            back = transposed @ grads[0] + config.l2 * weights
            total = float(value.detach() + config.l2 / 2 * weights.square().sum())
            return total, torch.cat([part.reshape(-1) for part in (back, *grads[1:])])

        start = torch.zeros(sum(counts), dtype=torch.float64)
        found = split(minimise(objective, start, config.max_iterations))
        if small:
            found[0] = expand @ found[0]
    finally:
        torch.set_num_threads(threads)
    arrays = [array.numpy().astype(np.float32) for array in found]
    for criterion, best in enumerate(highest):
        arrays[2][criterion, best:] = np.nan
    return arrays[0], arrays[1], arrays[2]


def _design(
    ngrams: tuple[np.ndarray, np.ndarray, np.ndarray, int], shape: np.ndarray
) -> tuple["Tensor", "Tensor"]:
    """All features of all documents as a sparse matrix ``[n, rows + shapes]`` float64, and its transpose."""
    import torch

    rows, values, offsets, count = ngrams
    documents = np.repeat(np.arange(len(shape)), np.diff(offsets))
    columns = np.broadcast_to(np.arange(count, count + shape.shape[1]), shape.shape)
    entries = (
        np.concatenate([documents, np.repeat(np.arange(len(shape)), shape.shape[1])]),
        np.concatenate([rows, columns.ravel()]),
    )
    values = np.concatenate([values, shape.ravel()]).astype(np.float64)
    size = (len(shape), count + shape.shape[1])
    made = []
    for row, column in ((0, 1), (1, 0)):
        order = np.lexsort((entries[column], entries[row]))
        starts = np.searchsorted(entries[row][order], np.arange(size[row] + 1))
        index = [torch.from_numpy(part.astype(np.int64)) for part in (starts, entries[column][order])]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse (CSR|invariant)")  # that its API may change
            made.append(
                torch.sparse_csr_tensor(
                    *index,
                    torch.from_numpy(values[order]),
                    (size[row], size[column]),
                    check_invariants=True,
                )
            )
    return made[0], made[1]


def _reduce(matrix: "Tensor", transposed: "Tensor") -> tuple["Tensor", "Tensor"]:
    """The same problem with no more parameters than documents.

    The best weights are a sum of the documents' features, because any other part would add to their norm
    and change no output. With ``X X^T = Q L Q^T``, ``Z = Q sqrt(L)`` has the same inner products as ``X``.
    Weights ``V`` found for ``Z`` stand for ``X^T Q L^-1/2 V``: the same norm, the same outputs.

    Returns:
        ``Z`` ``[n, r]`` and ``X^T Q L^-1/2`` ``[features, r]``.
    """
    import torch

    unit = torch.eye(matrix.shape[0], dtype=torch.float64)
    blocks = [matrix @ (transposed @ block) for block in unit.split(256, dim=1)]  # 256 documents at a time
    values, vectors = torch.linalg.eigh(torch.cat(blocks, 1))
    kept = values > 1e-10 * values[-1]
    roots = values[kept].sqrt()
    return vectors[:, kept] * roots, transposed @ (vectors[:, kept] / roots)


def _loss(targets: Targets, taxonomy: Taxonomy) -> Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]:
    """The mean loss per document as a function of outputs, biases and thresholds."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    domains, subs = list(taxonomy.domains), list(taxonomy.domain_of)
    owner = torch.tensor([domains.index(taxonomy.domain_of[name]) for name in subs])
    highest = torch.tensor(list(taxonomy.highest.values()))
    steps = torch.arange(int(highest.max()))
    domain, sub = torch.from_numpy(targets.domain), torch.from_numpy(targets.subdomain)
    scores = torch.from_numpy(targets.scores.astype(np.float64))
    answers = (scores[:, :, None] - steps).clamp(0, 1)  # "above k?"; a half for a score in between
    asked = (steps < highest[:, None]) & ~torch.isnan(answers)
    others = owner != domain[:, None]  # sub-domains of other domains take no part in the softmax
    has_domain, has_sub = domain >= 0, sub >= 0

    def loss(outputs: "Tensor", bias: "Tensor", thresholds: "Tensor") -> "Tensor":
        named = outputs[:, : len(bias)] + bias
        total = cross_entropy(named[has_domain, : len(domains)], domain[has_domain], reduction="sum")
        among = named[:, len(domains) :].masked_fill(others, -torch.inf)
        total = total + cross_entropy(among[has_sub], sub[has_sub], reduction="sum")
        above = outputs[:, len(bias) :, None] - thresholds
        total = total + binary_cross_entropy_with_logits(above[asked], answers[asked], reduction="sum")
        return total / len(targets)

    return loss
