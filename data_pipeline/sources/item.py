"""What a reader yields, and the steps that all of them begin with."""

import codecs
from dataclasses import dataclass, field
from typing import IO, Any

MAX_FILE_BYTES = 32_000_000  # of a file that becomes one text, and has to be held whole
MAX_LINE_BYTES = 16_000_000  # of a line that becomes one text
SHOWN_BYTES = 1_000  # of what is too long to be kept as a reject


@dataclass(frozen=True)
class Item:
    """One text of a file, before any filter.

    Attributes:
        row: where in the file: a row number, a title or a name.
        text: the text.
        rule: why it cannot be used, or "".
        value: what was found instead.
        metadata: what else is known of it (path, URL, licence found), for its document.
    """

    row: str
    text: str
    rule: str = ""
    value: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def decode(data: bytes, row: str, first_byte: int = 0) -> Item:
    """Text in UTF-8, or in UTF-16 with its mark; broken text is a reject that shows where it breaks."""
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    try:
        return Item(row, data.decode(encoding))
    except UnicodeDecodeError as error:
        shown = data.decode("utf-8", errors="replace")
        return Item(row, shown, "not_utf8", f"byte {first_byte + error.start}")


def whole(handle: IO[bytes], row: str = "0") -> Item:
    """A whole file as text; one that is too large for that is a reject."""
    data = handle.read(MAX_FILE_BYTES + 1)
    if len(data) <= MAX_FILE_BYTES:
        return decode(data, row)
    shown = data[:SHOWN_BYTES].decode("utf-8", errors="replace")
    return Item(row, shown, "file_too_large", f"over {MAX_FILE_BYTES} bytes")
