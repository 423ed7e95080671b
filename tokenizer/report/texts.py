"""Which documents a report measures: never those a vocabulary was learned from."""

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from stemma.core.errors import StemmaError
from tokenizer.learning.sample import document_files, key, last_key, read_batches, read_file, row_sizes
from tokenizer.report.measure import MeasuredText

SOURCE_BYTES = 4_000_000  # of each source, at most: bytes per token are steady long before


def measured_texts(
    folders: Sequence[Path],
    held_out: Collection[str] = (),
    source_bytes: int = SOURCE_BYTES,
    seed: int = 0,
) -> Iterator[MeasuredText]:
    """Yield documents of artifacts that no vocabulary of ours saw, in the order of their files.

    Of a source that was held out these are all its documents, of any other its validation documents. A
    conversation is what the chat template makes of it, without the special tokens.

    Args:
        folders: artifacts with ``documents/``.
        held_out: sources nothing was learned from.
        source_bytes: UTF-8 bytes of each source, about; a seeded choice of documents where there are more.
        seed: of that choice.

    Raises:
        DamagedError: a file is no documents file.
        TextError: a conversation is not what the chat template takes.
    """
    sources: dict[str, list[Path]] = {}
    for path in document_files(folders):
        sources.setdefault(path.parent.name, []).append(path)
    for source, paths in sources.items():
        splits = ("train", "valid") if source in held_out else ("valid",)
        last = _threshold(paths, splits, source_bytes, seed)
        for path in paths:
            for split in splits:
                for document in read_file(path, split):
                    if last and key(document.id, seed) > last:
                        continue
                    yield MeasuredText(
                        source,
                        document.domain,
                        document.language,
                        tuple(document.pieces()),
                        document.id,
                        source in held_out,
                    )


def file_texts(paths: Iterable[Path]) -> Iterator[MeasuredText]:
    """Yield text files as documents, each a source of its own; what is not UTF-8 becomes U+FFFD.

    Raises:
        StemmaError: a file cannot be read.
    """
    for path in paths:
        try:
            text = path.read_bytes().decode("utf-8", "replace")
        except OSError as error:
            raise StemmaError(f"{path} cannot be read: {error.strerror}. Give text files.") from error
        yield MeasuredText(path.name, "files", "", (text,), str(path), None)


def of_unknown_use(documents: Iterable[MeasuredText]) -> Iterator[MeasuredText]:
    """The same documents, for a tokenizer of which nobody knows whether it learned from them."""
    return (replace(document, held_out=None) for document in documents)


def _threshold(paths: Sequence[Path], splits: Collection[str], limit: int, seed: int) -> str:
    """The key of the last document that is taken; "" takes all."""
    keys, sizes = array("Q"), array("Q")
    for path in paths:
        for batch in read_batches(path, ("id", "text", "split"), ("messages",)):
            rows = zip(batch["split"].to_pylist(), batch["id"].to_pylist(), row_sizes(batch), strict=True)
            for split, identifier, size in rows:
                if split in splits:
                    keys.append(int(key(identifier, seed), 16))
                    sizes.append(size)
    return last_key(keys, sizes, limit)[0]
