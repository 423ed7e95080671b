"""WARC files (ISO 28500): the HTML pages and plain texts that a crawler was given.

The framing is read here: warcio takes the end of a cut-off file for the end of its records, and a head
without its end for a whole one.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from data_pipeline.sources.hypertext import charset_of, decode_html, page_item
from data_pipeline.sources.item import MAX_FILE_BYTES, Item
from stemma.core.errors import DamagedError

PAGES = ("text/html", "application/xhtml+xml")
MAX_HEAD_LINE = 65_536  # bytes; URIs can be long
DIGITS = re.compile(r"[0-9]{1,18}")
CHUNK_SIZE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
TEXT_RECORDS = {"response", "conversion", "resource"}  # what was fetched; WET files hold conversions


@dataclass(frozen=True)
class Record:
    """One record: its head (names in lower case), its content (up to ``MAX_FILE_BYTES``) and its length."""

    head: dict[str, str]
    content: bytes
    length: int


def read_warc(handle: IO[bytes], name: str) -> Iterator[Item]:
    """One text per response or conversion (WET) record; ``row`` is the record's id and URI.

    Responses that are no page (status, media type) are rejects; requests and metadata are no texts at all.

    Args:
        handle: the file, decompressed (each record is a member of its own).
        name: what to call it in an error.

    Raises:
        DamagedError: a record is malformed.
        EOFError: the file ends within a record.
    """
    for record in records(handle, name):
        if record.head.get("warc-type") not in TEXT_RECORDS:
            continue
        uri = record.head.get("warc-target-uri", "").strip("<>")
        row = f"{record.head.get('warc-record-id', '')} {uri}".strip()
        about = {"url": uri, "date": record.head.get("warc-date", "")}
        item = page(record)
        yield Item(row, item.text, item.rule, item.value, about)


def records(handle: IO[bytes], name: str) -> Iterator[Record]:
    """The records of a WARC file, in order.

    Raises:
        DamagedError: a record is malformed; names the file and the record before.
        EOFError: the file ends within a record.
    """
    number = 0
    while line := handle.readline(MAX_HEAD_LINE):
        if not line.strip():
            continue
        if not line.startswith(b"WARC/"):
            raise DamagedError(
                f"{name}: record {number} does not begin with WARC/ but with {line[:40]!r}. "
                "It was left as it is."
            )
        head = read_head(handle)
        length = head.get("content-length", "")
        if not DIGITS.fullmatch(length):
            raise DamagedError(f"{name}: record {number} has no Content-Length. It was left as it is.")
        yield read_content(handle, head, int(length))
        number += 1


def read_head(handle: IO[bytes]) -> dict[str, str]:
    """Named fields up to a blank line; names in lower case, folded lines joined.

    Raises:
        EOFError: there is no blank line.
    """
    head: dict[str, str] = {}
    name = ""
    while line := handle.readline(MAX_HEAD_LINE):
        text = line.decode("utf-8", errors="replace")
        if not text.strip():
            return head
        if text[0] in " \t" and name:
            head[name] += f" {text.strip()}"
            continue
        name, _, value = text.partition(":")
        name = name.strip().lower()
        head[name] = value.strip()
    raise EOFError("the file ends within the head of a record")


def read_content(handle: IO[bytes], head: dict[str, str], length: int) -> Record:
    content = handle.read(min(length, MAX_FILE_BYTES))
    left = length - len(content)
    while left and (skipped := handle.read(min(left, 1 << 16))):
        left -= len(skipped)
    if left:
        raise EOFError(f"the file ends {left} bytes before the end of a record")
    return Record(head, content, length)


def page(record: Record) -> Item:
    """The text of a record, or why it has none."""
    if record.length > MAX_FILE_BYTES:
        return Item("", "", "file_too_large", f"{record.length} bytes, more than {MAX_FILE_BYTES}")
    body, kind = record.content, record.head.get("content-type", "")
    if kind.startswith("application/http"):
        first, _, rest = body.partition(b"\n")
        status = first.split()[1].decode(errors="replace") if len(first.split()) > 1 else "none"
        if status != "200":
            return Item("", "", "http_status", status)
        lines, separator, body = rest.partition(b"\r\n\r\n")
        if not separator:
            lines, _, body = rest.partition(b"\n\n")
        fields = dict(field(line) for line in lines.decode("latin-1").splitlines())
        kind = fields.get("content-type", "")
        try:
            body = decoded(body, fields)
        except (ValueError, zlib.error) as error:
            return Item("", "", "not_decodable", str(error))
    media = kind.split(";")[0].strip().lower()
    if media not in (*PAGES, "text/plain"):
        return Item("", "", "not_html", media or "no media type")
    item = decode_html(body, "", charset_of(kind))
    return page_item(item.text, "") if media in PAGES and not item.rule else item


def field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def decoded(body: bytes, fields: dict[str, str]) -> bytes:
    """A response's body without its transfer and content encodings (RFC 9112, 7.1; RFC 9110, 8.4).

    Raises:
        ValueError: an encoding that is not known here, or a body that is larger than it may be.
        zlib.error: not in the encoding it is said to be in.
    """
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body = dechunked(body)
    encoding = fields.get("content-encoding", "").lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"content encoding {encoding}")
    raw = encoding == "deflate" and body[:1] not in (b"\x78", b"\x58")  # some servers leave zlib's head out
    stream = zlib.decompressobj(-15 if raw else 47)
    text = stream.decompress(body, MAX_FILE_BYTES)
    if stream.unconsumed_tail:
        raise ValueError(f"over {MAX_FILE_BYTES} bytes when decompressed")
    return text


def dechunked(body: bytes) -> bytes:
    """Chunks joined; a body that is not chunked (crawlers often store it decoded) is given as it is."""
    chunks: list[bytes] = []
    position = 0
    while size := CHUNK_SIZE.match(body, position):
        start = size.end()
        end = start + int(size[1], 16)
        if end == start:
            return b"".join(chunks)
        chunks.append(body[start:end])
        position = end + 2
    cut_off = len(chunks) > 1 and position >= len(body)
    return b"".join(chunks) if cut_off else body
