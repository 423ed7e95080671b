"""The plan of a training stage: which tokens sample ``g`` consists of, as a pure function of a small JSON
file.

For any sample, ``layout.py`` says which source it comes from and which of that source's samples it is, and
``cursor.py`` where that one begins. Nothing is stored per sample, so a plan over 10^12 tokens is as small as
one over 10^5, every data-parallel rank computes its own share, and resuming needs only a step number. All
arithmetic is on Python integers. ``build.py`` makes plans.

A stage's plan starts from the cursors the plan before ended with, and ``Plan.cursors(upto)`` gives them at
any sample: so a mix can be changed in the middle of a stage without reading anything twice or leaving
anything out.
"""

from bisect import bisect_right
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.curriculum.cursor import Cursor, Reader, Universe
from data_pipeline.curriculum.layout import Layout
from stemma.core.errors import DamagedError
from stemma.core.files import read_json
from stemma.core.ledger import Ledger

SCHEMA = 1
SPLIT = "train"
PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class PlannedSource:
    """A source a plan may read.

    Attributes:
        universe: its size and the seed of its order.
        domain: the part of the mix it counts for.
        role: which input of a stage holds its shard: ``tokens`` or ``agent_tokens``.
        fingerprint: of that tokens artifact.
        parent: the source that it is a quality tier of; empty if it is a whole source.
        tier: which one, from 0 for the lowest.
    """

    universe: Universe
    domain: str
    role: str
    fingerprint: str
    parent: str = ""
    tier: int | None = None


@dataclass(frozen=True)
class Location:
    """What one sample consists of.

    Attributes:
        source: the source it comes from.
        domain: the source's domain.
        epoch: how often the source has been read before, from the first stage on: 0 in its 1st reading.
        start_token: first token in the source's ``train`` shard; the sample reads ``start .. start +
            length``, the last one as a label only.
        sequence_length: predicted tokens.
        phase: index of its phase.
    """

    source: str
    domain: str
    epoch: int
    start_token: int
    sequence_length: int
    phase: int


@dataclass(frozen=True)
class Batch:
    """The samples of one optimizer step: ``first_sample .. first_sample + samples - 1``, all of one phase."""

    phase: int
    first_sample: int
    samples: int


@dataclass(frozen=True)
class Phase:
    """A stretch with one mix and one sequence length.

    Attributes:
        name: for people.
        sequence_length: predicted tokens per sample.
        first_sample: its first sample, counted from the stage's beginning.
        samples: how many it has.
        first_step: its first optimizer step.
        batch_samples: samples of one step.
        counts: samples by source, all above zero.
        laid_out: the counts its layout is made for: those it was planned with, where an edit ended it early.
        cursors: where those sources stood at its beginning.
        waste: by source, positions given up in this phase because an epoch ended with less than a sample
            unread.
        block: smallest block of the layout, in samples.
        window: super-chunks read side by side.
        key: seeds the layout.
        weights: what was asked for.
        upsample: what tiers' parts were multiplied by.
        document_mask: attention stays inside documents.
    """

    name: str
    sequence_length: int
    first_sample: int
    samples: int
    first_step: int
    batch_samples: int
    counts: dict[str, int]
    laid_out: dict[str, int]
    cursors: dict[str, Cursor]
    waste: dict[str, int]
    block: int
    window: int
    key: int
    weights: dict[str, float]
    upsample: dict[str, float] = field(default_factory=dict)
    document_mask: bool = False

    @property
    def tokens(self) -> int:
        """Predicted tokens of the phase."""
        return self.samples * self.sequence_length

    @property
    def steps(self) -> int:
        """Optimizer steps of the phase."""
        return self.samples // self.batch_samples

    @cached_property
    def sources(self) -> list[str]:
        """The sources of its layout, in the layout's order."""
        return sorted(self.laid_out)

    @property
    def ended_early(self) -> bool:
        """An edit ended it before it had all its samples."""
        return self.counts != self.laid_out

    @cached_property
    def layout(self) -> Layout:
        """The order of its samples by source."""
        return Layout([self.laid_out[name] for name in self.sources], self.block, self.key)


