"""Questions about a run: samples, steps, spikes, rejects, clusters, two mixes, stages that still train."""

import io
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from data_pipeline.cleaning.lines import LineRules
from data_pipeline.config import cleaning
from data_pipeline.curriculum.plan import Plan
from data_pipeline.inspection.difference import compare_sides, rows_of, side_of_config, side_of_mix
from data_pipeline.inspection.mix import mix_tables
from data_pipeline.inspection.rejects import document_text, find_clusters, find_rejects, matching, reservoir
from data_pipeline.inspection.render import render_difference, render_mix
from data_pipeline.inspection.render_data import render_clusters, render_rejects
from data_pipeline.inspection.render_trace import render_samples, render_spikes, render_step
from data_pipeline.inspection.samples import draw_samples, trace_step
from data_pipeline.inspection.spikes import find_spikes, spikes
from data_pipeline.inspection.trace import trace_token
from data_pipeline.tokens.shards import Tokens
from stemma.cli import app
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.errors import StemmaError
from stemma.core.files import write_json
from stemma.core.stage import execute
from stemma.pipeline import open_run, open_work
from tests.data_pipeline.test_inspect import curriculum, make_run, printed
from tests.data_pipeline.test_report import FullCorpus
from tokenizer.load import load


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a run ``demo``: one stage trained, another in the middle of its training."""
    store = Store(tmp_path_factory.mktemp("store"))
    made = make_run(store)
    record_run(store, made)
    return store


@pytest.fixture(scope="module")
def run(store: Store) -> dict[str, Artifact]:
    """Its sealed artifacts."""
    return open_run(store, "demo")


def record_run(store: Store, made: dict[str, Artifact]) -> None:
    """What ``Run`` would have left: ``run.json``, and a stage ``stem`` whose training was interrupted."""
    nodes: dict[str, Any] = {
        name: {
            "fingerprint": artifact.fingerprint,
            "identity": {
                "config": dict(artifact.manifest["config"]),
                "inputs": {
                    role: f"{given['name']}-{given['fingerprint'][:12]}"
                    for role, given in artifact.manifest["inputs"].items()
                },
            },
            "sealed": True,
        }
        for name, artifact in made.items()
    }
    plan = Plan.load(made["plan.stem"].path)
    config = {
        "model": {"max_position_embeddings": 64},
        "training": {"schedule": {"peak_lr": 1.0, "shape": "constant"}},
    }
    nodes["commonsense"]["identity"]["config"] = config
    identity = {"config": config, "inputs": {"plan": str(made["plan.stem"])}}
    nodes["stem"] = {"fingerprint": "ab" * 32, "identity": identity, "sealed": False}
    write_json(store.root / "demo" / "run.json", {"profile": "demo", "nodes": nodes})
    folder = store.folder("stem", "ab" * 32)
    losses = [4.0, 4.1, 3.9, 4.0, 4.05, 9.0, 3.95, 4.0]
    (folder / ".scratch" / "checkpoint").mkdir(parents=True)
    for name, lines in (
        (
            "receipts",
            [
                {"step": n, "batch_sha256": "00", "loss": x.hex(), "grad_norm": x.hex()}
                for n, x in enumerate(losses)
            ],
        ),
        (
            "metrics",
            [{"step": n, "loss": x, "loss/notes": x + 1, "loss/sums": 3.0} for n, x in enumerate(losses)],
        ),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    checkpoint = folder / ".scratch" / "checkpoint" / "step-00000006"
    state = {"step": 6, "ledger": plan.planned(6).to_json(), "logs": {}}
    write_json(checkpoint / "extra.json", {"optimizer": True, "extra": state})


def test_a_stage_that_still_trains_shows_what_its_checkpoint_counts(
    store: Store, run: dict[str, Artifact]
) -> None:
    working = open_work(store, "demo")
    assert list(working) == ["stem"]
    first, second = mix_tables(run, working)
    plan = Plan.load(run["plan.stem"].path)
    assert (first.trained, first.done, first.steps) == (True, first.steps, first.steps)
    assert (second.trained, second.done, second.mismatch) == (False, 6, "")
    assert second.realized == sum(count.tokens for count in plan.planned(6).counts.values())
    assert 0 < second.realized < second.tokens
    assert "6 of" in printed(render_mix, [second])
    assert mix_tables(run)[1].done == 0


def test_a_stage_that_has_ended_and_is_not_sealed_counts_all_of_it(
    run: dict[str, Artifact], tmp_path: Path
) -> None:
    plan = Plan.load(run["plan.stem"].path)
    for name, step in (("checkpoint", plan.total_steps), (".scratch/checkpoint/step-00000006", 6)):
        state = {"step": step, "ledger": plan.planned(step).to_json()}
        write_json(tmp_path / name / "extra.json", {"extra": state})
    found = mix_tables(run, {"stem": tmp_path})[1]
    assert (found.done, found.realized, found.mismatch) == (plan.total_steps, plan.total_tokens, "")


def test_samples_are_what_training_reads(run: dict[str, Artifact]) -> None:
    """The pieces fill the sample, their texts are those of its tokens, and traces agree with them."""
    plan, tokens = Plan.load(run["plan.stem"].path), Tokens(run["tokens"].path)
    tokenizer = load(run["tokenizer"].path / "hf")
    views = draw_samples(run, "stem", 5, seed=3)
    assert len({view.sample for view in views}) == 5
    for view in views:
        at = plan.locate(view.sample)
        read = tokens.shard(view.source).read(at.start_token, at.sequence_length).tolist()
        assert sum(piece.tokens for piece in view.pieces) == at.sequence_length
        assert "".join(piece.text for piece in view.pieces) == tokenizer.decode(read)
        batch = plan.batch(view.step)
        assert view.sample == batch.first_sample + view.row
        traced = trace_token(run, "stem", view.step, view.row, 0)
        assert traced.document["id"] == view.pieces[0].document["id"]
        assert traced.offset == view.pieces[0].first
        assert view.pieces[0].document["origin"] in printed(render_samples, [view])
    assert draw_samples(run, "stem", 5, seed=3) == views
    assert draw_samples(run, "stem", 5, seed=4) != views


def test_samples_of_one_source_are_drawn_from_all_of_its_own(run: dict[str, Artifact]) -> None:
    plan = Plan.load(run["plan.commonsense"].path)
    own = {s for s in range(plan.total_samples) if plan.locate(s).source == "sums"}
    assert {view.sample for view in draw_samples(run, "commonsense", 10_000, "sums")} == own
    with pytest.raises(StemmaError, match="reads nothing of 'moon'; it reads: notes, sums"):
        draw_samples(run, "commonsense", 1, "moon")


def test_a_step_lists_its_rows_and_what_it_left(store: Store, run: dict[str, Artifact]) -> None:
    folder = open_work(store, "demo")["stem"]
    view = trace_step(run, "stem", 5, folder)
    plan = Plan.load(run["plan.stem"].path)
    assert [row.row for row in view.rows] == list(range(plan.batch(5).samples))
    assert view.receipt is not None
    assert float.fromhex(view.receipt["loss"]) == 9.0
    assert view.losses == {"loss/notes": 10.0, "loss/sums": 3.0}
    shown = printed(render_step, view)
    assert "loss 9.0000" in shown
    narrow = Console(file=io.StringIO(), width=90)
    render_step(view, narrow)
    assert narrow.file.getvalue().count(" 1st ") == len(view.rows)
    assert all(row.pieces[0].document["id"] in shown for row in view.rows)
    assert trace_step(run, "stem", 5).receipt is None
    with pytest.raises(StemmaError, match="has steps 0 to"):
        trace_step(run, "stem", 10_000)


def test_a_spike_leads_to_its_documents_while_the_stage_trains(
    store: Store, run: dict[str, Artifact]
) -> None:
    found = spikes(run, open_work(store, "demo"), "stem", 1)
    assert [spike.step for spike in found] == [5]
    assert found[0].above[0] == ("notes", 10.0, pytest.approx(5.0, abs=0.1))
    assert found[0].view is not None
    assert found[0].view.rows[0].pieces[0].document["id"] in printed(render_spikes, "stem", found)
    with pytest.raises(StemmaError, match="no receipts yet; stages that have: stem"):
        spikes(run, open_work(store, "demo"), "sft", 1)


@given(st.lists(st.floats(1, 1.2), min_size=10, max_size=60), st.data())
def test_the_one_jump_is_found_wherever_it_is(losses: list[float], data: st.DataObject) -> None:
    at = data.draw(st.integers(5, len(losses) - 1))
    bad = data.draw(st.sampled_from([50.0, math.nan, math.inf]))
    curve = [*losses[:at], bad, *losses[at + 1 :]]
    assert find_spikes(curve, 1)[0].step == at
    assert find_spikes([3.0] * 40, 3) == []
    falling = [10 - n / 10 for n in range(60)]
    assert find_spikes(falling, 3) == []


def test_rejects_are_found_by_rule_step_or_part(tmp_path: Path) -> None:
    corpus = execute(FullCorpus("corpus", Config(), {}), Store(tmp_path))
    by_step = find_rejects(corpus, "gopher_rep", 5)
    assert by_step.rules == {"dup_line_frac": 40}
    assert len(by_step.rows) == 5
    assert {row["rule"] for row in by_step.rows} == {"dup_line_frac"}
    assert find_rejects(corpus, "line", 1).rules == {"dup_line_frac": 40}
    proofs = find_rejects(corpus, "near", 99, "proofs")
    assert [row["source"] for row in proofs.rows] == ["proofs"] * 10
    nothing = find_rejects(corpus, "moon")
    assert (nothing.matched, nothing.rows) == (False, [])
    assert "no rule fits 'moon'" in printed(render_rejects, nothing, "moon")
    assert "near_duplicate" in printed(render_rejects, nothing, "moon")
    shown = printed(render_rejects, find_rejects(corpus, "gopher_rep", 5, "tool_calls"), "gopher_rep")
    assert "<script>" in shown
    assert "more characters]" in shown
    assert "\x1b" not in shown  # the text says so, and a terminal would obey
    everything = find_rejects(corpus)
    assert (everything.rules, everything.rows) == ({"dup_line_frac": 40, "near_duplicate": 40}, [])
    with pytest.raises(StemmaError, match="no source 'moon'; sources are: crawl_2024, encyclopedia"):
        find_rejects(corpus, "near", 1, "moon")
    assert matching("top", {"top_2_gram": 1, "stop_words": 2}) == ["top_2_gram"]
    strict = cleaning.SourceCode(min_bytes=10**6, max_encoded=0.1, max_encoded_run=64, min_alphanumeric=1)
    of_lines = {rule: 1 for rule, _ in LineRules(strict).broken(f"{'ab' * 5_000};\n" * 3)}
    assert len(of_lines) == 7
    assert matching("technical", {**of_lines, "lorem_ipsum": 1}) == list(of_lines)

    assert document_text(corpus, "proofs", "proofs-007").startswith("<script>")
    assert document_text(corpus, "proofs", "proofs-0071") == document_text(corpus, "proofs", "a") == ""
    (largest, *_) = found = find_clusters(corpus, 2)
    assert len(found) == 2
    assert largest.members == 10
    assert largest.survivor["id"] == largest.examples[0]["cluster"]
    assert largest.survivor["id"] in printed(render_clusters, found)


@given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 5))
def test_a_reservoir_keeps_as_many_as_asked_in_order(rows: int, count: int, seed: int) -> None:
    kept = [row["n"] for row in reservoir(iter({"n": n} for n in range(rows)), count, seed)]
    assert len(kept) == min(rows, count)
    assert kept == sorted(set(kept))


def test_two_mixes_stand_side_by_side(run: dict[str, Artifact]) -> None:
    sides = {mix.stage: side_of_mix(mix) for mix in mix_tables(run)}
    assert all(stage.equal for stage in compare_sides(sides, sides))
    asked = curriculum((2_999, 16, {"web": 0.5, "notes": 0.25, "stem": 0.25}))  # 46 whole steps
    profile = {"commonsense": side_of_config(asked, {"notes": "web", "sums": "stem"})}
    first, second = compare_sides(sides, profile)
    rows = {(domain, source): (left, right) for domain, source, left, right in rows_of(first)}
    left, right = rows["web", ""]
    assert left is not None
    assert right is not None
    assert right.share == pytest.approx(0.75)
    assert right.tokens == 2_208
    assert left.share == pytest.approx(2_448 / 2_944)
    assert second.right is None
    shown = printed(render_difference, [first, second], ("run", "profile"))
    assert "stem: only in run" in shown
    assert "83.2%" in shown
    assert "-8.2%" in shown


def test_the_commands_say_what_they_find(store: Store) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--root", str(store.root)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "the same in both" in said("mix", "diff", "demo", "demo")
    plan = next(store.artifacts.glob("plan.stem-*"))
    assert "only in demo" in said("mix", "diff", "demo", str(plan))
    assert "sample" in said("mix", "sample", "demo", "--stage", "stem", "--n", "2")
    assert "stem step 5" in said("trace", "--run", "demo", "--stage", "stem", "--spike", "--n", "1")
    assert "stem, step 5: loss 9.0000" in said("trace", "demo", "--stage", "stem", "--step", "5")
    assert "token" in said("trace", "demo", "--stage", "stem", "--step", "5", "--row", "1", "--pos", "2")
    assert "lorem_ipsum" in said("data", "rejects", "demo")
    written = Path(said("mix", "report", "demo").replace("\n", ""))
    assert written == store.root / "demo" / "reports" / "mix.html"
    assert "6 of" in written.read_text()
    assert Path(said("data", "report", "demo").replace("\n", "")).is_file()
    with pytest.raises(StemmaError, match=r"neither a run in .* profiles are: .*nano"):
        said("mix", "diff", "demo", "moon")


@pytest.mark.parametrize("per_file", [1, 3, 100])
def test_a_documents_text_is_found_in_whichever_file_it_is(tmp_path: Path, per_file: int) -> None:
    names = [f"{n:04d}" for n in range(0, 40, 2)]
    (tmp_path / "documents" / "notes").mkdir(parents=True)
    for at in range(0, len(names), per_file):
        part = names[at : at + per_file]
        path = tmp_path / "documents" / "notes" / f"{at:05d}.parquet"
        pq.write_table(pa.table({"id": part, "text": [f"text {name}" for name in part]}), path)
    corpus = Artifact("corpus", "corpus", "", tmp_path, {})
    assert [document_text(corpus, "notes", name) for name in names] == [f"text {name}" for name in names]
    assert [document_text(corpus, "notes", name) for name in ("", "0001", "9999")] == ["", "", ""]
