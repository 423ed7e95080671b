"""Looking into a run: pedigrees agree with what training reads, and the mix with the ledger."""

import builtins
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from data_pipeline.config import CurriculumConfig, PhaseConfig, PlanConfig, TokensConfig
from data_pipeline.curriculum.plan import Plan
from data_pipeline.curriculum.stage import PlanStage
from data_pipeline.inspection.mix import mix_tables
from data_pipeline.inspection.render import render_ledger, render_mix
from data_pipeline.inspection.render_trace import render_trace
from data_pipeline.inspection.trace import trace_document, trace_token
from data_pipeline.tokens.shards import Tokens
from data_pipeline.tokens.stage import TokensStage
from stemma.core.artifact import Artifact, Store
from stemma.core.config import Config
from stemma.core.errors import StemmaError
from stemma.core.files import write_json
from stemma.core.stage import Execution, Stage, Workspace, execute
from tokenizer.config import TokenizerConfig
from tokenizer.load import load
from tokenizer.stage import TokenizerStage

WORDS = sorted(dir(builtins))
TEXTS = {
    f"d{n:02d}": " ".join(
        f"{WORDS[(31 * n + 7 * i) % len(WORDS)]} [b]{n * i % 13}[/b]" for i in range(3 * n + 9)
    )
    for n in range(30)
}
LONG = "d29"


class Documents(Stage):
    """A corpus of two sources, with one document held out and one rejected."""

    kind = "corpus"

    def run(self, work: Workspace) -> dict[str, Any]:
        for source, domain in (("notes", "web"), ("sums", "stem")):
            rows = [
                {
                    "id": f"{source}-{name}",
                    "text": text,
                    "source": source,
                    "domain": domain,
                    "language": "en",
                    "split": "valid" if name == "d05" else "train",
                    "origin": f"{source}.whl!{name}",
                    "cluster": "",
                    "decisions": json.dumps({"gopher": {"kept": True, "words": len(text.split())}}),
                }
                for name, text in TEXTS.items()
            ]
            (work.path / "documents" / source).mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(rows), work.path / "documents" / source / "00000.parquet")
        rejected = [{**rows[0], "id": "gone", "rule": "c4.lorem_ipsum", "value": "1"}]
        (work.path / "rejects" / "sums").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rejected), work.path / "rejects" / "sums" / "00000.parquet")
        return {}


class Trained(Stage):
    """Stands for a training stage: leaves the ledger of having read what the plan says, or not quite."""

    kind = "pretrain"
    missing = 0

    def run(self, work: Workspace) -> dict[str, Any]:
        plan = Plan.load(self.inputs["plan"].path)
        planned = plan.counts(plan.total_samples)
        realized = plan.counts(plan.total_samples - self.missing)
        write_json(work.path / "ledger.json", {"planned": planned.to_json(), "realized": realized.to_json()})
        return {}


def curriculum(*phases: tuple[int, int, dict[str, float]]) -> PlanConfig:
    made = tuple(
        PhaseConfig(name=f"p{n}", tokens=tokens, sequence_length=length, weights=weights)
        for n, (tokens, length, weights) in enumerate(phases)
    )
    return PlanConfig(
        curriculum=CurriculumConfig(phases=made, block=8, window=4, max_epochs=9), global_batch_size=4
    )


def make_run(store: Store) -> dict[str, Artifact]:
    """The artifacts of a run in which the first of two planned stages is trained."""
    one = Execution(workers=1)
    corpus = execute(Documents("corpus", Config(), {}), store)
    tokenizer_config = TokenizerConfig(vocab_size=400, special_slots=64, source_bytes=100_000)
    tokenizer = execute(TokenizerStage("tokenizer", tokenizer_config, {"corpus": corpus}), store)
    config = TokensConfig(sequence_chunk=64)
    tokens = execute(TokensStage("tokens", config, {"corpus": corpus, "tokenizer": tokenizer}), store, one)
    first = curriculum((2_000, 16, {"web": 0.75, "stem": 0.25}), (1_000, 32, {"web": 1.0}))
    second = curriculum((3_000, 64, {"web": 0.5, "sums": 0.5}))
    plan = execute(PlanStage("plan.commonsense", first, {"tokens": tokens}), store)
    following = execute(PlanStage("plan.stem", second, {"tokens": tokens, "previous": plan}), store)
    trained = execute(Trained("commonsense", Config(), {"plan": plan}), store)
    made = (corpus, tokenizer, tokens, plan, following, trained)
    return {artifact.name: artifact for artifact in reversed(made)}  # the order of a record says nothing


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """What ``make_run`` makes."""
    return make_run(Store(tmp_path_factory.mktemp("store")))