@dataclass(frozen=True)
class Plan:
    """The plan of one training stage. See the module's docstring.

    Attributes:
        sources: every source that may be read, by name.
        phases: in order.
        cursors_in: where the sources stood before the stage; those never read are absent.
        batch_tokens: predicted tokens of one optimizer step.
    """

    sources: dict[str, PlannedSource]
    phases: tuple[Phase, ...]
    cursors_in: dict[str, Cursor]
    batch_tokens: int
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", tuple(phase.first_sample for phase in self.phases))

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Read ``plan.json``, or the one inside an artifact's folder.

        Raises:
            DamagedError: it is not a plan of the schema this version writes.
        """
        path = path / PLAN_FILE if path.is_dir() else path
        return plan_from_json(read_json(path), path)

    @property
    def total_samples(self) -> int:
        """Samples of the stage."""
        return sum(phase.samples for phase in self.phases)

    @property
    def total_tokens(self) -> int:
        """Predicted tokens of the stage."""
        return sum(phase.tokens for phase in self.phases)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the stage."""
        return sum(phase.steps for phase in self.phases)

    @property
    def domains(self) -> dict[str, str]:
        """Domain of every source."""
        return {name: source.domain for name, source in self.sources.items()}

    def phase_of(self, sample: int) -> int:
        """Index of the phase a sample belongs to.

        Raises:
            IndexError: the stage has no such sample.
        """
        if not 0 <= sample < self.total_samples:
            raise IndexError(f"sample {sample} is outside a stage of {self.total_samples} samples")
        return bisect_right(self._starts, sample) - 1

    def batch(self, step: int) -> Batch:
        """The samples of an optimizer step, counted from 0.

        Raises:
            IndexError: the stage has no such step.
        """
        if not 0 <= step < self.total_steps:
            raise IndexError(f"step {step} is outside a stage of {self.total_steps} steps")
        index = bisect_right([phase.first_step for phase in self.phases], step) - 1
        phase = self.phases[index]
        first = phase.first_sample + (step - phase.first_step) * phase.batch_samples
        return Batch(index, first, phase.batch_samples)

    def locate(self, sample: int) -> Location:
        """Where a sample's tokens are.

        Raises:
            IndexError: the stage has no such sample.
        """
        index = self.phase_of(sample)
        phase = self.phases[index]
        position, number = phase.layout.locate(sample - phase.first_sample)
        name = phase.sources[position]
        epoch, start = self.reader(index, name).locate(number)
        return Location(name, self.sources[name].domain, epoch, start, phase.sequence_length, index)

    def locate_range(self, first: int, count: int) -> list[Location]:
        """``locate`` of the samples ``first .. first + count - 1``: a whole batch at a time, for loaders.

        Raises:
            IndexError: the stage has no such samples.
        """
        found: list[Location] = []
        while len(found) < count:
            sample = first + len(found)
            index = self.phase_of(sample)
            phase = self.phases[index]
            inside = min(first + count, phase.first_sample + phase.samples) - sample
            positions, numbers = phase.layout.locate_range(sample - phase.first_sample, inside)
            made: list[Location | None] = [None] * inside
            for position in np.unique(positions).tolist():
                name = phase.sources[position]
                domain, length = self.sources[name].domain, phase.sequence_length
                rows = np.flatnonzero(positions == position)
                places = self.reader(index, name).locate_many(numbers[rows])
                for row, (epoch, start) in zip(rows.tolist(), places):
                    made[row] = Location(name, domain, epoch, start, length, index)
            found += [location for location in made if location]
        return found

    def reader(self, phase: int, source: str) -> Reader:
        """A source as a phase reads it."""
        at = self.phases[phase]
        return Reader(self.sources[source].universe, at.cursors[source], at.sequence_length, at.window)

    def counts(self, upto: int) -> Ledger:
        """What the first ``upto`` samples consist of, by arithmetic. Every position carries loss.

        Raises:
            IndexError: ``upto`` is not in ``range(total_samples + 1)``.
        """
        if not 0 <= upto <= self.total_samples:
            raise IndexError(f"{upto} samples of a stage of {self.total_samples}")
        ledger = Ledger(self.domains)
        for phase, samples in self._samples_by_phase(upto):
            for name, count in samples.items():
                tokens = count * phase.sequence_length
                ledger.record(name, count, tokens, tokens)
        return ledger

    def planned(self, step: int) -> Ledger:
        """What the first ``step`` optimizer steps consist of.

        Raises:
            IndexError: ``step`` is not in ``range(total_steps + 1)``.
        """
        if step == 0:
            return self.counts(0)
        last = self.batch(step - 1)
        return self.counts(last.first_sample + last.samples)

    def cursors(self, upto: int | None = None) -> dict[str, Cursor]:
        """Where every source ever read stands after ``upto`` samples; after the whole stage by default."""
        reached = dict(self.cursors_in)
        for phase, samples in self._samples_by_phase(self.total_samples if upto is None else upto):
            for name, count in samples.items():
                reader = Reader(
                    self.sources[name].universe, phase.cursors[name], phase.sequence_length, phase.window
                )
                reached[name] = reader.advance(count)[0]
        return reached

    def _samples_by_phase(self, upto: int) -> list[tuple[Phase, dict[str, int]]]:
        """Samples by source (zeros left out) of every phase that begins before ``upto``."""
        found = []
        for phase in self.phases:
            if (inside := min(upto - phase.first_sample, phase.samples)) > 0:
                counts = zip(phase.sources, phase.layout.counts_before(inside))
                found.append((phase, {name: count for name, count in counts if count}))
        return found

    def samples_reading(self, source: str, start: int, stop: int) -> list[int]:
        """The samples of the stage that read or predict any of a source's tokens ``start .. stop - 1``,
        ascending.

        Arithmetic (the inverse of ``locate``), not a scan: the cost grows with the super-chunks touched and
        the epochs.
        """
        found = []
        for index, phase in enumerate(self.phases):
            if source not in phase.counts:
                continue
            position = phase.sources.index(source)
            for number in self.reader(index, source).numbers(start, stop, phase.counts[source]):
                found.append(phase.first_sample + phase.layout.position(position, number))
        return sorted(found)

    def to_json(self) -> dict[str, Any]:
        """The content of ``plan.json``."""
        return {
            "schema": SCHEMA,
            "batch_tokens": self.batch_tokens,
            "total_samples": self.total_samples,
            "total_tokens": self.total_tokens,
            "total_steps": self.total_steps,
            "sources": {
                name: {
                    "domain": source.domain,
                    "role": source.role,
                    "fingerprint": source.fingerprint,
                    "shard": f"{SPLIT}/{name}",
                    "tokens": source.universe.tokens,
                    "chunk": source.universe.chunk,
                    "seed": source.universe.seed,
                    "parent": source.parent,
                    "tier": source.tier,
                }
                for name, source in self.sources.items()
            },
            "phases": [
                {
                    **{entry.name: getattr(phase, entry.name) for entry in fields(phase)},
                    "cursors": {name: cursor.to_json() for name, cursor in phase.cursors.items()},
                }
                for phase in self.phases
            ],
            "cursors_in": {name: cursor.to_json() for name, cursor in self.cursors_in.items()},
            "cursors_out": {name: cursor.to_json() for name, cursor in self.cursors().items()},
        }


