from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.config.quality import QualityConfig, ScorerConfig
from data_pipeline.quality import scorer as module
from data_pipeline.quality.card import evaluate
from data_pipeline.quality.features import SHAPES, concatenate, featurize
from data_pipeline.quality.labels import Label, adjudicate, match
from data_pipeline.quality.sampling import documents, fetch
from data_pipeline.quality.scorer import ARRAYS, MODEL, Scorer, fit
from data_pipeline.quality.taxonomy import load_taxonomy
from data_pipeline.quality.validation import fold_of, held_out, kin, targets
from stemma.core.errors import DamagedError, StageFailed
from stemma.core.files import write_json
from tests.data_pipeline.quality_corpus import write_corpus

CONFIG = ScorerConfig(buckets=1 << 14, min_documents=2)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Texts, their consensus labels, features and targets."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = write_corpus(folder, {"pages": 120})
    taxonomy = load_taxonomy()
    matched = match([Label(**row) for row in rows], documents(folder))
    drawn = fetch(folder, set(matched.by_document))
    labels = [adjudicate(d.document, matched.by_document[d.document.id], taxonomy) for d in drawn]
    texts = [d.text for d in drawn]
    return texts, labels, featurize(texts, CONFIG), targets(labels, taxonomy)


@pytest.fixture(scope="module")
def trained(labelled):
    _, _, features, truth = labelled
    return fit(features, truth, load_taxonomy(), CONFIG)


def test_it_learns_what_it_has_not_seen(labelled):
    _, labels, features, truth = labelled
    config = QualityConfig(folds=3, scorer=CONFIG)
    part = fold_of(kin(labels, 3), 3, 0)
    said = held_out(features, truth, part, load_taxonomy(), config)
    assert (said.domain == truth.domain).mean() > 0.9
    assert (said.subdomain == truth.subdomain).mean() > 0.9
    assert np.abs(said.scores - truth.scores).mean() < 0.6
    assert (said.quality >= 0).all()
    assert (said.quality <= 1).all()


def test_same_labels_same_bytes(labelled, trained, tmp_path):
    _, _, features, truth = labelled
    trained.save(tmp_path / "a")
    fit(features, truth, load_taxonomy(), CONFIG).save(tmp_path / "b")
    for array in ARRAYS:
        assert (tmp_path / "a" / f"{array}.npy").read_bytes() == (
            tmp_path / "b" / f"{array}.npy"
        ).read_bytes()


def test_reduced_and_full_training_find_the_same_optimum(labelled, monkeypatch):
    _, _, features, truth = labelled
    config = CONFIG.model_copy(update={"l2": 1e-2, "max_iterations": 1000})
    reduced = fit(features, truth, load_taxonomy(), config)
    monkeypatch.setattr(module, "SMALL", 0)
    full = fit(features, truth, load_taxonomy(), config)
    scale = np.abs(full.arrays["weights"]).max()
    assert np.abs(reduced.arrays["weights"] - full.arrays["weights"]).max() < 2e-3 * scale
    one, other = reduced.predict_features(features), full.predict_features(features)
    assert np.abs(one.scores - other.scores).max() < 1e-2
    assert (one.domain == other.domain).all()


def test_a_documents_scores_do_not_depend_on_its_batch(labelled, trained):
    texts = [*labelled[0][:20], "", "unknown wörds only", "x" * 50_000]
    together = trained.predict(texts)
    for row, text in enumerate(texts):
        alone = trained.predict([text])
        for name in vars(together):
            assert np.array_equal(getattr(together, name)[row], getattr(alone, name)[0]), name


def test_subdomains_are_of_the_domain_named(labelled, trained):
    said = trained.predict([*labelled[0], "", "???"])
    for domain, sub in zip(said.domain, said.subdomain):
        assert load_taxonomy().domain_of[trained.subdomains[sub]] == trained.domains[domain]


