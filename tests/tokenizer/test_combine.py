"""A stage's words: weights are parts of the text, in exact fractions."""

from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.config import VocabularyStage
from tokenizer.errors import VocabularyError
from tokenizer.learning.combine import combine, factors
from tokenizer.learning.sample import Part
from tokenizer.learning.wordfiles import write_words
from tokenizer.learning.words import Words

Write = Callable[[Mapping[Part, dict[bytes, int]]], dict[Part, Path]]


def part(source: str, domain: str = "web", language: str = "en") -> Part:
    return Part(source, domain, language, 1, 1, 1)


def stage(weights: dict[str, float], **options: object) -> VocabularyStage:
    return VocabularyStage.model_validate({"name": "general", "weights": weights, **options})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(counts: Mapping[Part, dict[bytes, int]]) -> dict[Part, Path]:
        files = {}
        for key, found in counts.items():
            words = Words.of(found)
            files[key] = tmp_path / f"{key.name}.arrow"
            write_words(files[key], [words], words.text_bytes)
        return files

    return make


A, B, C = part("a"), part("b"), part("c", "code")


def test_weights_that_change_nothing_leave_the_very_counts(write: Write) -> None:
    files = write(
        {A: {b"x": 1, b"the": 1000}, B: {b"the": 3, b"z\xff": 2**40}, part("b", "web", "de"): {b"x": 4}}
    )
    words = combine(files, stage({"web": 0.1}))
    assert words.scale == 1
    assert list(words) == [(b"the", 1003), (b"x", 5), (b"z\xff", 2**40)]


def test_a_weight_is_a_part_of_the_text(write: Write) -> None:
    files = write({A: {b"aa": 300}, B: {b"bb": 100}, C: {b"cc": 20}})
    words = combine(files, stage({"web": 0.75, "code": 0.25}))
    counts = {word: Fraction(count, words.scale) for word, count in words}
    exact = {b"aa": Fraction(840 * 3, 4) / 800 * 300, b"cc": Fraction(840, 4) / 40 * 20}
    assert abs(counts[b"cc"] - exact[b"cc"]) * 2**20 <= 20
    assert abs(counts[b"aa"] - exact[b"aa"]) * 2**20 <= 300
    assert counts[b"aa"] == 3 * counts[b"bb"]  # inside a domain as they are
    assert words.text_bytes / words.scale == pytest.approx(840)


def test_a_rare_word_of_a_light_source_stays_in_proportion(write: Write) -> None:
    files = write({A: {b"common": 10_000_000}, C: {b"rare": 1, b"twice": 2}})
    words = combine(files, stage({"web": 1, "code": 1e-9}))
    counts = dict(words)
    assert counts[b"twice"] == 2 * counts[b"rare"] > 0


def test_a_source_with_its_own_weight_takes_none_of_its_domains() -> None:
    sizes = {A: 600, B: 200, part("d"): 100, C: 100}
    found = factors(sizes, stage({"web": 0.5, "a": 0.25, "code": 0.25}))
    assert found[A] * 600 == 250
    assert found[B] * 200 + found[part("d")] * 100 == 500
    assert found[B] == found[part("d")]
    assert found[C] * 100 == 250


@pytest.mark.parametrize(("alpha", "ratio"), [(1.0, 16.0), (0.5, 4.0), (0.0, 1.0)])
def test_source_alpha_evens_out_the_sources_of_a_domain(alpha: float, ratio: float) -> None:
    sizes = {A: 1600, B: 60, part("b", "web", "de"): 40}
    found = factors(sizes, stage({"web": 1}, source_alpha=alpha))
    given = {key: float(factor * sizes[key]) for key, factor in found.items()}
    assert given[A] / (given[B] + given[part("b", "web", "de")]) == pytest.approx(ratio)
    assert found[B] == found[part("b", "web", "de")]


def test_what_a_missing_name_would_get_goes_to_the_others() -> None:
    sizes = {A: 300, C: 100}
    full = factors(sizes, stage({"web": 0.6, "code": 0.2, "stem": 0.2}))
    assert full == factors(sizes, stage({"web": 0.75, "code": 0.25}))
    # all of domain "web" is named by source: nothing is left that its own weight could mean
    assert factors(sizes, stage({"a": 0.3, "web": 0.5, "code": 0.1})) == full


