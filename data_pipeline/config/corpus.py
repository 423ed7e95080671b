"""Config models of the corpus: filter chains, deduplication, splits."""

from typing import Annotated

from pydantic import Field, model_validator

from data_pipeline.config.cleaning import Chain
from data_pipeline.config.decontamination import DecontaminationConfig
from data_pipeline.config.dedup import DedupConfig
from data_pipeline.config.executor import AnyExecutor, LocalExecutor
from data_pipeline.config.sources import Source, SourceId
from stemma.core.config import Config, execution_field

ChainName = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]  # names folders of the work


class CorpusConfig(Config):
    """From sources to clean, deduplicated documents."""

    sources: dict[SourceId, Source] = Field(min_length=1, description="sources by id")
    filters: dict[ChainName, Chain] = Field(description="filter chains by name, in running order")
    dedup: DedupConfig = Field(DedupConfig(), description="near-duplicate removal over all sources together")
    decontamination: DecontaminationConfig = Field(
        DecontaminationConfig(),
        description="what documents may share with the sources whose `use` is `eval` or `decontaminate`",
    )
    valid_fraction: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="share of each source's kept documents held out, chosen by hash, rounded up",
    )
    max_document_bytes: int = Field(
        100_000,
        ge=1_000,
        description="longer documents are cut at line ends into parts of at most this many bytes",
    )

    extends: str = execution_field(
        "",
        description="an earlier corpus to go on from, by the name of its run or its path: it is taken over "
        "as it is, and only sources it does not have are read; its fingerprint is part of the result's",
    )
    executor: AnyExecutor = execution_field(LocalExecutor(), description="where the work is done")

    @model_validator(mode="after")
    def _names_exist(self) -> "CorpusConfig":
        for name, source in self.sources.items():
            if source.use == "train" and source.filters not in self.filters:
                raise ValueError(
                    f"sources.{name}.filters: no chain {source.filters!r}; there are {sorted(self.filters)}"
                )
        unknown = sorted(set(self.dedup.prefer) - self.sources.keys())
        if unknown and not self.extends:  # what is extended may have sources that are not listed again
            raise ValueError(f"dedup.prefer: no source {unknown[0]!r}; there are {sorted(self.sources)}")
        return self