def test_what_is_not_labelled_is_not_trained_on(labelled):
    _, labels, features, _ = labelled
    taxonomy = load_taxonomy()
    criteria = list(taxonomy.criteria)
    half = targets(labels, taxonomy)
    half.scores[::2, criteria.index("depth")] = np.nan
    half.domain[1::2] = half.subdomain[1::2] = -1
    scorer = fit(features, half, taxonomy, CONFIG)
    assert all(np.isfinite(scorer.arrays[name]).all() for name in ("weights", "bias"))
    said = scorer.predict_features(features)
    known = half.domain >= 0
    assert (said.domain[known] == half.domain[known]).mean() > 0.9
    nothing = targets(labels, taxonomy)
    nothing.scores[:] = np.nan
    scorer = fit(features, nothing, taxonomy, CONFIG)
    outputs = len(taxonomy.domains) + len(taxonomy.domain_of)
    assert not scorer.arrays["weights"][:, outputs:].any()


def test_saved_and_loaded_it_says_the_same(labelled, trained, tmp_path):
    trained.save(tmp_path)
    again = Scorer.load(tmp_path, load_taxonomy()).predict(labelled[0])
    for name, values in vars(trained.predict(labelled[0])).items():
        assert np.array_equal(values, getattr(again, name))


def test_a_damaged_model_is_refused(trained, tmp_path):
    trained.save(tmp_path)
    other = load_taxonomy().model_copy(update={"version": "2"})
    with pytest.raises(DamagedError, match="version '1'"):
        Scorer.load(tmp_path, other)
    (tmp_path / "weights.npy").write_bytes(b"short")
    for damage in (lambda: None, lambda: write_json(tmp_path / MODEL, {}), (tmp_path / MODEL).unlink):
        damage()
        with pytest.raises(DamagedError, match="not a readable scorer"):
            Scorer.load(tmp_path, load_taxonomy())


def test_kin_are_never_on_both_sides(labelled):
    _, labels, _, _ = labelled
    groups = [f"g{number % 17}" for number in range(len(labels))]
    fold = fold_of(groups, 5, 3)
    assert len(np.unique(fold)) == 5
    for group in set(groups):
        assert len({fold[i] for i, name in enumerate(groups) if name == group}) == 1
    assert np.bincount(fold).min() >= len(labels) // 5 - 17


def test_labels_of_one_family_cannot_be_evaluated(labelled):
    _, labels, features, _ = labelled
    family = [replace(label, document=replace(label.document, cluster="c")) for label in labels]
    with pytest.raises(StageFailed, match="all 120 labelled documents are kin"):
        evaluate(features, family, load_taxonomy(), QualityConfig(scorer=CONFIG))


def test_parts_of_a_text_files_and_clusters_are_kin(labelled):
    from data_pipeline.quality.labels import Consensus, Document

    def labels(*documents):
        return [Consensus(document, None, None, {}, ("a",), "human") for document in documents]

    def groups(*origins, clusters=None):
        clusters = clusters or [""] * len(origins)
        found = (Document(str(i), "s", *pair) for i, pair in enumerate(zip(origins, clusters)))
        return kin(labels(*found), 2)

    parts = groups("book.txt#7.0", "book.txt#7.1", "book.txt#8.0")
    assert parts[0] == parts[1] != parts[2]
    many = groups(*(f"f{i}.py#a.{name}" for i in range(8) for name in "xy"))
    assert len(set(many)) == 8  # a file each
    few = groups("f0.py#a.x", "f0.py#a.y")
    assert few[0] != few[1]
    near = groups("a#1", "b#1", clusters=["c", "c"])
    assert near[0] == near[1]


def test_batches_put_together_train_the_same_model(labelled, trained):
    texts, _, _, truth = labelled
    parts = concatenate([featurize(texts[start : start + 7], CONFIG) for start in range(0, len(texts), 7)])
    again = fit(parts, truth, load_taxonomy(), CONFIG)
    assert trained.arrays["weights"].shape[0] == len(trained.arrays["buckets"]) + len(SHAPES)
    assert np.array_equal(trained.arrays["weights"], again.arrays["weights"])