def test_languages_choose_parts_and_weight_nought_leaves_out() -> None:
    german = part("b", "web", "de")
    sizes = {A: 300, german: 100, B: 50, C: 10}
    assert set(factors(sizes, stage({"web": 1}, languages=["de"]))) == {german}
    assert set(factors(sizes, stage({"web": 1, "a": 0}))) == {german, B}


@given(
    st.dictionaries(
        st.builds(
            part, st.sampled_from("abcd"), st.sampled_from(["web", "code", "stem"]), st.sampled_from("xy")
        ),
        st.integers(0, 10**12),
        min_size=1,
    ),
    st.dictionaries(st.sampled_from(["a", "b", "web", "code", "stem"]), st.floats(0.001, 100), min_size=1),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_factors_share_out_the_text_and_add_none(
    sizes: dict[Part, int], weights: dict[str, float], alpha: float
) -> None:
    try:
        found = factors(sizes, stage(weights, source_alpha=alpha))
    except VocabularyError:
        there = {name for key, size in sizes.items() if size for name in (key.source, key.domain)}
        assert not there & weights.keys()
        return
    assert sum(factor * sizes[key] for key, factor in found.items()) == sum(sizes[key] for key in found)
    assert all(factor > 0 for factor in found.values())


def test_max_source_share_holds_down_what_one_source_alone_says(write: Write) -> None:
    law = {b"clause": 900, b"the": 90}
    files = write({A: law, B: {b"the": 80, b"clause": 100}, part("d"): {b"the": 90, b"only": 10}})
    plain = dict(combine(files, stage({"web": 1})))
    cut = combine(files, stage({"web": 1}, max_source_share=0.5))
    counts = {word: count / cut.scale for word, count in cut}
    assert plain == {b"clause": 1000, b"the": 260, b"only": 10}
    assert counts == {b"clause": 500 + 100, b"the": 260, b"only": 5}


def test_max_source_share_takes_the_languages_of_a_source_together(write: Write) -> None:
    files = write({A: {b"x": 50}, part("a", "web", "de"): {b"x": 30}, B: {b"x": 20}})
    cut = combine(files, stage({"web": 1}, max_source_share=0.5))
    assert [(word, count / cut.scale) for word, count in cut] == [(b"x", 50 + 20)]


def test_a_stage_of_one_source_is_not_cut(write: Write) -> None:
    words = combine(write({A: {b"x": 7}, C: {b"y": 1}}), stage({"web": 1}, max_source_share=0.1))
    assert (list(words), words.scale) == ([(b"x", 7)], 1)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 2**40), min_size=2, max_size=6),
    st.integers(0, 5),
    st.sampled_from([0.01, 0.2, 0.5, 0.9]),
)
def test_more_occurrences_never_make_a_count_smaller(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], which: int, share: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")

    def count(values: list[int]) -> int:
        files = {}
        for number, value in enumerate(values):
            key = part(f"s{number}")
            files[key] = folder / f"{number}.arrow"
            write_words(files[key], [Words.of({b"x": value})], value)
        words = combine(files, stage({"web": 1}, max_source_share=share))
        (only,) = dict(words).values()
        assert 0 < only <= sum(values) * words.scale
        return only

    more = [value + (number == which % len(counts)) * 1000 for number, value in enumerate(counts)]
    assert count(more) >= count(counts)


def test_combining_adds_up_like_a_counter(write: Write) -> None:
    counts = [{b"%d" % (number * step): number + 1 for number in range(500)} for step in (1, 2, 3)]
    files = write({part(name): found for name, found in zip("xyz", counts)})
    total: Counter[bytes] = Counter()
    for found in counts:
        total.update(found)
    words = combine(files, stage({"web": 1}))
    assert dict(words) == dict(total)
    assert [word for word, _ in words] == sorted(total)


def test_no_text_under_a_weight_says_what_there_is(write: Write) -> None:
    with pytest.raises(VocabularyError, match=r"'general' has no text.*in de.*web; the corpus has a, web"):
        combine(write({A: {b"x": 1}}), stage({"web": 1}, languages=["de"]))
    with pytest.raises(VocabularyError, match="no words"):
        combine({}, stage({"web": 1}))


def test_a_name_of_a_source_and_of_another_domain_is_refused() -> None:
    sizes = {part("code", "web"): 5, C: 5}
    with pytest.raises(VocabularyError, match=r"'code' may mean the source, or the domain of c"):
        factors(sizes, stage({"code": 1}))
    assert factors({part("code", "code"): 5}, stage({"code": 1})) == {part("code", "code"): 1}
