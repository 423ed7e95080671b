from pathlib import Path

import pytest

from flows.events import artifact_key
from flows.tables import figures_table, flatten, inputs_table, mix_table, origin_table, show
from stemma.core.artifact import Artifact


@pytest.fixture
def made(home: Path, tmp_path: Path) -> dict[str, Artifact]:
    from toy_chain import make_run

    run = make_run(tmp_path)
    for name in run.order():
        run.make(name)
    return run.artifacts


def test_mix_counts_every_source_and_domain(made: dict[str, Artifact]) -> None:
    table = mix_table(made["first"])
    assert [(row["domain"], row["source"], row["realized tokens"], row["share"]) for row in table] == [
        ("code", "stdlib", 100, "25.0%"),
        ("web", "wiki", 300, "75.0%"),
        ("code", "(all)", 100, "25.0%"),
        ("web", "(all)", 300, "75.0%"),
    ]
    assert table[0]["supervised"] == 90
    assert {row["equal"] for row in table} == {"yes"}


def test_a_difference_stands_out(made: dict[str, Artifact]) -> None:
    from stemma.core.files import read_json, write_json

    path = made["first"].path / "ledger.json"
    record = read_json(path)
    record["realized"]["counts"]["wiki"]["samples"] = 2
    write_json(path, record)
    assert [row["equal"] for row in mix_table(made["first"])] == ["yes", "NO", "yes", "NO"]


def test_no_ledger_no_table(made: dict[str, Artifact]) -> None:
    manifest = {**made["first"].manifest, "files": {}}
    bare = Artifact("first", "write", made["first"].fingerprint, made["first"].path, manifest)
    assert mix_table(bare) is None


def test_tables_name_figures_inputs_and_origin(made: dict[str, Artifact]) -> None:
    second = made["plan.second"]
    assert f"| source | `{made['first']}` |" in inputs_table(second)
    assert "nothing of ours" in inputs_table(made["first"])
    assert "| bits_per_byte.web | 2.2 → 1.9 |" in figures_table(second)
    assert "| tokens | 400 |" in figures_table(second)
    assert f"| fingerprint | `{second.fingerprint}` |" in origin_table(second)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234567, "1,234,567"),
        (2.612345, "2.612"),
        (12345.6, "12,346"),
        (0.00001234, "1.234e-05"),
        (True, "yes"),
        (None, ""),
        (["a", 1], "a, 1"),
        ("a|b\nc", "a\\|b c"),
    ],
)
def test_figures_read_well(value: object, shown: str) -> None:
    assert show(value) == shown


def test_nested_figures_get_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": [1]}) == [("a.b", 1), ("a.c.d", 2), ("e", [1])]
    measured = {"bits": {"before": {"web": 2.2, "code": 1.0}, "after": {"web": 1.9}}}
    assert flatten(measured) == [("bits.web", "2.2 → 1.9"), ("bits.code", "1 → ")]
    assert artifact_key("mix", "plan.stem_x") == "mix-plan-stem-x"