def printed(render: Any, *arguments: Any) -> str:
    console = Console(file=io.StringIO(), width=160)
    render(*arguments, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("stage", ["commonsense", "stem"])
def test_a_token_leads_to_the_document_that_holds_it(run: dict[str, Artifact], stage: str) -> None:
    """Over a lattice of steps, rows and positions: the id training reads is the one at that place."""
    plan, tokens = Plan.load(run[f"plan.{stage}"].path), Tokens(run["tokens"].path)
    sample = 0
    for step in range(0, plan.total_steps, 7):
        batch = plan.batch(step)
        for row in range(0, batch.samples, 3):
            at = plan.locate(batch.first_sample + row)
            for pos in range(0, at.sequence_length, 13):
                found = trace_token(run, stage, step, row, pos)
                shard = tokens.shard(found.source)
                read = shard.read(at.start_token + pos, 2).tolist()
                assert [found.token, found.predicts] == read
                number = shard.pieces(found.document["id"])[0]
                assert found.offset < shard.lengths[number]
                assert shard.read(int(shard.offsets[number]) + found.offset, 1)[0] == found.token
                assert (found.source, found.epoch, found.sample) == (
                    at.source,
                    at.epoch,
                    batch.first_sample + row,
                )
                assert found.document["origin"].startswith(f"{found.source}.whl!d")
                assert found.document["decisions"]["gopher"]["kept"] is True
                sample += 1
    assert sample >= 20


def test_the_text_around_a_token_is_the_documents(run: dict[str, Artifact]) -> None:
    found = trace_token(run, "commonsense", 0, 0, 7)
    name = found.document["id"].partition("-")[2]
    shown = found.before + found.text + found.after
    assert shown.removesuffix("<|end_of_text|>") in TEXTS[name]
    assert len(shown) > 10


def test_a_document_leads_to_exactly_the_rows_that_read_it(run: dict[str, Artifact]) -> None:
    """The arithmetic inverse against a scan of both stages' every row."""
    tokens = Tokens(run["tokens"].path)
    shard = tokens.shard("notes")
    (number,) = shard.pieces(f"notes-{LONG}")
    begin, end = int(shard.offsets[number]), int(shard.offsets[number] + shard.lengths[number])
    expected = []
    for stage in ("commonsense", "stem"):
        plan = Plan.load(run[f"plan.{stage}"].path)
        for step in range(plan.total_steps):
            batch = plan.batch(step)
            for row in range(batch.samples):
                at = plan.locate(batch.first_sample + row)
                if (
                    at.source == "notes"
                    and at.start_token < end
                    and at.start_token + at.sequence_length >= begin
                ):
                    expected.append((stage, step, row, at.epoch))
    found = trace_document(run, f"notes-{LONG}")
    assert [(seen.stage, seen.step, seen.row, seen.epoch) for seen in found.sightings] == expected
    assert len({seen.stage for seen in found.sightings}) == 2
    for seen in found.sightings:
        assert 0 <= seen.first <= seen.last < shard.lengths[number]
        plan = Plan.load(run[f"plan.{seen.stage}"].path)
        at = plan.locate(plan.batch(seen.step).first_sample + seen.row)
        pos = begin + seen.first - at.start_token
        if pos < at.sequence_length:  # else the row only predicts the document's first token
            assert trace_token(run, seen.stage, seen.step, seen.row, pos).document["id"] == f"notes-{LONG}"
    assert TEXTS[LONG].startswith(found.beginning)


def test_held_out_and_rejected_documents_say_so(run: dict[str, Artifact]) -> None:
    valid = trace_document(run, "notes-d05")
    assert (valid.split, valid.sightings) == ("valid", [])
    assert "held out for validation" in printed(render_trace, valid)
    gone = trace_document(run, "gone")
    assert (gone.split, gone.facts["rule"]) == ("rejected", "c4.lorem_ipsum")
    assert "c4.lorem_ipsum" in printed(render_trace, gone)
    with pytest.raises(StemmaError, match="no document 'never'"):
        trace_document(run, "never")


def test_pedigrees_of_packed_documents_count_from_the_documents_beginning(
    run: dict[str, Artifact], tmp_path: Path
) -> None:
    """Against the same documents unpacked: a piece that lies elsewhere is still a part of its document."""
    store, inputs = Store(tmp_path), {name: run[name] for name in ("corpus", "tokenizer")}
    config = TokensConfig(sequence_chunk=64, packing="best_fit", packing_length=32)
    tokens = execute(TokensStage("tokens", config, inputs), store, Execution(workers=1))
    made = execute(PlanStage("plan.stem", curriculum((2_048, 16, {"web": 1.0})), {"tokens": tokens}), store)
    packed = {**inputs, "tokens": tokens, "plan.stem": made}
    plan, shard = Plan.load(made.path), Tokens(tokens.path).shard("notes")
    whole = Tokens(run["tokens"].path).shard("notes")
    cut = [name for n in range(30) if len(shard.pieces(name := f"notes-d{n:02d}")) > 1]
    for identifier in cut[:3]:
        (number,) = whole.pieces(identifier)
        spans = [
            (int(shard.offsets[piece]), int(shard.offsets[piece] + shard.lengths[piece]))
            for piece in shard.pieces(identifier)
        ]
        expected = []
        for sample in range(plan.total_samples):
            at = plan.locate(sample).start_token
            expected += [divmod(sample, 4) for begin, end in spans if at < end and at + 16 >= begin]
        found = trace_document(packed, identifier)
        assert sorted((seen.step, seen.row) for seen in found.sightings) == expected
        for seen in found.sightings[::5]:
            at = plan.locate(4 * seen.step + seen.row).start_token
            own = whole.read(int(whole.offsets[number]) + seen.first, seen.last - seen.first + 1).tolist()
            row = shard.read(at, 17).tolist()
            pos = next(p for p in range(17) if row[p : p + len(own)] == own)
            if pos < 16:
                traced = trace_token(packed, "stem", seen.step, seen.row, pos)
                assert (traced.document["id"], traced.offset) == (identifier, seen.first)
                assert traced.document["tokens"] == whole.lengths[number]
    assert len(cut) >= 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sft", 1, 0, 0), "no plan of a stage 'sft'; planned stages: commonsense, stem"),
        (("commonsense", -1, 0, 0), "steps 0 to 45, not -1"),
        (("commonsense", 46, 0, 0), "steps 0 to 45, not 46"),
        (("commonsense", 1, 4, 0), "rows 0 to 3, not 4"),
        (("commonsense", 1, 0, 16), "positions 0 to 15, not 16"),
    ],
)
def test_questions_out_of_range_say_what_there_is(
    run: dict[str, Artifact], arguments: tuple[str, int, int, int], message: str
) -> None:
    with pytest.raises(StemmaError, match=message):
        trace_token(run, *arguments)


