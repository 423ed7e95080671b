"""How often text may be repeated: what a phase asks of a source against source x cap."""

from collections.abc import Mapping
from dataclasses import dataclass

from data_pipeline.config import PhaseConfig
from data_pipeline.curriculum.cursor import Cursor, Reader
from data_pipeline.curriculum.plan import PlannedSource, reading
from stemma.core.errors import StemmaError


class PlanError(StemmaError):
    """A curriculum cannot be carried out with the tokens there are."""


@dataclass(frozen=True)
class Caps:
    """The caps of one phase.

    Each source, and each tier, has one of its own. A source's cap also counts over all its tiers together,
    which matters where a tier may be repeated more often than its source.

    Attributes:
        phase: with its exceptions.
        max_epochs: the cap of what it makes no exception for.
        sources: what may be read, by name.
    """

    phase: PhaseConfig
    max_epochs: int
    sources: Mapping[str, PlannedSource]

    def of(self, name: str) -> int:
        """The cap of a source or tier."""
        source = self.sources[name]
        tier = () if source.tier is None else (f"t{source.tier}", source.parent)
        return self._first(name, *tier, source.domain)

    def _first(self, *names: str) -> int:
        """The exception under the first of these names that has one, else the general cap."""
        caps = self.phase.max_epochs
        return next((caps[name] for name in names if name in caps), self.max_epochs)

    def exceeded(self, readers: Mapping[str, Reader], counts: Mapping[str, int]) -> list[str]:
        """A line for every source or tier of which the phase asks for more samples than its cap leaves.

        Args:
            readers: the sources of the phase, from where they stand.
            counts: samples asked of each.
        """
        length, lines = self.phase.sequence_length, []
        for name, asked in counts.items():
            source, reader, cap = self.sources[name], readers[name], self.of(name)
            available = reader.available(cap)
            if asked > available:
                lines.append(
                    f"  {name}: asked {asked} samples of {length} ({asked * length:,} tokens), available "
                    f"{available} ({available * length:,} tokens): source x cap is "
                    f"{source.universe.tokens:,} tokens x {cap} epochs, and it is in its "
                    f"{reading(reader.cursor.epoch)}"
                )
        return lines

    def exceeded_by_tiers(
        self, readers: Mapping[str, Reader], counts: Mapping[str, int], standing: Mapping[str, Cursor]
    ) -> list[str]:
        """A line for every source of whose tiers together the phase asks for more than its cap leaves.

        Args:
            readers: the sources of the phase, from where they stand.
            counts: samples asked of each.
            standing: where every source ever read stands.
        """
        length, lines = self.phase.sequence_length, []
        for parent in sorted({self.sources[name].parent for name in counts} - {""}):
            tiers = {
                name: source.universe for name, source in self.sources.items() if source.parent == parent
            }
            cap = self._first(parent, next(self.sources[name].domain for name in tiers))
            reached = dict(standing)
            reached |= {name: readers[name].advance(counts[name])[0] for name in tiers if name in counts}
            used, after = (
                sum(tiers[name].consumed(at) for name, at in cursors.items() if name in tiers)
                for cursors in (standing, reached)
            )
            size = sum(universe.positions for universe in tiers.values())
            if after > cap * size:
                asked = sum(counts.get(name, 0) for name in tiers) * length
                lines.append(
                    f"  {parent}, its tiers together: asked {asked:,} tokens, available "
                    f"{max(0, cap * size - used):,} tokens: source x cap is {size:,} tokens x {cap} epochs, "
                    f"of which {used:,} are read"
                )
        return lines
