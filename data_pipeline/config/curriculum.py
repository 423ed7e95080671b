"""Config models of the curriculum: phases, weights, caps."""

from itertools import pairwise

from pydantic import Field, model_validator

from stemma.core.config import Config


class PhaseConfig(Config):
    """A stretch of training with one mix and one sequence length."""

    name: str = Field(pattern=r"^[a-z0-9_]+$", description="for people; unique in its stage")
    tokens: int = Field(ge=1, description="budget in tokens, rounded down to whole optimizer steps")
    sequence_length: int = Field(
        ge=1, description="predicted tokens per sample; divides `tokens.sequence_chunk`"
    )
    weights: dict[str, float] = Field(
        min_length=1,
        description="share of the tokens by source, tier (`fineweb.t2`) or domain, in any unit; a domain's "
        "share is divided over its sources, a source's over its tiers, by tokens, without those that have a "
        "weight of their own",
    )
    upsample: dict[str, float] = Field(
        {},
        description="factor on a quality tier's tokens where a source's or a domain's share is divided: by "
        "tier of every source (`t2`) or of one (`fineweb.t2`); 0 leaves it out",
    )
    max_epochs: dict[str, int] = Field(
        {},
        description="exceptions from the stage's `max_epochs`, by source, tier or domain; a source's cap "
        "counts over all its tiers",
    )
    document_mask: bool = Field(
        False,
        description="attention stays inside a document; false: it sees what stands before it in the row",
    )

    @model_validator(mode="after")
    def _weights_add_up(self) -> "PhaseConfig":
        negative = sorted(name for name, weight in self.weights.items() if not 0 <= weight < float("inf"))
        if negative:
            raise ValueError(f"weights must be finite and not negative: {', '.join(negative)}")
        if not any(self.weights.values()):
            raise ValueError("every weight is zero; give at least one source or domain a share")
        if wrong := sorted(name for name, factor in self.upsample.items() if not 0 <= factor < float("inf")):
            raise ValueError(f"upsample factors must be finite and not negative: {', '.join(wrong)}")
        if low := sorted(name for name, epochs in self.max_epochs.items() if epochs < 1):
            raise ValueError(f"max_epochs must be at least 1: {', '.join(low)}")
        return self


class PlanEdit(Config):
    """A change of the mix in the middle of a stage. Steps before it, and what they read, stay as they are."""

    at_step: int = Field(
        ge=1, description="optimizer steps that keep the mix there was; the phase they end in ends with them"
    )
    phases: tuple[PhaseConfig, ...] = Field(
        min_length=1, description="what follows, in place of all that was planned after that step"
    )
    max_epochs: int | None = Field(
        None, ge=1, description="cap on epochs from there on; null: the stage's `max_epochs`"
    )


class CurriculumConfig(Config):
    """The mix of one training stage: phases in order."""

    phases: tuple[PhaseConfig, ...] = Field(min_length=1, description="phases in the order they are trained")
    max_epochs: int = Field(
        4, ge=1, description="how often a source or tier may be read, counted from the first stage on"
    )
    block: int = Field(
        64,
        ge=1,
        description="samples after which every source's count is within one of its exact share; enlarged "
        "where a source is rarer than one sample per block",
    )
    window: int = Field(
        64,
        ge=1,
        description="super-chunks read side by side, so that neighbouring samples differ in document",
    )
    seed: int = Field(1234, ge=0, description="seed of the order of sources and of super-chunks")
    edits: tuple[PlanEdit, ...] = Field(
        (), description="changes of the mix made while the stage trained, by step; `stemma mix edit` adds one"
    )

    @property
    def all_phases(self) -> tuple[PhaseConfig, ...]:
        """The phases first planned, and those that edits bring."""
        return self.phases + tuple(phase for edit in self.edits for phase in edit.phases)

    @model_validator(mode="after")
    def _edits_are_in_order(self) -> "CurriculumConfig":
        steps = [edit.at_step for edit in self.edits]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"edits must be at rising steps, each once; they are at {steps}")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> "CurriculumConfig":
        names = [phase.name for phase in self.phases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"phases share a name: {', '.join(twice)}")
        return self


class PlanConfig(Config):
    """What a stage's plan depends on: its curriculum, and the batch, because a phase is whole steps."""

    curriculum: CurriculumConfig = Field(description="the stage's phases")
    global_batch_size: int = Field(
        ge=1,
        description="sequences in one optimizer step at the length of the stage's first phase; phases of "
        "other lengths keep the tokens per step",
    )

    @model_validator(mode="after")
    def _steps_keep_their_tokens(self) -> "PlanConfig":
        batch_tokens = self.batch_tokens
        for phase in self.curriculum.all_phases:
            if batch_tokens % phase.sequence_length:
                raise ValueError(
                    f"phase {phase.name!r}: its sequence length {phase.sequence_length} does not divide the "
                    f"{batch_tokens} tokens of a step ({self.global_batch_size} sequences of "
                    f"{self.curriculum.phases[0].sequence_length}); change one of them"
                )
            if phase.tokens < batch_tokens:
                raise ValueError(
                    f"phase {phase.name!r}: {phase.tokens} tokens are less than one step ({batch_tokens})"
                )
        return self

    @property
    def edits(self) -> tuple[PlanEdit, ...]:
        """The changes of the mix, in order."""
        return self.curriculum.edits

    @property
    def stretches(self) -> list[tuple[PhaseConfig, int]]:
        """Phases as they are carried out, each with its optimizer steps: an edit ends the phase it comes in,
        and its own follow."""
        made = [(phase, phase.tokens // self.batch_tokens) for phase in self.curriculum.phases]
        for edit in self.edits:
            kept, left = [], edit.at_step
            for phase, steps in made:
                taken = min(steps, left)
                left -= taken
                kept += [(phase, taken)] if taken else []
            made = kept + [(phase, phase.tokens // self.batch_tokens) for phase in edit.phases]
        return made

    def edited(self, edit: PlanEdit) -> "PlanConfig":
        """The config with one more edit, validated as a whole.

        Raises:
            ValidationError: the edit does not come after those there are, or its phases do not fit the batch.
        """
        tree = self.model_dump()
        tree["curriculum"]["edits"] = [*tree["curriculum"]["edits"], edit.model_dump()]
        return PlanConfig.model_validate(tree)

    @property
    def batch_tokens(self) -> int:
        """Predicted tokens of one optimizer step."""
        return self.global_batch_size * self.curriculum.phases[0].sequence_length
