"""What is measured of a model while a stage trains it, besides bits per byte."""

from pydantic import Field

from stemma.core.config import Config


class MonitorConfig(Config):
    """Measurements along the way. They never change what is trained."""

    positions_every: int = Field(
        0,
        ge=0,
        description="steps over which the training loss is averaged by position in the sequence and the "
        "positional law is fitted to it; the window also ends with a phase; 0: never",
    )
    needles: int = Field(
        0,
        ge=0,
        description="sentences hidden at each of five depths of a held-out text, as long as the sequences of "
        "the phase, at each phase's end: can the model say what they said? 0: not asked",
    )
