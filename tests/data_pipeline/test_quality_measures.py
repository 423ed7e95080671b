import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.config.quality import QualityConfig, ScorerConfig
from data_pipeline.quality.card import evaluate
from data_pipeline.quality.features import featurize
from data_pipeline.quality.labels import Label, adjudicate, match
from data_pipeline.quality.measures import (
    auc,
    bootstrap,
    calibration,
    measure_classes,
    measure_score,
    ranks,
    spearman,
)
from data_pipeline.quality.render import render
from data_pipeline.quality.sampling import documents, fetch
from data_pipeline.quality.taxonomy import load_taxonomy
from tests.data_pipeline.quality_corpus import write_corpus

SAID = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30)


@given(SAID)
def test_auc_is_the_share_of_pairs_in_order(pairs):
    good = [score for positive, score in pairs if positive]
    bad = [score for positive, score in pairs if not positive]
    found = auc(np.array([p for p, _ in pairs]), np.array([s for _, s in pairs]))
    if not good or not bad:
        assert found is None
    else:
        wins = sum((a > b) + 0.5 * (a == b) for a in good for b in bad)
        assert found == pytest.approx(wins / (len(good) * len(bad)))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
def test_ties_share_their_mean_rank(values):
    order = sorted(values)
    expected = [np.mean([i + 1 for i, v in enumerate(order) if v == value]) for value in values]
    assert ranks(np.array(values)).tolist() == pytest.approx(expected)


def test_spearman_sees_order_only():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1)
    assert spearman(x, -x) == pytest.approx(-1)
    assert spearman(x, np.ones(4)) is None


def test_precision_and_recall_by_hand():
    truth, said = np.array([0, 0, 0, 1, 1, -1]), np.array([0, 0, 1, 1, 2, 0])
    found = measure_classes(truth, said, ["a", "b", "c"])
    assert found["accuracy"] == pytest.approx(3 / 5)  # the unlabelled one does not count
    assert found["classes"]["a"] == {
        "labels": 3,
        "predicted": 2,
        "precision": 1.0,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(0.8),
    }
    assert found["classes"]["c"]["recall"] is None
    assert found["classes"]["c"]["precision"] == 0
    assert found["macro_f1"] == pytest.approx((0.8 + 0.5) / 2)


def test_unlabelled_scores_do_not_count():
    found = measure_score(np.array([0.0, 3.0, np.nan]), np.array([1.0, 2.0, 99.0]), 2)
    assert found == {"labels": 2, "mae": 1.0, "spearman": pytest.approx(1.0), "auc": 1.0}
    empty = measure_score(np.array([np.nan]), np.array([1.0]), 2)
    assert empty == {"labels": 0, "mae": None, "spearman": None, "auc": None}


def test_an_interval_covers_the_mean_and_knows_that_kin_say_one_thing():
    rng = np.random.default_rng(1)
    values = rng.normal(5, 1, 200)

    def mean(rows):
        return float(values[rows].mean())

    alone = bootstrap([str(i) for i in range(200)], mean, 500, 0)
    assert alone == bootstrap([str(i) for i in range(200)], mean, 500, 0)
    assert alone[0] < values.mean() < alone[1]
    assert alone[1] - alone[0] == pytest.approx(4 * values.std() / 200**0.5, rel=0.2)
    values = np.repeat(values[:20], 10)
    kin = bootstrap([str(i // 10) for i in range(200)], mean, 500, 0)
    assert kin[1] - kin[0] > 2 * (alone[1] - alone[0])


def test_calibration_bins_add_up():
    said = np.linspace(0, 1, 101)
    found = calibration(said**2, said)
    assert sum(entry["documents"] for entry in found) == 101
    assert all(entry["labelled"] <= entry["predicted"] for entry in found)


def test_the_card_of_labels_that_mean_nothing_does_not_beat_the_baselines(tmp_path):
    """Leakage from a document, or its kin, into its own prediction would show here as skill."""
    rows = write_corpus(tmp_path, {"pages": 100})
    rng = np.random.default_rng(0)
    taxonomy = load_taxonomy()
    for row in rows:
        row["scores"] = {name: int(rng.integers(0, best + 1)) for name, best in taxonomy.highest.items()}
        row["subdomain"] = str(rng.choice(["food", "law"]))
    matched = match([Label(**row) for row in rows], documents(tmp_path))
    drawn = fetch(tmp_path, set(matched.by_document))
    labels = [adjudicate(d.document, matched.by_document[d.document.id], taxonomy) for d in drawn]
    config = QualityConfig(folds=4, resamples=100, scorer=ScorerConfig(buckets=1 << 14))
    card = evaluate(featurize([d.text for d in drawn], config.scorer), labels, taxonomy, config)
    assert abs(card["quality"]["spearman"]) < 0.3
    assert abs(card["domain"]["accuracy"] - 0.5) < 0.2
    text = render(card)
    assert "No two annotators" in text
    assert all(name in text for name in taxonomy.criteria)
    assert "unseen_source" not in card  # there is only one
