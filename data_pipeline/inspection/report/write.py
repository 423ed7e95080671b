"""The reports of a run, written where a person finds them: ``runs/<run>/reports/``."""

from collections.abc import Mapping
from pathlib import Path

from data_pipeline.inspection.lookup import PLAN, need
from data_pipeline.inspection.report import corpus_figures, mix_figures
from data_pipeline.inspection.report.corpus_page import corpus_page
from data_pipeline.inspection.report.mix_page import mix_page
from stemma.core.artifact import Artifact
from stemma.core.files import write_atomic

FOLDER = "reports"


def write_corpus_report(artifacts: Mapping[str, Artifact], folder: Path, run: str) -> Path:
    """Write ``corpus.html``.

    Args:
        artifacts: the run's, by node name.
        folder: the run's folder.
        run: its name.

    Raises:
        StemmaError: the run has no corpus yet.
    """
    figures = corpus_figures.gather(need(artifacts, "corpus"), artifacts.get("quality"))
    path = folder / FOLDER / "corpus.html"
    write_atomic(path, corpus_page(figures, run))
    return path


def write_mix_report(
    artifacts: Mapping[str, Artifact], folder: Path, run: str, working: Mapping[str, Path] | None = None
) -> Path:
    """Write ``mix.html``.

    Args:
        artifacts: the run's sealed ones, by node name.
        folder: the run's folder.
        run: its name.
        working: folders of its nodes that are being made.

    Raises:
        StemmaError: the run has no plan yet.
    """
    path = folder / FOLDER / "mix.html"
    write_atomic(path, mix_page(mix_figures.gather(artifacts, working), run))
    return path


def write_reports(artifacts: Mapping[str, Artifact], folder: Path, run: str) -> list[Path]:
    """Write the reports that what a run has made allows."""
    made = []
    if "corpus" in artifacts:
        made.append(write_corpus_report(artifacts, folder, run))
    if "tokenizer" in artifacts and any(name.startswith(PLAN) for name in artifacts):
        made.append(write_mix_report(artifacts, folder, run))
    return made
