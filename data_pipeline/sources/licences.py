"""What licence a file has: what it says itself (by an SPDX header, by the words of a well-known licence), or
what the nearest licence file says.

This finds statements; whether a licence is welcome is for a filter to say. Only phrases are known here, not
the licences' texts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from data_pipeline.sources.licence_phrases import FAMILIES, HINTS

READ_BYTES = 40_000  # of a licence file; the GPL, the longest, has 35,000
HEAD = 8_000  # characters in which a file says what it is under
UNKNOWN = "LicenseRef-unknown"  # there is a licence file, and it is none that is known here
SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]*[A-Za-z0-9.+)])", re.IGNORECASE)
WORD = re.compile(r"[a-z0-9]+")
FILE = re.compile(r"^(?:licen[cs]e|copying|unlicense)(?:[.\-_].*)?$", re.IGNORECASE)


def is_licence(path: str) -> bool:
    """Whether a file's name is that of a licence."""
    return bool(FILE.match(PurePosixPath(path).name))


def recognised(text: str) -> Iterator[tuple[int, str]]:
    """Place and SPDX identifier of the licences whose words a text has, one per family."""
    low = text.lower()
    if not any(hint in low for hint in HINTS):
        return
    words = f" {' '.join(WORD.findall(low))} "
    for family in FAMILIES:
        for name, *phrases in family:
            if all(f" {phrase} " in words for phrase in phrases):
                yield words.index(f" {phrases[0]} "), name
                break


def of_text(text: str) -> str:
    """SPDX identifier of a licence's text, or ``UNKNOWN``.

    Which versions of a GNU licence are allowed beside the one at hand is said in the files, not in its text:
    the strict reading (``-only``) is given.
    """
    return min(recognised(text), default=(0, UNKNOWN))[1]  # licences name others, but after themselves


def stated(text: str) -> str:
    """What a file says it is under: SPDX headers if there are any, else the licences it quotes; or "".

    Several are joined by ``AND``: they hold for its parts.
    """
    head = text[:HEAD]
    tags = list(dict.fromkeys(match[1].strip() for match in SPDX.finditer(head) if match[1].strip()))
    if tags:
        return tags[0] if len(tags) == 1 else " AND ".join(f"({tag})" for tag in tags)
    return " AND ".join(dict.fromkeys(name for _, name in recognised(head)))


def of_folders(
    names: Iterable[str], read: Callable[[list[str]], Iterator[tuple[str, bytes]]]
) -> dict[str, str]:
    """Folder -> licence of the licence files in it; of several, an expression with ``OR``.

    Licence files of a wheel's ``.dist-info`` speak for the whole archive, whose folder is "".

    Args:
        names: paths of all files there are.
        read: yields (path, first bytes) of some of them.
    """
    wanted = sorted(name for name in names if is_licence(name))
    found: dict[str, set[str]] = {}
    for name, data in read(wanted) if wanted else ():
        folder = name.rpartition("/")[0]
        folder = re.sub(r"(^|/)[^/]+\.dist-info(/.*)?$", "", folder)
        found.setdefault(folder, set()).add(of_text(data.decode("utf-8", errors="replace")))
    return {folder: " OR ".join(sorted(some - {UNKNOWN}) or [UNKNOWN]) for folder, some in found.items()}


def nearest(folders: Mapping[str, str], path: str) -> str:
    """The licence of the nearest folder above a file, or ""."""
    folder = path
    while folder:
        folder = folder.rpartition("/")[0]
        if folder in folders:
            return folders[folder]
    return ""
