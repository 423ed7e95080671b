"""Filter chains: from the steps of a profile to the steps of a datatrove pipeline."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.cleaning import filters
from data_pipeline.cleaning.filters import RejectWriter, SplitOnce, Tally
from data_pipeline.cleaning.licence import LicenceIsPermitted
from data_pipeline.cleaning.normalise import NormaliseText
from data_pipeline.cleaning.pii import ReplacePII

# name -> (options, language, writer of rejects) -> step
BUILDERS: dict[str, Callable[[Any, str, DiskWriter], PipelineStep]] = {
    "language": filters.language_is,
    "gopher_repetition": filters.gopher_repetition,
    "gopher_quality": filters.gopher_quality,
    "c4": filters.c4,
    "fineweb": filters.fineweb,
    "source_code": filters.line_rules,
    "technical": filters.line_rules,
    "normalise": lambda options, language, rejects: NormaliseText(options),
    "pii": lambda options, language, rejects: ReplacePII(options),
    "licence": lambda options, language, rejects: LicenceIsPermitted(options, rejects),
}
SPLITS_WORDS = {"gopher_repetition", "gopher_quality", "c4", "fineweb"}


def build_chain(steps: tuple[Any, ...], language: str, rejects: Path, tallies: Path) -> list[PipelineStep]:
    """The steps of a filter chain for one language, each followed by a tally.

    Args:
        steps: models of ``data_pipeline.config.cleaning``, in running order.
        language: ISO 639-1 code of the texts.
        rejects: folder for the rejects; each step gets a folder in it.
        tallies: folder for the tallies, by the steps' names.
    """
    chain: list[PipelineStep] = []
    if SPLITS_WORDS & {step.name for step in steps}:
        chain.append(SplitOnce(language))
    for step in steps:
        chain.append(BUILDERS[step.name](step, language, RejectWriter(rejects / step.name)))
        chain.append(Tally(tallies, step.name))
    return chain


class Decide(PipelineStep):
    """After the last step: the id of the text as it is now, and what the steps found, as JSON."""

    type = "🖊 - DECIDE"
    name = "decisions"

    def __init__(self, passed: tuple[str, ...], identify: Callable[[str, str, str], str]) -> None:
        super().__init__()
        self.passed = passed
        self.identify = identify

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            about = document.metadata
            decisions: dict[str, Any] = {"passed": list(self.passed)}
            if "language_score" in about:
                decisions["language_score"] = round(about["language_score"], 4)
            if found := about.get("found"):
                decisions["found"] = found
            about["decisions"] = json.dumps(decisions, sort_keys=True)
            document.id = self.identify(about["source"], about["origin"], document.text)
            yield document
