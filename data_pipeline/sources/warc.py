"""WARC files (ISO 28500): the HTML pages and plain texts that a crawler was given."""

from collections.abc import Iterator
from typing import IO, Any

from data_pipeline.sources.hypertext import charset_of, decode_html, html_to_text
from data_pipeline.sources.item import MAX_FILE_BYTES, Item
from stemma.core.errors import DamagedError

PAGES = ("text/html", "application/xhtml+xml")


def read_warc(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per response or conversion (WET) record; ``row`` is the record's id and URI.

    Responses that are no page (status, media type) are rejects; requests and metadata are no texts at all.

    Args:
        handle: the file, decompressed (each record is a member of its own).
        name: what to call it in an error.

    Raises:
        DamagedError: a record is malformed, or shorter than it says.
    """
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed
    from warcio.statusandheaders import StatusAndHeadersParserException

    records = ArchiveIterator(handle, no_record_parse=False)
    at = "the first record"
    try:
        for record in records:
            uri = record.rec_headers.get_header("WARC-Target-URI") or ""
            row = f"{record.rec_headers.get_header('WARC-Record-ID') or ''} {uri}".strip()
            at = row
            if record.rec_type not in ("response", "conversion", "resource"):
                drain(record)
                continue
            data = record.content_stream().read(MAX_FILE_BYTES + 1)
            too_large = len(data) > MAX_FILE_BYTES
            drain(record)
            about = {"url": uri, "date": record.rec_headers.get_header("WARC-Date") or ""}
            if too_large:
                yield Item(row, "", "file_too_large", f"over {MAX_FILE_BYTES} bytes", about)
            else:
                yield page(record, data, row, about)
    except (ArchiveLoadFailed, StatusAndHeadersParserException, EOFError, ValueError) as error:
        raise DamagedError(f"{name} is not readable after {at} ({error}). It was left as it is.") from error


def drain(record: Any) -> None:
    """Read a record to its end, which is where warcio keeps silent about a file that was cut off."""
    left = record.raw_stream
    while left.read(1 << 16):
        pass
    if getattr(left, "limit", 0) > 0:
        raise EOFError(f"a record ends {left.limit} bytes before it should")


def page(record: Any, data: bytes, row: str, about: dict[str, Any]) -> Item:
    """One record as an item."""
    headers = record.http_headers
    status = headers.get_statuscode() if headers else "200"
    kind = (
        headers.get_header("Content-Type") if headers else record.rec_headers.get_header("Content-Type")
    ) or ""
    media = kind.split(";")[0].strip().lower()
    if status != "200":
        return Item(row, "", "http_status", status or "none", about)
    if media not in (*PAGES, "text/plain"):
        return Item(row, "", "not_html", media or "no media type", about)
    item = decode_html(data, row, charset_of(kind))
    if item.rule:
        return Item(row, item.text, item.rule, item.value, about)
    return Item(row, html_to_text(item.text) if media in PAGES else item.text, metadata=about)
