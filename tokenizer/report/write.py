"""Reports of tokenizers that are on disk: opening them, measuring them, writing what was found."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stemma.core.errors import DamagedError, StemmaError
from stemma.core.files import read_json, write_atomic, write_json
from tokenizer.config import Anchor
from tokenizer.report.anchors import ANCHORS, load_anchor, load_anchors
from tokenizer.report.encoders import NamedEncoder, from_tokenizers, from_vocabulary
from tokenizer.report.measure import measure
from tokenizer.report.page import report_page
from tokenizer.report.texts import measured_texts
from tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

REPORT = "report.json"
OF_LEARNING = ("backend", "vocab_size", "learning", "parts")  # in a stage's report, besides what was measured


def open_encoder(where: str, cache: Path, offline: bool = False) -> NamedEncoder:
    """A tokenizer by the name of a published one, or by its folder or ``tokenizer.json``.

    Raises:
        OutOfReach, PackageError: a published one that cannot be had.
        StemmaError: there is no such tokenizer; says what could be given.
    """
    for name in ANCHORS:
        if name == where:
            return load_anchor(name, cache, offline)
    path = Path(where)
    if (path / VOCABULARY_FILE).is_file():
        return artifact_encoder(path, where, path.name)
    for file in (path, path / "tokenizer.json", path / "hf" / "tokenizer.json"):
        if file.is_file():
            return from_tokenizers(where, path.name, _read(file))
    raise StemmaError(
        f"{where!r} is no tokenizer: expected one of {', '.join(ANCHORS)}, a run's name, or a folder with "
        f"{VOCABULARY_FILE} or tokenizer.json"
    )


def artifact_encoder(folder: Path, name: str, title: str) -> NamedEncoder:
    """The tokenizer of an artifact, whichever backend made it.

    Raises:
        DamagedError: its files cannot be read.
    """
    tokenizer = _read(folder / "hf" / "tokenizer.json")
    if not (folder / VOCABULARY_FILE).is_file():
        return from_tokenizers(name, title, tokenizer)
    vocabulary = Vocabulary.load(folder / VOCABULARY_FILE)
    return from_vocabulary(name, title, vocabulary, len(tokenizer.get_added_tokens_decoder()))


def measure_artifact(
    folder: Path,
    documents: Sequence[Path],
    *,
    title: str = "ours",
    held_out: Collection[str] = (),
    anchors: Sequence[Anchor] = (),
    cache: Path,
    offline: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """The report of an artifact's tokenizer beside published ones, measured anew.

    What the artifact's own report says of learning is taken over. What it was compared with there is not in
    the artifact any more; the new report says that it is missing.

    Args:
        folder: of the tokenizer's artifact.
        documents: artifacts to measure on.
        title: what to call it.
        held_out: their sources that nothing was learned from.
        anchors: what to compare with.
        cache: folder of fetched archives.
        offline: do not ask a registry.
        progress: called with the bytes measured so far.
    """
    vocabulary = None
    if (folder / VOCABULARY_FILE).is_file():
        vocabulary = Vocabulary.load(folder / VOCABULARY_FILE)
    others, missing = load_anchors(anchors, cache, offline)
    before = _sealed_report(folder)
    for about in before.get("tokenizers", [])[1:]:
        if about["name"] not in ANCHORS:
            reason = "it was learned for the report that the run's tokenizer stage made, and not kept"
            missing.append({"name": about["name"], "title": about["title"], "reason": reason})
    report = measure(
        [artifact_encoder(folder, "ours", title), *others],
        measured_texts(documents, held_out),
        vocabulary=vocabulary,
        missing=missing,
        pruned=pruned_rows(folder),
        progress=progress,
    )
    return report | {name: before[name] for name in OF_LEARNING if name in before}


def pruned_rows(folder: Path) -> list[Mapping[str, Any]]:
    """The entries that an artifact's report says were taken out."""
    return list(_sealed_report(folder).get("pruned", []))


def special_ids(folder: Path) -> dict[str, int]:
    """Ids of the special tokens of an artifact's tokenizer.

    Raises:
        DamagedError: its file cannot be read.
    """
    added = _read(folder / "hf" / "tokenizer.json").get_added_tokens_decoder()
    return {token.content: index for index, token in added.items()}


def _sealed_report(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / REPORT)) if (folder / REPORT).is_file() else {}


def write_report(report: Mapping[str, Any], folder: Path, run: str) -> Path:
    """Write ``tokenizer.json`` and ``tokenizer.html`` into a folder, and return the page's path."""
    write_json(folder / "tokenizer.json", dict(report))
    path = folder / "tokenizer.html"
    write_atomic(path, report_page(report, run))
    return path


def _read(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DamagedError(f"{path} cannot be read ({error}). It was left as it is.") from error
    except Exception as error:  # tokenizers raises this class itself
        raise DamagedError(f"{path} is no tokenizer.json ({error}). It was left as it is.") from error
