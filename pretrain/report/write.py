"""Where a run's training page is written."""

from collections.abc import Mapping
from pathlib import Path

from data_pipeline.inspection.report.write import FOLDER
from pretrain.report.figures import gather
from pretrain.report.page import training_page
from stemma.core.artifact import Artifact
from stemma.core.files import write_atomic


def write_training_report(
    artifacts: Mapping[str, Artifact], folder: Path, run: str, working: Mapping[str, Path] | None = None
) -> Path | None:
    """Write ``training.html`` into the run's folder; None: no stage has trained a step.

    Args:
        artifacts: the run's, by node name.
        folder: the run's folder.
        run: its name.
        working: folders of its nodes that are being made.
    """
    stages = gather(artifacts, working or {})
    if not stages:
        return None
    path = folder / FOLDER / "training.html"
    write_atomic(path, training_page(stages, run))
    return path
