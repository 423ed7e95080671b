import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.quality.taxonomy import BUNDLED, TaxonomyError, load_taxonomy

TREE = yaml.safe_load(BUNDLED.read_text())


def write(tmp_path, tree):
    path = tmp_path / "taxonomy.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def test_the_bundled_one_has_the_references_counts():
    taxonomy = load_taxonomy()
    assert (len(taxonomy.criteria), len(taxonomy.domains), len(taxonomy.domain_of)) == (10, 11, 46)
    assert set(taxonomy.domain_of.values()) == set(taxonomy.domains)


@given(st.lists(st.floats(0, 1), min_size=10, max_size=10), st.integers(0, 9))
def test_quality_is_between_the_bounds_and_rises_with_every_criterion(parts, which):
    taxonomy = load_taxonomy()
    scores = {
        name: part * highest for part, (name, highest) in zip(parts, taxonomy.highest.items(), strict=True)
    }
    quality = taxonomy.quality(scores)
    assert -1e-9 <= quality <= 1 + 1e-9
    name = list(scores)[which]
    better = {**scores, name: taxonomy.highest[name]}
    gain = taxonomy.criteria[name].weight * (1 - parts[which])
    total = sum(criterion.weight for criterion in taxonomy.criteria.values())
    assert taxonomy.quality(better) - quality == pytest.approx(gain / total)


def test_the_extremes_are_zero_and_one():
    taxonomy = load_taxonomy()
    assert taxonomy.quality(dict.fromkeys(taxonomy.criteria, 0)) == 0
    assert taxonomy.quality(taxonomy.highest) == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t["criteria"]["depth"].update(weight=0), "criteria.depth.weight"),
        (lambda t: t["criteria"]["depth"].update(anchors=["only one"]), "criteria.depth.anchors"),
        (lambda t: t["criteria"].update(quality=t["criteria"]["depth"]), "cannot be called"),
        (lambda t: t["domains"]["news"]["subdomains"].update(food="again"), "'food' is in 'news' and in"),
        (lambda t: t["domains"]["news"].update(subdomains={}), "domains.news.subdomains"),
        (lambda t: t.pop("version"), "version: Field required"),
        (lambda t: t.update(colour="blue"), "colour: Extra inputs"),
    ],
)
def test_a_wrong_taxonomy_is_refused_with_the_place(tmp_path, change, said):
    tree = yaml.safe_load(BUNDLED.read_text())
    change(tree)
    with pytest.raises(TaxonomyError, match=said):
        load_taxonomy(write(tmp_path, tree))


def test_what_is_no_yaml_or_not_there_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("criteria: [")
    for name in ("bad.yaml", "none.yaml"):
        with pytest.raises(TaxonomyError, match=name):
            load_taxonomy(tmp_path / name)


def test_comments_do_not_change_its_identity_but_meanings_do(tmp_path):
    plain = load_taxonomy(write(tmp_path, TREE)).canonical
    assert plain == load_taxonomy().canonical
    changed = yaml.safe_load(BUNDLED.read_text())
    changed["criteria"]["depth"]["weight"] = 1.25
    assert load_taxonomy(write(tmp_path, changed)).canonical != plain
