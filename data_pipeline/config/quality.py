"""Config models of the quality and domain model: where labels come from, how the scorer is trained."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from stemma.core.config import Config, execution_field

Share = Annotated[float, Field(ge=0, le=1)]


class EndpointConfig(Config):
    """A language model behind an OpenAI-compatible URL that labels documents of the corpus."""

    model: str = Field(min_length=1, description="its name, sent with every request; part of a label's key")
    documents: int = Field(
        ge=1, description="how many documents it labels, spread evenly over source, domain and length"
    )
    excerpt_chars: int = Field(
        4000, ge=200, description="longest excerpt of a document it is shown, in characters"
    )
    max_tokens: int = Field(400, ge=32, description="longest answer, in tokens")
    temperature: float = Field(0.0, ge=0, description="sampling temperature of the first attempt")
    attempts: int = Field(
        3, ge=1, description="answers asked for before a document counts as failed, the first included"
    )
    max_failed: Share = Field(
        0.2, description="the stage fails if a larger share of the documents stays without a valid answer"
    )
    base_url: str = execution_field(
        "http://127.0.0.1:8080/v1",
        pattern=r"^https?://[^/@]+(/.*)?$",  # a password in it would be shown wherever the profile is
        description="URL up to and including /v1, without user and password",
    )
    api_key_env: str = execution_field(
        "", description="environment variable that holds the API key; empty = no key is sent"
    )
    concurrency: int = execution_field(4, ge=1, description="requests under way at a time")
    timeout: float = execution_field(120.0, gt=0, description="seconds one answer may take")
    connection_attempts: int = execution_field(
        5, ge=1, description="tries of one request against errors of the server or the network"
    )
    backoff: float = execution_field(
        1.0, ge=0, description="seconds before the second try; doubles with each further one, at most 60"
    )
    prompt_price: float = execution_field(0.0, ge=0, description="price of a million prompt tokens")
    completion_price: float = execution_field(0.0, ge=0, description="price of a million answer tokens")


class ScorerConfig(Config):
    """The trained scorer: linear on hashed word n-grams and a few measures of the text's shape."""

    buckets: int = Field(
        1 << 18, ge=1 << 10, le=1 << 24, description="number of hash buckets, a power of two"
    )
    word_ngrams: int = Field(2, ge=1, le=3, description="longest n-gram of words")
    max_bytes: int = Field(
        16_384, ge=256, description="bytes of a document it reads; longer ones: beginning, middle and end"
    )
    min_documents: int = Field(
        3, ge=1, description="labelled documents an n-gram must occur in to get a weight"
    )
    l2: float = Field(
        3e-5, gt=0, description="weight of the squared norm of the parameters, per labelled document"
    )
    max_iterations: int = Field(80, ge=1, description="of L-BFGS")

    @model_validator(mode="after")
    def _power_of_two(self) -> Self:
        if self.buckets & (self.buckets - 1):
            raise ValueError(f"buckets must be a power of two, found {self.buckets}")
        return self


class QualityConfig(Config):
    """Labels, scorer and its evaluation. With neither labels nor an endpoint, nothing is scored."""

    taxonomy: str = Field("", description="path of a taxonomy file; empty = the one that comes with stemma")
    labels: tuple[str, ...] = Field(
        (),
        description="label files: a path (.jsonl, .csv), or the name of one that comes with stemma (`nano`)",
    )
    endpoint: EndpointConfig | None = Field(None, description="a model that labels documents as well")
    adjudicators: tuple[str, ...] = Field(
        (), description="annotators whose word is final where others disagree, the first named first"
    )
    min_labels: int = Field(
        50, ge=10, description="with fewer labelled documents in the corpus, no scorer is trained"
    )
    folds: int = Field(5, ge=2, le=20, description="of the cross-validation behind the evaluation card")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples behind its intervals")
    seed: int = Field(0, ge=0, description="of the draw of documents, the folds and the bootstrap")
    scorer: ScorerConfig = ScorerConfig()
    thresholds: tuple[Share, ...] = Field(
        (0.5, 0.65), description="bounds of quality that quality.json counts documents between"
    )

    @model_validator(mode="after")
    def _thresholds_rise(self) -> Self:
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError(f"thresholds must rise, found {list(self.thresholds)}")
        return self
