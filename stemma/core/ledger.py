"""The ledger: planned and realized counts per source, which must be equal at every checkpoint.

A count is ``samples`` (sequences), ``tokens`` (predicted positions) and ``supervised`` (positions that carry
loss).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stemma.core.errors import StemmaError


@dataclass
class Count:
    """Integer counts of one source; adds up exactly."""

    samples: int = 0
    tokens: int = 0
    supervised: int = 0

    def add(self, samples: int, tokens: int, supervised: int) -> None:
        self.samples += samples
        self.tokens += tokens
        self.supervised += supervised


class LedgerMismatch(StemmaError):
    """Planned and realized counts differ: a bug in the plan, the loader or the resume."""


@dataclass
class Ledger:
    """Realized counts of one training stage, by source; ``domains``: the domain of each source."""

    domains: dict[str, str]
    counts: dict[str, Count] = field(default_factory=dict)

    def record(self, source: str, samples: int, tokens: int, supervised: int) -> None:
        """Count what a training step consumed from one source.

        Raises:
            KeyError: the source is not in the plan.
        """
        if source not in self.domains:
            raise KeyError(f"source {source!r} is not in the plan: {sorted(self.domains)}")
        self.counts.setdefault(source, Count()).add(samples, tokens, supervised)

    def by_domain(self) -> dict[str, Count]:
        totals: dict[str, Count] = {}
        for source, count in self.counts.items():
            total = totals.setdefault(self.domains[source], Count())
            total.add(count.samples, count.tokens, count.supervised)
        return totals

    def to_json(self) -> dict[str, Any]:
        return {
            "domains": self.domains,
            "counts": {name: vars(count) for name, count in sorted(self.counts.items())},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Ledger":
        counts = {name: Count(**count) for name, count in value["counts"].items()}
        return cls(dict(value["domains"]), counts)


def compare(planned: Ledger, realized: Ledger) -> None:
    """Require equal counts, source by source.

    Raises:
        LedgerMismatch: lists every source that differs.
    """
    zero = Count()
    differing = [
        f"  {source}: planned {plan}, realized {real}"
        for source in sorted(planned.counts.keys() | realized.counts.keys())
        if (plan := planned.counts.get(source, zero)) != (real := realized.counts.get(source, zero))
    ]
    if differing:
        raise LedgerMismatch("planned and realized counts differ:\n" + "\n".join(differing))
