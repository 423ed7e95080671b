"""Two mixes side by side: runs, plans or profiles, stage by stage."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_pipeline.config import PlanConfig
from data_pipeline.inspection.mix import StageMix

ALL = ""  # stands for a domain's sum among its sources


@dataclass(frozen=True)
class Share:
    """What one source, or one domain, has of a stage.

    Attributes:
        tokens: planned.
        share: of the stage's tokens.
        epochs: read when the stage ends, from the first stage on; None for a domain or a profile.
    """

    tokens: int
    share: float
    epochs: float | None = None


@dataclass(frozen=True)
class Side:
    """One stage of one of the two.

    Attributes:
        phases: ``(name, tokens, sequence length)``.
        shares: by ``(domain, source)``; a domain's sum is under ``(domain, "")``.
    """

    phases: list[tuple[str, int, int]]
    shares: dict[tuple[str, str], Share]


@dataclass(frozen=True)
class StageDifference:
    """One stage of both; a side is None where the other alone has the stage."""

    stage: str
    left: Side | None
    right: Side | None

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.left == self.right

    @property
    def same_tokens(self) -> bool:
        """Whether it differs in nothing but how often sources were read before."""
        if self.left is None or self.right is None or self.left.phases != self.right.phases:
            return False
        tokens = [
            {key: share.tokens for key, share in side.shares.items() if share.tokens}
            for side in (self.left, self.right)
        ]
        return tokens[0] == tokens[1]


def side_of_mix(mix: StageMix) -> Side:
    """A planned stage."""
    total = max(1, mix.tokens)
    shares: dict[tuple[str, str], Share] = {}
    by_domain: dict[str, int] = defaultdict(int)
    for row in mix.rows:
        shares[row.domain, row.source] = Share(row.planned.tokens, row.planned.tokens / total, row.epochs)
        by_domain[row.domain] += row.planned.tokens
    for domain, tokens in by_domain.items():
        shares[domain, ALL] = Share(tokens, tokens / total)
    phases = [(phase["name"], phase["tokens"], phase["sequence_length"]) for phase in mix.phases]
    return Side(phases, shares)


def side_of_config(config: PlanConfig, domains: Mapping[str, str]) -> Side:
    """A stage as a profile asks for it: no tokens are there yet, so a domain's sources are not known.

    Args:
        config: the stage's phases, batch and edits.
        domains: domain of each source of the profile.
    """
    phases = [(phase, steps * config.batch_tokens) for phase, steps in config.stretches]
    tokens: dict[tuple[str, str], float] = defaultdict(float)
    for phase, planned in phases:
        total = sum(phase.weights.values())
        for name, weight in phase.weights.items():
            amount = planned * weight / total
            domain = domains.get(name, domains.get(name.rpartition(".")[0], name))
            tokens[domain, ALL] += amount
            if domain != name:
                tokens[domain, name] += amount
    budget = sum(planned for _, planned in phases)
    shares = {key: Share(round(amount), amount / budget) for key, amount in tokens.items()}
    return Side([(phase.name, planned, phase.sequence_length) for phase, planned in phases], shares)


def compare_sides(left: Mapping[str, Side], right: Mapping[str, Side]) -> list[StageDifference]:
    """Every stage of either, in the left one's order."""
    stages = list(dict.fromkeys([*left, *right]))
    return [StageDifference(stage, left.get(stage), right.get(stage)) for stage in stages]


def rows_of(difference: StageDifference) -> list[tuple[str, str, Share | None, Share | None]]:
    """``(domain, source, left, right)``: sources of a domain, then its sum."""
    keys: dict[tuple[str, str], Any] = {}
    for side in (difference.left, difference.right):
        keys |= dict.fromkeys(side.shares if side else ())
    ordered = sorted(keys, key=lambda key: (key[0], key[1] == ALL, key[1]))
    return [
        (
            domain,
            source,
            difference.left.shares.get((domain, source)) if difference.left else None,
            difference.right.shares.get((domain, source)) if difference.right else None,
        )
        for domain, source in ordered
    ]
