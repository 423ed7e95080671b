"""What ``stemma data label`` does: sheets for people, labels from an endpoint, checks of label files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_pipeline.config.quality import EndpointConfig
from data_pipeline.quality.endpoint import Endpoint
from data_pipeline.quality.labelling import ANSWERS, AnswerLog, label_documents
from data_pipeline.quality.sampling import draw
from data_pipeline.quality.sheets import examine, write_labels, write_sheet
from data_pipeline.quality.taxonomy import Taxonomy
from stemma.core.errors import ProfileError

EXCERPT = 4000  # characters of a document a person is shown
LISTED = 10  # labels without a document that are listed


def export_sheet(
    path: Path, corpus: Path, taxonomy: Taxonomy, annotator: str, count: int, seed: int, console: Console
) -> None:
    """Draw documents and write a sheet to be filled in."""
    sample = draw(corpus, count, seed)
    write_sheet(path, sample, taxonomy, annotator, EXCERPT)
    console.print(
        f"{len(sample)} documents in {path}. Fill in the sub-domain and the scores (leave out what you "
        f"cannot tell), see it with --check {path}, and name it in the profile's quality.labels."
    )


def ask(
    path: Path,
    corpus: Path,
    taxonomy: Taxonomy,
    settings: dict[str, Any],
    seed: int,
    cache: Path,
    console: Console,
) -> None:
    """Have an endpoint label documents, and write its labels."""
    try:
        config = EndpointConfig.model_validate(settings)
    except ValidationError as error:
        problems = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors()]
        raise ProfileError("stemma data label", problems) from error
    sample = draw(corpus, config.documents, seed)
    endpoint = Endpoint(config, taxonomy)
    try:
        with console.status("") as status:
            labels, bill = label_documents(
                sample,
                endpoint,
                AnswerLog(cache / ANSWERS),
                lambda step, total: status.update(f"{step} of {total} documents"),
            )
    finally:
        endpoint.close()
    write_labels(path, labels)
    console.print(
        f"{bill.labelled} labels in {path}; {bill.failed} documents without a valid answer, {bill.reused} "
        f"known before; {bill.prompt_tokens:,} prompt and {bill.completion_tokens:,} answer tokens"
    )


def check_files(files: Sequence[Path], corpus: Path, taxonomy: Taxonomy, console: Console) -> None:
    """Say how many labels of some files are about documents of the corpus, and how annotators agree."""
    found = examine(files, corpus, taxonomy)
    console.print(
        f"{found['labels']} labels of {found['documents']} documents; {found['replaced']} replaced by a "
        f"later line of the same annotator; {len(found['unknown'])} about documents not in the corpus"
    )
    for name in found["unknown"][:LISTED]:
        console.print(f"  not in the corpus: {name}", markup=False, highlight=False)
    if not found["agreement"]:
        console.print("No two annotators labelled the same document: their agreement is unknown.")
    for pair in found["agreement"]:
        who = escape(" and ".join(pair["annotators"]))  # as the label files call them
        table = Table(title=f"Agreement of {who}: {pair['documents']} documents")
        for head in ("question", "n", "Cohen's kappa"):
            table.add_column(head, justify="left" if head == "question" else "right")
        for name, entry in pair["questions"].items():
            kappa = "-" if entry["kappa"] is None else f"{entry['kappa']:.2f}"
            table.add_row(name, str(entry["n"]), kappa)
        console.print(table)
