"""Looking at sources of which nothing is made, and planning on what they seem to have."""

import json
from pathlib import Path

import pytest

from data_pipeline.config import CorpusConfig, PlanConfig
from data_pipeline.inspection.glance import Glance, Sample, look_at_sources
from data_pipeline.inspection.preview import preview, preview_figures
from data_pipeline.inspection.report.mix_page import mix_page

SENTENCE = "The planner divides what it is given, and says so when there is not enough of it to go round. "


def corpus(tmp_path: Path, **more) -> CorpusConfig:
    notes = tmp_path / "notes"
    notes.mkdir(exist_ok=True)
    for number in range(30):
        (notes / f"{number:02}.txt").write_text(
            "\n".join(f"{line}. {SENTENCE}" for line in range(number, number + 20))
        )
    (notes / "99.txt").write_text("*" * 4000)  # what `technical` rejects
    sources = {
        "notes": {
            "type": "local",
            "urls": [str(notes)],
            "format": "text",
            "domain": "web",
            "licence": "MIT",
            "filters": "technical",
        },
        **more,
    }
    return CorpusConfig.model_validate(
        {"sources": sources, "filters": {"technical": ["normalise", "technical"]}}
    )


def glance(name: str, domain: str, tokens: int) -> Glance:
    sample = Sample(f"{name}-0", f"{name}.txt", SENTENCE * 50)
    return Glance(name, domain, 10, tokens * 4, 1.0, 1.0, 10, {}, 4.0, (sample,))


def plan_config(tokens: int = 65_536, **weights: float) -> PlanConfig:
    phase = {"name": "stable", "tokens": tokens, "sequence_length": 128, "weights": weights}
    return PlanConfig.model_validate({"curriculum": {"phases": [phase]}, "global_batch_size": 8})


def test_sources_are_counted_filtered_and_sampled(tmp_path) -> None:
    found = look_at_sources(corpus(tmp_path), tmp_path / "cache", True, 30.0)["notes"]
    raw = sum(path.stat().st_size for path in (tmp_path / "notes").iterdir())
    assert (found.documents, found.bytes, found.read, found.problem) == (31, raw, 1.0, "")
    assert found.rejects
    assert sum(found.rejects.values()) == 1
    assert len(found.samples) == 30
    assert all(SENTENCE.strip() in one.text for one in found.samples)
    assert found.kept == pytest.approx(1 - 4000 / raw, abs=0.01)
    assert 0.2 * raw < found.tokens < 0.3 * raw


def test_what_is_not_read_in_time_is_estimated_from_what_is(tmp_path) -> None:
    big = tmp_path / "big.jsonl"
    with open(big, "w") as file:
        for number in range(60_000):
            print(json.dumps({"text": f"{number}: " + SENTENCE * 3}), file=file)
    source = {"type": "local", "urls": [str(big)], "format": "jsonl", "domain": "stem", "licence": "MIT"}
    config = corpus(tmp_path, big={**source, "filters": "technical"})
    found = look_at_sources(config, tmp_path / "cache", True, 0.0)["big"]
    assert 0 < found.read <= 1  # a fast machine may have read all of it before it first looks at the clock
    assert 0 < found.documents <= 60_000
    assert found.tokens == pytest.approx(60_000 * 300 / 4, rel=0.4)


def test_what_is_out_of_reach_says_why_and_the_others_are_shown(tmp_path) -> None:
    package = {"type": "package", "package": "nowhere", "version": "1.0", "format": "jsonl", "domain": "stem"}
    package |= {"archive": "nowhere-1.0.whl", "sha256": "0" * 64, "members": ["*.jsonl"], "licence": "MIT"}
    config = corpus(tmp_path, far={**package, "filters": "technical"})
    found = look_at_sources(config, tmp_path / "cache", True, 1.0)
    assert found["far"].problem
    assert found["far"].tokens == 0
    assert found["notes"].tokens


def test_the_preview_plans_as_the_planner_will() -> None:
    there = {
        "a": glance("a", "web", 300_000),
        "b": glance("b", "web", 100_000),
        "c": glance("c", "stem", 90_000),
    }
    made = preview(
        {"one": (plan_config(web=75, stem=25), there), "two": (plan_config(stem=1), there)}, 1024, 0.0
    )
    assert not made.problems
    one, two = made.mixes
    assert (one.tokens, one.steps, one.done) == (65_536, 64, 0)
    tokens = {row.source: row.planned.tokens for row in one.rows}
    assert tokens["c"] == 65_536 // 4
    assert tokens["a"] / tokens["b"] == pytest.approx(3, abs=0.05)  # a domain's share goes by size
    epochs = {row.source: row.epochs for row in two.rows}
    assert epochs["c"] == pytest.approx(
        (65_536 / 4 + 65_536) / 90_000, abs=0.01
    )  # counted from the first stage


def test_too_little_text_is_said_and_planned_all_the_same() -> None:
    made = preview({"one": (plan_config(web=1), {"a": glance("a", "web", 5_000)})}, 1024, 0.0)
    assert "by this estimate the planner would refuse" in made.problems[0]
    assert made.mixes[0].rows[0].epochs > 4


def test_what_cannot_be_planned_ends_the_preview_with_its_reason() -> None:
    there = {"a": glance("a", "web", 100_000)}
    made = preview({"one": (plan_config(web=1), there), "two": (plan_config(sport=1), there)}, 1024, 0.0)
    assert list(made.plans) == ["one"]
    assert "two: cannot be planned" in made.problems[0]
    assert "'sport'" in made.problems[0]


def test_tiers_count_as_their_source_and_sources_out_of_reach_are_left_out() -> None:
    there = {"a": glance("a", "web", 100_000), "gone": Glance("gone", "code", problem="no registry")}
    config = plan_config(**{"a.t0": 1, "a.t2": 3, "gone": 4})
    phases = [phase.model_copy(update={"upsample": {"t2": 2.0}}) for phase in config.curriculum.phases]
    curriculum = config.curriculum.model_copy(update={"phases": tuple(phases)})
    made = preview({"one": (config.model_copy(update={"curriculum": curriculum}), there)}, 1024, 0.0)
    assert not made.problems
    assert made.left_out == {"one": ["gone"]}
    assert {row.source: row.planned.tokens for row in made.mixes[0].rows} == {"a": 65_536}


def test_the_page_says_that_it_is_a_preview() -> None:
    there = {"a": glance("a", "web", 300_000)}
    made = preview({"one": (plan_config(web=1), there)}, 1024, 0.0)
    figures = preview_figures(made, there, samples=2)
    assert [len(views) for views in figures.samples.values()] == [2]
    page = mix_page(figures, "mine")
    assert "Mix preview" in page
    assert "nothing of this is made yet" in page
    assert "every count is exact" not in page
    assert SENTENCE.strip() in page
