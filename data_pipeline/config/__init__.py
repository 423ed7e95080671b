"""Config models of the data pipeline. Nothing heavy is imported: a bad profile fails at once."""

from data_pipeline.config.corpus import CorpusConfig
from data_pipeline.config.curriculum import CurriculumConfig, PhaseConfig, PlanConfig, PlanEdit
from data_pipeline.config.dedup import DedupConfig
from data_pipeline.config.sources import (
    DebianSource,
    HuggingFaceSource,
    LocalSource,
    PackageSource,
    PythonSource,
    SourceBase,
)
from data_pipeline.config.tokens import TokensConfig

__all__ = [
    "CorpusConfig",
    "CurriculumConfig",
    "DebianSource",
    "DedupConfig",
    "HuggingFaceSource",
    "LocalSource",
    "PackageSource",
    "PhaseConfig",
    "PlanConfig",
    "PlanEdit",
    "PythonSource",
    "SourceBase",
    "TokensConfig",
]
