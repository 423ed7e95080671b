"""What the sources have right now, and whether they may be used together as the profile says."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

from data_pipeline.config import PackageSource, SourceBase
from data_pipeline.sources.find import Found, look
from data_pipeline.sources.hub import url_of
from stemma.core.errors import StemmaError
from stemma.core.packages import OutOfReach


class SharedFile(StemmaError):
    """The same file is to be learned from and to be measured by."""


def look_at_all(
    sources: Mapping[str, SourceBase], cache: Path, offline: bool
) -> tuple[dict[str, Found], dict[str, str]]:
    """Fetch what can be fetched and look at every source.

    Returns:
        What was found by id, and why the others cannot be had.

    Raises:
        DamagedError, PackageError, SourceError: a source is not what the profile says.
    """

    def attempt(name: str) -> Found | OutOfReach:
        try:
            return look(sources[name], cache, offline)
        except OutOfReach as reason:
            return reason

    found: dict[str, Found] = {}
    skipped: dict[str, str] = {}
    names = sorted(sources)
    with ThreadPoolExecutor(4) as threads:  # waiting for a registry, not computing
        for name, result in zip(names, threads.map(attempt, names)):
            if isinstance(result, OutOfReach):
                skipped[name] = str(result)
            else:
                found[name] = result
    return found, skipped


def shared_files(sources: Mapping[str, SourceBase], found: Mapping[str, Found]) -> list[str]:
    """Pairs of training sources that read the same files alike, as text; what both have is kept once.

    Raises:
        SharedFile: a training source has a file that another source may only be measured by; names both.
    """
    seen: dict[str, tuple[str, str]] = {}
    for name, what in found.items():
        if sources[name].use != "train":
            for file, key in file_keys(sources[name], what):
                seen.setdefault(key, (name, file))
    pairs: dict[tuple[str, str], int] = {}
    for name, what in found.items():
        if sources[name].use != "train":
            continue
        for file, key in file_keys(sources[name], what):
            other, its_file = seen.setdefault(key, (name, file))
            if sources[other].use != "train":
                raise SharedFile(
                    f"sources.{name} (use: train) and sources.{other} (use: {sources[other].use}) both read "
                    f"{file}" + (f" (there {its_file})" if its_file != file else "") + ". What models are "
                    "measured by is never learned from: take the file out of one of them."
                )
            if other != name and way_of_reading(sources[other]) == way_of_reading(sources[name]):
                pairs[other, name] = pairs.get((other, name), 0) + 1
    return [f"{first} and {second} share {count} files" for (first, second), count in pairs.items()]


def way_of_reading(source: SourceBase) -> tuple[object, ...]:
    """What a file becomes. Code and its docstrings, say, are different texts of the same files."""
    return getattr(source, "format", ""), getattr(source, "text_field", ""), getattr(source, "items", 0)


def file_keys(source: SourceBase, found: Found) -> Iterator[tuple[str, str]]:
    """Each file, and what makes it the same under another name: archive's hash and member, or inode."""
    archive = found.facts.get("sha256", "")
    for file in found.files:
        if isinstance(source, PackageSource) or archive:
            yield file, f"{archive}!{file}"
            continue
        url = url_of(file)
        parts = urlsplit(url)
        path = Path(unquote(parts.path) if parts.scheme == "file" else url)
        if parts.scheme in ("", "file"):
            path = Path(found.location) / path
            if path.exists():  # follows links; hard links are the same inode
                status = os.stat(path)
                yield file, f"inode {status.st_dev}:{status.st_ino}"
                continue
        yield file, f"{found.location} {url}"
