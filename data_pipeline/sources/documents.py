"""Items become documents: the datatrove step that reads units, and what it does to every text."""

import json

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers.disk_base import DiskWriter

from data_pipeline.config.sources import SourceBase
from data_pipeline.sources.find import digest_of
from data_pipeline.sources.item import Item
from data_pipeline.sources.licences import stated
from data_pipeline.sources.read import read
from data_pipeline.sources.units import Unit

MAX_NUL_SHARE = 0.001  # a stray NUL is a slip of some tool; many are another encoding, or no text


def parts(text: str, max_bytes: int) -> list[str]:
    """Cut a long text at line ends into parts of at most ``max_bytes`` UTF-8 bytes; longer lines are cut."""
    if len(text.encode()) <= max_bytes:
        return [text]
    pieces: list[str] = []
    current: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        for chunk in split_line(line, max_bytes):
            length = len(chunk.encode())
            if size + length > max_bytes:
                pieces.append("".join(current))
                current, size = [], 0
            current.append(chunk)
            size += length
    return [*pieces, "".join(current)]


def split_line(line: str, max_bytes: int) -> list[str]:
    if len(line.encode()) <= max_bytes:
        return [line]
    step = max_bytes // 4  # a character has at most four bytes
    return [line[start : start + step] for start in range(0, len(line), step)]


def document_id(source: str, origin: str, text: str) -> str:
    """First 20 hex digits of SHA-256 over source, origin and text, separated by NUL."""
    return digest_of(f"{source}\0{origin}\0{text}")[:20]


def storable(text: str) -> tuple[str, dict[str, int]]:
    """A text that any later tool can hold, and what had to go for it, counted.

    Lone surrogates (possible in JSON) have no UTF-8 form and become ``?``; NUL ends strings in many tools.
    """
    changes: dict[str, int] = {}
    if nul := text.count("\x00"):
        text, changes["nul"] = text.replace("\x00", ""), nul
    try:
        text.encode()
    except UnicodeEncodeError:
        changes["surrogates"] = sum("\ud800" <= character <= "\udfff" for character in text)
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\r\n", "\n"), changes


class SourceReader(PipelineStep):
    """Reads one unit per rank into documents; what cannot be read goes to the exclusion writer with its rule.

    Args:
        work: the units, one per rank.
        sources: the config models of the sources by id.
        max_bytes: longer texts are cut into parts.
        shard_bytes: documents go to numbered shards of about this many bytes, for the filters to work on.
        exclusion_writer: receives what cannot be read.
    """

    type = "📖 - READER"
    name = "stemma source"

    def __init__(
        self,
        work: list[Unit],
        sources: dict[str, SourceBase],
        max_bytes: int,
        shard_bytes: int,
        exclusion_writer: DiskWriter,
    ) -> None:
        super().__init__()
        self.work = work
        self.sources = sources
        self.max_bytes = max_bytes
        self.shard_bytes = shard_bytes
        self.exclusion_writer = exclusion_writer

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        unit = self.work[rank]
        source = self.sources[unit.source]
        if source.use != "train":
            raise ValueError(f"source {unit.source} is for `{source.use}` and never becomes documents")
        written = 0
        with self.exclusion_writer as rejects:
            for origin, item in read(source, unit):
                text, changes = storable(item.text)
                rule, value = verdict(item, text, changes)
                cut = parts(text, self.max_bytes)
                about = dict(item.metadata)
                if len(cut) > 1 and (licence := stated(text)):  # only the first part says it
                    about["licence_found"] = licence
                if rule:
                    del cut[1:]  # one reject per item; its beginning is enough to look at
                for number, piece in enumerate(cut):
                    where = f"{origin}.{number}" if len(cut) > 1 else origin
                    metadata = {
                        **about,
                        "source": unit.source,
                        "domain": source.domain,
                        "language": source.language,
                        "licence": source.licence,
                        "origin": where,
                        "whole": origin,
                        "chain": f"{source.filters}.{source.language}",
                        "shard": f"{written // self.shard_bytes:03d}",
                    }
                    known = {"about": about, "found": {"read": changes} if changes else {}}
                    if known := {name: value for name, value in known.items() if value}:
                        metadata |= known  # and as JSON, for between the steps there are only texts
                        metadata["decisions"] = json.dumps(known, sort_keys=True)
                    document = Document(
                        text=piece, id=document_id(unit.source, where, piece), metadata=metadata
                    )
                    if rule:
                        document.metadata |= {"filter_reason": rule, "value": value}
                        rejects.write(document, rank)
                        continue
                    written += len(piece.encode())
                    self.stat_update("documents")
                    yield document


def verdict(item: Item, text: str, changes: dict[str, int]) -> tuple[str, str]:
    """Rule and value of an item that cannot be a document, or empty strings."""
    if item.rule:
        return item.rule, item.value
    if changes.get("nul", 0) > len(item.text) * MAX_NUL_SHARE + 1:
        return "nul_bytes", f"{changes['nul']} of {len(item.text)} characters"
    return ("", "") if text.strip() else ("empty", "")