def test_the_mix_adds_up_and_knows_what_is_trained(run: dict[str, Artifact]) -> None:
    first, second = mix_tables(run)
    assert (first.stage, first.trained, first.mismatch) == ("commonsense", True, "")
    assert (second.stage, second.trained) == ("stem", False)
    plan = Plan.load(run["plan.commonsense"].path)
    assert first.tokens == plan.total_tokens == sum(phase["tokens"] for phase in first.phases)
    by_source = {row.source: row for row in first.rows}
    assert by_source["sums"].planned.tokens == plan.phases[0].counts["sums"] * 16
    assert all(row.realized == row.planned and row.remaining == 0 for row in first.rows)
    assert all(row.realized is None and row.remaining == row.planned.tokens for row in second.rows)
    size = len(Tokens(run["tokens"].path).shard("sums")) - 1
    assert by_source["sums"].epochs == pytest.approx(by_source["sums"].planned.tokens / size)
    assert all(later.epochs > earlier.epochs for earlier, later in zip(first.rows, second.rows))
    shown = printed(render_mix, [first, second])
    assert f"commonsense: {first.tokens:,} tokens" in shown
    assert f"{by_source['notes'].planned.tokens:,}" in shown


def test_a_ledger_that_differs_is_found(run: dict[str, Artifact], tmp_path: Path) -> None:
    stage = Trained("commonsense", Config(), {"plan": run["plan.commonsense"]})
    stage.missing = 1
    short = {**run, "commonsense": execute(stage, Store(tmp_path))}
    assert render_ledger(mix_tables(run), Console(file=io.StringIO()))
    assert not render_ledger(mix_tables(short), Console(file=io.StringIO()))
    assert "planned" in mix_tables(short)[0].mismatch
    assert sum(row.remaining for row in mix_tables(short)[0].rows) == 32
    assert "differs" in printed(render_ledger, mix_tables(short))
    assert "equal" in printed(render_ledger, mix_tables(run))


def test_a_trace_prints_text_that_looks_like_markup_as_it_is(run: dict[str, Artifact]) -> None:
    tokenizer, shard = load(run["tokenizer"].path / "hf"), Tokens(run["tokens"].path).shard("notes")
    found = next(
        trace
        for trace in (trace_token(run, "commonsense", step, 0, 8) for step in range(30))
        if "[b]" in trace.before + trace.text + trace.after
    )
    assert tokenizer.decode(shard.read(0, 3).tolist())
    shown = printed(render_trace, found)
    assert "[b]" in shown
    assert found.document["id"] in shown
    assert f"step {found.step}, row 0, pos 8" in shown


def test_an_empty_run_says_so() -> None:
    assert mix_tables({}) == []
    assert "nothing is planned yet" in printed(render_mix, [])
    assert "no stage is trained yet" in printed(render_ledger, [])
    with pytest.raises(StemmaError, match="planned stages: none yet"):
        trace_token({}, "commonsense", 1, 0, 0)
