"""The reference profile: it validates, has the paper's sizes, and says where its values come from."""

import re

import pytest

from pretrain.planner import plan_profile
from stemma.profile import Profile, load_profile, profile_path

SOURCES = ("paper", "vendor config", "derived", "ours", "sister")


@pytest.fixture(scope="module")
def profile() -> Profile:
    return load_profile("youtu_2b")


def test_the_plan_has_the_papers_sizes(profile: Profile) -> None:
    report = plan_profile(profile, gpus=64, context_parallel=8)
    assert report.parameters == 1_961_560_064
    tokens = {stage.name: stage.tokens for stage in report.pretraining}
    assert tokens["commonsense"] == pytest.approx(8.16e12, rel=1e-6)
    assert tokens["agentic"] == pytest.approx(340e9, rel=1e-4)
    assert sum(tokens.values()) == pytest.approx(10.84e12, rel=1e-5)
    assert not any("fit" in note for note in report.notes)
    # 6 N D of everything but the embedding's lookup, and what attention adds: the order of magnitude by hand
    linear = 6 * report.parameters * sum(tokens.values())
    assert 1.2 < sum(stage.flops for stage in report.pretraining) / linear < 2


def test_the_mix_is_the_papers(profile: Profile) -> None:
    assert profile.curriculum.commonsense.phases[0].weights["web"] == 75
    stem = profile.curriculum.stem.phases[0].weights
    assert stem["stem"] + stem["code"] == 60
    agentic = profile.curriculum.agentic.phases[0].weights
    replay = {"web", "stem", "code"}
    assert sum(weight for name, weight in agentic.items() if name not in replay) == pytest.approx(60)
    assert sum(agentic.values()) == pytest.approx(100)
    known = {*profile.data.sources, *profile.trajectories.families, "web", "stem", "code", "agent"}
    assert set(agentic) <= known


def test_every_value_says_where_it_comes_from() -> None:
    """Outside data and execution, whose headings say it, every line with a value has a comment that does."""
    covered = ("name", "description", "data", "execution")
    section, unmarked = "", []
    for number, line in enumerate(profile_path("youtu_2b").read_text().splitlines(), 1):
        if top := re.match(r"([a-z_]+):", line):
            section = top[1]
        value, _, comment = line.partition("  # ")
        has_value = re.search(r":\s+\S", value) and section and section not in covered
        if has_value and not any(source in comment for source in SOURCES):
            unmarked.append(f"{number}: {line}")
    assert unmarked == []
