import pytest

from stemma.core.ledger import Ledger, LedgerMismatch, compare


def ledger(**counts):
    made = Ledger({"wiki": "web", "fw": "web", "lib": "code"})
    for source, (samples, tokens, supervised) in counts.items():
        made.record(source, samples, tokens, supervised)
    return made


def test_counts_add_up_by_source_and_domain():
    made = ledger(wiki=(1, 10, 9), fw=(2, 20, 20))
    made.record("wiki", 1, 10, 10)
    assert vars(made.counts["wiki"]) == {"samples": 2, "tokens": 20, "supervised": 19}
    assert vars(made.by_domain()["web"]) == {"samples": 4, "tokens": 40, "supervised": 39}
    assert Ledger.from_json(made.to_json()) == made


def test_a_source_outside_the_plan_is_an_error():
    with pytest.raises(KeyError, match="not in the plan"):
        ledger().record("poems", 1, 1, 1)


def test_compare_names_every_difference():
    compare(ledger(wiki=(1, 10, 10)), ledger(wiki=(1, 10, 10)))
    with pytest.raises(LedgerMismatch) as raised:
        compare(ledger(wiki=(1, 10, 10), lib=(1, 5, 5)), ledger(wiki=(1, 10, 9)))
    assert "wiki" in str(raised.value)
    assert "lib" in str(raised.value)
