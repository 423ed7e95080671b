"""What was aimed at, what the pre-tokenizer allows, and what was reached.

A domain's ratio is Llama-3.1's tokens for one of ours over its held-out sources together.
"""

from collections.abc import Iterator
from typing import Any

REFERENCE = "llama3_1"
FLOOR = 0.97  # of Llama-3.1, for every domain
# Name, ratio aimed at, domains and how much of the text each is. General text is what a model is trained on
# first: three parts of English to one of Chinese.
GOALS: tuple[tuple[str, float, dict[str, float]], ...] = (
    ("general text, 3/4 English and 1/4 Chinese", 1.05, {"web": 0.75, "chinese": 0.25}),
    ("general text, English alone", 1.05, {"web": 1.0}),
    ("STEM and reasoning", 1.10, {"stem": 0.5, "reasoning": 0.5}),
    ("STEM alone", 1.10, {"stem": 1.0}),
)


def judge(report: dict[str, Any], name: str) -> Iterator[str]:
    """A line per goal, and one for the floor.

    A mix's ratio weighs domains by bytes: the sum of the parts times Llama-3.1's tokens per byte, by the same
    of ours.
    """
    domains = {row["name"]: row for row in report["groups"] if row["group"] == "domain"}
    for goal, wanted, mix in GOALS:
        if not mix.keys() <= domains.keys():
            continue
        theirs = sum(part * _tokens_per_byte(domains[domain], REFERENCE) for domain, part in mix.items())
        ours = sum(part * _tokens_per_byte(domains[domain], name) for domain, part in mix.items())
        least = sum(part / domains[domain]["by"][name]["ceiling"] for domain, part in mix.items())
        reached, possible = theirs / ours - 1, theirs / least - 1
        verdict = "reached" if reached >= wanted - 1 else "missed"
        yield (
            f"{goal}: {reached:+.1%} of {wanted - 1:+.0%} wanted: {verdict}; an unlimited vocabulary "
            f"behind these cuts would give {possible:+.1%}"
        )
    ratios = {
        domain: row["by"][REFERENCE]["tokens"] / row["by"][name]["tokens"] for domain, row in domains.items()
    }
    low = [f"{domain} {ratio:.3f}" for domain, ratio in sorted(ratios.items()) if ratio < FLOOR]
    yield f"domains below {FLOOR}: {', '.join(low) or 'none'}"


def _tokens_per_byte(row: dict[str, Any], name: str) -> float:
    return float(row["by"][name]["tokens"] / row["bytes"])
