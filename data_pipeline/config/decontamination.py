"""Config model of decontamination: when a training document shares too much with an evaluation set."""

from typing import Literal

from pydantic import Field, model_validator

from stemma.core.config import Config, execution_field


class DecontaminationConfig(Config):
    """Word n-grams that documents share with evaluation items, as in GPT-3 (arXiv 2005.14165, appendix C).

    Words are compared without case, accents and punctuation; numbers count as words, and in scripts without
    spaces every character does.
    """

    n: int = Field(13, ge=2, le=64, description="words in an n-gram; a shorter item is one as a whole")
    min_n: int = Field(
        8,
        ge=2,
        description="words; an item with fewer is too unspecific to look for: it is counted unchecked",
    )
    template_items: int = Field(
        10,
        ge=1,
        description="an n-gram in more items of one evaluation source than this is its template (a prompt, a "
        "licence text): it is listed and not looked for",
    )
    min_overlap: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of an item's n-grams that a document must hold to be contaminated by it; 0: one "
        "is enough. What stays below is listed and kept",
    )
    policy: Literal["reject", "remove"] = Field(
        "reject", description="reject a contaminated document, or cut the shared text out of it"
    )
    window: int = Field(200, ge=0, description="characters cut on both sides of shared text, up to a space")
    max_spans: int = Field(
        10, ge=1, description="a document with more pieces to cut out is rejected even if `policy` is remove"
    )
    min_piece: int = Field(
        200, ge=0, description="characters; what is left between two cuts is dropped if it is shorter"
    )
    required: bool = execution_field(
        False,
        description="whether an evaluation set that is out of reach stops the run; else documents are not "
        "compared with it, and the run says so",
    )

    @model_validator(mode="after")
    def _short_is_short(self) -> "DecontaminationConfig":
        if self.min_n > self.n:
            raise ValueError(f"min_n ({self.min_n}) is above n ({self.n}); nothing could be looked for")
        return self
