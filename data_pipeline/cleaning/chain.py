"""Filter chains: from the steps of a profile to the steps of a datatrove pipeline."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.cleaning.c4 import C4
from data_pipeline.cleaning.language import LanguageIs
from data_pipeline.cleaning.licence import LicenceIsPermitted
from data_pipeline.cleaning.lines import LineRules
from data_pipeline.cleaning.normalise import NormaliseText
from data_pipeline.cleaning.pii import ReplacePII
from data_pipeline.cleaning.prose import FineWeb, GopherQuality
from data_pipeline.cleaning.records import RejectWriter, Tally
from data_pipeline.cleaning.repetition import GopherRepetition

NOTHING_LEFT = "nothing_left"  # the rule of texts that the steps emptied

# name -> (options, language, writer of rejects) -> step
BUILDERS: dict[str, Callable[[Any, str, DiskWriter], PipelineStep]] = {
    "language": lambda options, language, rejects: LanguageIs(language, options, rejects),
    "gopher_repetition": lambda options, language, rejects: GopherRepetition(language, options, rejects),
    "gopher_quality": lambda options, language, rejects: GopherQuality(language, options, rejects),
    "c4": lambda options, language, rejects: C4(language, options, rejects),
    "fineweb": lambda options, language, rejects: FineWeb(language, options, rejects),
    "source_code": lambda options, language, rejects: LineRules(options, rejects),
    "technical": lambda options, language, rejects: LineRules(options, rejects),
    "maths": lambda options, language, rejects: LineRules(options, rejects),
    "normalise": lambda options, language, rejects: NormaliseText(options),
    "pii": lambda options, language, rejects: ReplacePII(options),
    "licence": lambda options, language, rejects: LicenceIsPermitted(options, rejects),
}


def build_chain(steps: tuple[Any, ...], language: str, rejects: Path, tallies: Path) -> list[PipelineStep]:
    """The steps of a filter chain for one language, each followed by a tally.

    Args:
        steps: models of ``data_pipeline.config.cleaning``, in running order.
        language: ISO 639-1 code of the texts.
        rejects: folder for the rejects; each step gets a folder in it.
        tallies: folder for the tallies, by the steps' names.
    """
    chain: list[PipelineStep] = [Recall()]
    for step in steps:
        chain.append(BUILDERS[step.name](step, language, RejectWriter(rejects / step.name)))
        chain.append(Tally(tallies, step.name))
    return chain


class Recall(PipelineStep):
    """Before the first step: what the reader knew of a document; drafts carry it as JSON."""

    type = "🖊 - RECALL"
    name = "what the reader found"

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for document in data:
            if known := document.metadata.get("decisions"):
                document.metadata |= json.loads(known)
                document.metadata |= document.metadata.get("about", {})
            yield document


class Decide(PipelineStep):
    """After the last step: the id of the text as it is now, and what the steps found, as JSON.

    A text of which the steps have left nothing is no document.
    """

    type = "🖊 - DECIDE"
    name = "decisions"

    def __init__(
        self,
        passed: tuple[str, ...],
        identify: Callable[[str, str, str], str],
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        super().__init__()
        self.passed = passed
        self.identify = identify
        self.exclusion_writer = exclusion_writer

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with self.exclusion_writer or contextlib.nullcontext() as rejects:
            for document in data:
                about = document.metadata
                decisions: dict[str, Any] = {"passed": list(self.passed)}
                if "language_score" in about:
                    decisions["language_score"] = round(about["language_score"], 4)
                decisions |= {name: about[name] for name in ("about", "found") if about.get(name)}
                about["decisions"] = json.dumps(decisions, sort_keys=True)
                if document.text.strip():
                    document.id = self.identify(about["source"], about["origin"], document.text)
                    yield document
                elif rejects:
                    about["filter_reason"] = NOTHING_LEFT
                    rejects.write(document, rank)
