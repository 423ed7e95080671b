"""The quality stage: labels -> a trained scorer with its evaluation card -> scores of every document.

Files of the artifact: ``taxonomy.yaml`` (as used), ``labels.jsonl`` (what was trained on, without texts),
``unmatched.jsonl`` (labels whose document is not in the corpus), ``model/``, ``card.json``, ``card.md``,
``scores/<source>.parquet`` and ``quality.json``. Without labels, only the taxonomy and a card that says so.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

from data_pipeline.config.quality import QualityConfig
from data_pipeline.quality.apply import Job, Report, score_corpus, write_scores
from data_pipeline.quality.card import evaluate
from data_pipeline.quality.endpoint import Endpoint
from data_pipeline.quality.features import concatenate, featurize
from data_pipeline.quality.labelling import ANSWERS, AnswerLog, Bill, label_documents
from data_pipeline.quality.labels import (
    Consensus,
    Label,
    adjudicate,
    agreement,
    label_file,
    match,
    read_labels,
)
from data_pipeline.quality.render import render
from data_pipeline.quality.sampling import document_files, documents, draw, fetch
from data_pipeline.quality.scorer import Scorer, fit
from data_pipeline.quality.taxonomy import BUNDLED, Taxonomy, load_taxonomy
from data_pipeline.quality.validation import targets
from stemma.core.config import digest
from stemma.core.errors import StageFailed
from stemma.core.files import sha256_file, write_atomic, write_json
from stemma.core.progress import Progress
from stemma.core.stage import Execution, Stage, Workspace

_BATCH = 256  # labelled documents whose features are taken at a time


class QualityStage(Stage):
    """Score the documents of the input ``corpus``."""

    kind: ClassVar[str] = "quality"
    recipe: ClassVar[int] = 1
    config: QualityConfig

    def resolve(self, cache: Path, execution: Execution, progress: Progress) -> None:
        """Read the taxonomy and the label files: what is in them is part of what the result is.

        Raises:
            TaxonomyError, LabelError: one of them is not there or not right.
        """
        if self.resolved:
            return
        taxonomy = load_taxonomy(self._taxonomy_path)
        files = {name: label_file(name) for name in self.config.labels}
        for path in files.values():
            read_labels(path, taxonomy)
        self.resolved = {
            "taxonomy": taxonomy.canonical,
            "labels": {name: sha256_file(path) for name, path in files.items()},
        }

    @property
    def _taxonomy_path(self) -> Path:
        return Path(self.config.taxonomy) if self.config.taxonomy else BUNDLED

    def run(self, work: Workspace) -> dict[str, Any]:
        taxonomy = load_taxonomy(self._taxonomy_path)
        if taxonomy.canonical != self.resolved["taxonomy"]:
            raise StageFailed(f"{self._taxonomy_path} changed while this stage was running; run again")
        write_atomic(work.path / "taxonomy.yaml", self._taxonomy_path.read_bytes())
        corpus = self.inputs["corpus"].path
        labels = [label for name in self.config.labels for label in read_labels(label_file(name), taxonomy)]
        asked, bill = self._ask(work, taxonomy)
        matched = match([*labels, *asked], documents(corpus))
        write_lines(work.path / "unmatched.jsonl", [label.model_dump() for label in matched.unknown])
        if matched.unknown:
            work.progress.say(
                f"{len(matched.unknown)} of {len(labels) + len(asked)} labels are left out: their documents "
                "are not in this corpus (unmatched.jsonl lists them)"
            )
        if len(matched.by_document) < self.config.min_labels:
            return self._empty(work, len(matched.by_document), bill)
        drawn = fetch(corpus, set(matched.by_document))
        consensus = [
            adjudicate(
                item.document, matched.by_document[item.document.id], taxonomy, self.config.adjudicators
            )
            for item in drawn
        ]
        write_lines(work.path / "labels.jsonl", [label.row() for label in consensus])
        scorer, card = self._train(work, taxonomy, [item.text for item in drawn], consensus)
        card["agreement"] = agreement(matched, taxonomy)
        card["left_out"] = {"unmatched": len(matched.unknown), "replaced": matched.replaced}
        if bill:
            card["endpoint"] = {"model": self.config.endpoint and self.config.endpoint.model, **bill.facts()}
        write_json(work.path / "card.json", card)
        write_atomic(work.path / "card.md", render(card))
        report = self._score(work, scorer)
        write_json(work.path / "quality.json", report)
        return self._summary(card, report, bill)

    def _ask(self, work: Workspace, taxonomy: Taxonomy) -> tuple[list[Label], Bill | None]:
        """Labels of the configured endpoint, and what they took."""
        config = self.config.endpoint
        if config is None:
            return [], None
        sample = draw(self.inputs["corpus"].path, config.documents, self.config.seed)
        work.progress.say(f"asking {config.model} to label {len(sample)} documents")
        endpoint = Endpoint(config, taxonomy)
        try:
            labels, bill = label_documents(
                sample,
                endpoint,
                AnswerLog(work.cache / ANSWERS),
                lambda step, total: work.progress.step(step, total, "documents", "label"),
            )
        finally:
            endpoint.close()
        work.progress.say(
            f"{bill.labelled} labelled, {bill.failed} without a valid answer, {bill.reused} known before; "
            f"{bill.prompt_tokens:,} prompt and {bill.completion_tokens:,} answer tokens"
        )
        return labels, bill

    def _empty(self, work: Workspace, found: int, bill: Bill | None) -> dict[str, Any]:
        reason = (
            f"{found} documents of the corpus are labelled, min_labels asks for {self.config.min_labels}"
            if self.config.labels or self.config.endpoint
            else "no labels are configured (quality.labels, quality.endpoint)"
        )
        work.progress.say(f"no document is scored: {reason}")
        card: dict[str, Any] = {"empty": reason}
        if bill:
            card["endpoint"] = bill.facts()
        write_json(work.path / "card.json", card)
        write_atomic(work.path / "card.md", render(card))
        write_lines(work.path / "labels.jsonl", [])
        return {"labels": found, "documents": 0, "empty": reason}

    def _train(
        self, work: Workspace, taxonomy: Taxonomy, texts: list[str], labels: list[Consensus]
    ) -> tuple[Scorer, dict[str, Any]]:
        """The scorer of all labels, and its card, whose figures are of scorers of most labels."""
        config = self.config
        features = concatenate(
            [
                featurize(texts[start : start + _BATCH], config.scorer)
                for start in range(0, len(texts), _BATCH)
            ]
        )
        work.progress.say(f"training on {len(labels)} labelled documents")
        card = evaluate(
            features,
            labels,
            taxonomy,
            config,
            lambda step, total: work.progress.step(step, total, "trainings", "evaluate"),
        )
        scorer = fit(features, targets(labels, taxonomy), taxonomy, config.scorer)
        scorer.save(work.path / "model")
        return scorer, card

    def _score(self, work: Workspace, scorer: Scorer) -> dict[str, Any]:
        files = document_files(self.inputs["corpus"].path)
        model, taxonomy = work.path / "model", work.path / "taxonomy.yaml"
        # scores of another model (trained anew, elsewhere, after a crash) must not be taken for this one's
        version = digest([sha256_file(path) for path in sorted(model.iterdir())])[:12]
        folder = work.scratch / f"scores-{version}"
        jobs = [Job(path, model, taxonomy, folder / path.parent.name / path.name) for path in files]
        score_corpus(
            jobs,
            work.execution.workers,
            lambda step, total: work.progress.step(step, total, "files", "score"),
        )
        report = Report(scorer.taxonomy, self.config.thresholds)
        for source in sorted({job.output.parent.name for job in jobs}):
            parts = [job.output for job in jobs if job.output.parent.name == source]
            write_scores(source, parts, work.path / "scores" / f"{source}.parquet", report)
        return report.result()

    def _summary(self, card: dict[str, Any], report: dict[str, Any], bill: Bill | None) -> dict[str, Any]:
        sources = report["sources"].values()
        count = sum(entry["documents"] for entry in sources)
        summary = {
            "labels": card["labels"]["documents"],
            "unmatched_labels": card["left_out"]["unmatched"],
            "documents": count,
            "mean_quality": round(
                sum(entry["mean"] * entry["documents"] for entry in sources) / max(1, count), 4
            ),
            "domain_accuracy": round(card["domain"]["accuracy"] or 0.0, 3),
            "quality_spearman": round(card["quality"]["spearman"] or 0.0, 3),
            "quality_auc": round(card["quality"]["auc"] or 0.0, 3),
        }
        if bill:
            summary |= {
                "endpoint_failed": bill.failed,
                "endpoint_tokens": bill.prompt_tokens + bill.completion_tokens,
                "endpoint_cost": round(bill.cost, 4),
            }
        return summary


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Atomically write JSON lines."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))
