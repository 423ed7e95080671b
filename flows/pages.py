"""The HTML reports of a run, brought up to date when a stage that they show is made."""

from pathlib import Path

from stemma.core.files import read_json
from stemma.groups import GROUPS
from stemma.pipeline import Run

TRAINING = {name for group in ("pretrain", "midtrain", "sft", "rl") for name in GROUPS[group].nodes}


def refresh(walk: Run, node: str) -> list[Path]:
    """Write the reports that a node changes, from what the run has made so far; returns their paths."""
    made = walk.artifacts
    pages: list[Path] = []
    if node in ("corpus", "quality") and "corpus" in made:
        from data_pipeline.inspection.report.write import write_corpus_report

        pages.append(write_corpus_report(made, walk.folder, walk.name))
    if node == "tokenizer" and made[node].kind == "tokenizer":
        pages += _tokenizer(walk)
    if node in TRAINING:
        from pretrain.report.write import write_training_report

        written = write_training_report(made, walk.folder, walk.name)
        pages += [written] if written else []
    if f"plan.{node}" in made and "tokenizer" in made:
        from data_pipeline.inspection.report.write import write_mix_report

        pages.append(write_mix_report(made, walk.folder, walk.name))
    return pages


def _tokenizer(walk: Run) -> list[Path]:
    from tokenizer.report.write import REPORT, write_report

    measured = read_json(walk.artifacts["tokenizer"].file(REPORT))
    if not measured["groups"]:  # a corpus with nothing to measure on
        return []
    return [write_report(measured, walk.folder / "reports", walk.name)]