def reading(epoch: int) -> str:
    """What people call an epoch, which records count from 0: ``1st reading``."""
    number = epoch + 1
    last = 0 if number // 10 % 10 == 1 else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') } reading"


def plan_from_json(value: Any, path: Path) -> Plan:
    """Rebuild a plan from the content of ``plan.json``.

    Raises:
        DamagedError: it is of another schema, or does not add up.
    """
    try:
        if value["schema"] != SCHEMA:
            raise DamagedError(
                f"{path} is a plan of schema {value['schema']}; this version reads schema {SCHEMA}"
            )
        sources = {
            name: PlannedSource(
                Universe(name, entry["tokens"], entry["chunk"], entry["seed"]),
                entry["domain"],
                entry["role"],
                entry["fingerprint"],
                entry.get("parent", ""),
                entry.get("tier"),
            )
            for name, entry in value["sources"].items()
        }
        phases = tuple(
            Phase(
                **{
                    "laid_out": entry["counts"],  # absent in plans made before plans could be edited
                    **entry,
                    "cursors": {name: Cursor.from_json(at) for name, at in entry["cursors"].items()},
                }
            )
            for entry in value["phases"]
        )
        cursors_in = {name: Cursor.from_json(at) for name, at in value["cursors_in"].items()}
        plan = Plan(sources, phases, cursors_in, value["batch_tokens"])
        sums = [sum(phase.counts.values()) == phase.samples for phase in phases]
        if not all(sums) or plan.total_samples != value["total_samples"]:
            raise DamagedError(
                f"{path}: the sample counts of its phases do not add up. It was left as it is."
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(
            f"{path} is not a plan ({type(error).__name__}: {error}). It was left as it is."
        ) from error
    return plan
