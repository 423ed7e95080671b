import json
from types import SimpleNamespace

import pytest

from stemma.core.artifact import Store
from stemma.core.config import Config
from stemma.core.errors import StemmaError
from stemma.core.stage import Execution, Stage
from stemma.pipeline import Node, Run, nodes, open_run
from stemma.report import rows, table


class Text(Config):
    text: str = "a"


class Write(Stage):
    kind = "write"

    def run(self, work):
        inputs = "".join(artifact.file("out").read_text() for artifact in self.inputs.values())
        (work.path / "out").write_text(inputs + self.config.text)
        return {"tokens": len(self.config.text)}


class WriteOrFail(Write):
    def run(self, work):
        if self.config.text == "fail":
            raise RuntimeError("on purpose")
        return super().run(work)


def make_run(tmp_path, events=None, **texts):
    profile = SimpleNamespace(name="toy", description="", execution=Execution(), texts=texts)
    where = f"{__name__}:WriteOrFail"
    pipeline = [
        Node("first", where, lambda p: Text(text=p.texts.get("first", "1"))),
        Node("second", where, lambda p: Text(text=p.texts.get("second", "2")), {"source": "first"}),
        Node("other", where, lambda p: Text(text=p.texts.get("other", "o"))),
    ]
    return Run(
        profile, Store(tmp_path), listeners=[events.append] if events is not None else None, pipeline=pipeline
    )


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    # Nodes name their stage as module:Class; pytest's importlib mode does not register this file under its
    # name.
    import sys

    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(WriteOrFail=WriteOrFail))


def make_all(run):
    return {name: run.make(name) for name in run.order()}


def test_a_second_walk_makes_nothing(tmp_path):
    events = []
    first = make_all(make_run(tmp_path))
    second = make_all(make_run(tmp_path, events))
    assert first == second
    assert [event.kind for event in events] == ["skipped"] * 3


def test_a_change_remakes_only_what_depends_on_it_and_says_why(tmp_path):
    events = []
    before = make_all(make_run(tmp_path))
    after = make_all(make_run(tmp_path, events, first="x"))
    assert after["second"].file("out").read_text() == "x2"
    assert after["other"] == before["other"]
    assert before["second"].file("out").read_text() == "12"
    begun = {event.stage: event.text for event in events if event.kind == "begin"}
    assert begun["first"] == 'made anew, because config.text: "1" -> "x"'
    assert begun["second"].startswith(f'made anew, because inputs.source: "{before["first"]}" -> ')
    assert set(begun) == {"first", "second"}


def test_the_reason_survives_a_failed_attempt(tmp_path):
    make_all(make_run(tmp_path))
    with pytest.raises(RuntimeError):
        make_all(make_run(tmp_path, first="fail"))
    events = []
    with pytest.raises(RuntimeError):
        make_all(make_run(tmp_path, events, first="fail"))
    assert 'made anew, because config.text: "1" -> "fail"' in events[0].text


def test_open_run_shows_what_is_sealed_and_names_runs_that_exist(tmp_path):
    run = make_run(tmp_path)
    run.make("first")
    assert list(open_run(Store(tmp_path), "toy")) == ["first"]
    with pytest.raises(StemmaError, match="runs are: toy"):
        open_run(Store(tmp_path), "nope")


def test_an_unknown_last_stage_is_an_error_that_lists_them(tmp_path):
    with pytest.raises(StemmaError, match="first, second, other"):
        make_run(tmp_path).order("third")


def test_the_report_is_written_from_the_artifacts(tmp_path):
    run = make_run(tmp_path)
    make_all(run)
    path = run.finish()
    assert "| second | 1 |" in path.read_text()
    assert json.loads((run.folder / "report.json").read_text())["rows"] == rows(run.artifacts)
    drawn = (run.folder / "report.svg").read_text()
    assert drawn.startswith("<svg")
    assert "second" in drawn
    assert "url(http" not in drawn  # looked at without a network, and without telling anyone


def test_every_input_of_the_real_pipeline_comes_before_what_uses_it():
    seen = set()
    for node in nodes():
        missing = set(node.inputs.values()) - seen
        assert not missing, f"{node.name} uses {missing} before it is made"
        seen.add(node.name)
    assert {"corpus", "tokenizer", "sft", "rl", "export"} <= seen


def test_the_table_explains_only_what_it_shows():
    row = {"stage": "a", "tokens": 1, "bits_per_byte": {}, "scores": {}, "artifact": "a-0", "seconds": 1.0}
    assert table([row], "run", 80).caption is None
    assert "web: bits per byte" in table([row | {"bits_per_byte": {"web": (2.0, 1.0)}}], "run", 80).caption
    assert table([row | {"scores": {"math": 0.5}}], "run", 80).caption.startswith("math: mean score")
