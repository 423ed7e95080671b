"""What licence a file of source code says it has: by its SPDX line, or by the nearest licence file.

This finds statements; whether a licence is welcome is for a filter to say.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath

READ_BYTES = 40_000  # of a licence file; the GPL, the longest, has 35,000
UNKNOWN = "LicenseRef-unknown"  # there is a licence file, and it is none that is known here
SPDX = re.compile(rb"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+()\- \t]+)")
FILE = re.compile(r"^(?:licen[cs]e|copying|unlicense)(?:[.\-_].*)?$", re.IGNORECASE)

# words that tell licences apart, lower-case and without commas; of those that begin with the same words, the
# more special one first
TEXTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AGPL-3.0-only", ("gnu affero general public license version 3",)),
    ("LGPL-3.0-only", ("gnu lesser general public license version 3",)),
    ("LGPL-2.1-only", ("gnu lesser general public license version 2.1",)),
    ("LGPL-2.0-only", ("gnu library general public license version 2",)),
    ("GPL-3.0-only", ("gnu general public license version 3",)),
    ("GPL-2.0-only", ("gnu general public license version 2",)),
    ("Apache-2.0", ("apache license version 2.0",)),
    ("MPL-2.0", ("mozilla public license version 2.0",)),
    ("EPL-2.0", ("eclipse public license - v 2.0",)),
    ("PSF-2.0", ("python software foundation license version 2",)),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("BSL-1.0", ("boost software license - version 1.0",)),
    ("Zlib", ("this software is provided 'as-is'", "altered source versions must be plainly marked")),
    ("ISC", ("permission to use copy modify and/or distribute this software for any purpose",)),
    ("ISC", ("permission to use copy modify and distribute this software for any purpose",)),
    (
        "MIT",
        ("permission is hereby granted free of charge", "the above copyright notice and this permission"),
    ),
    ("MIT-0", ("permission is hereby granted free of charge",)),
    ("BSD-3-Clause", ("redistribution and use in source and binary forms", "endorse or promote products")),
    ("BSD-2-Clause", ("redistribution and use in source and binary forms",)),
)


def is_licence(path: str) -> bool:
    """Whether a file's name is that of a licence."""
    return bool(FILE.match(PurePosixPath(path).name))


def of_text(text: str) -> str:
    """SPDX identifier of a licence's text, or ``UNKNOWN``.

    Which versions of a GNU licence are allowed beside the one at hand is said in the files, not in its text:
    the strict reading (``-only``) is given.
    """
    plain = re.sub(r"[\s,]+", " ", text.lower())
    fits = [
        (plain.index(phrases[0]), order, name)
        for order, (name, phrases) in enumerate(TEXTS)
        if all(phrase in plain for phrase in phrases)
    ]
    return min(fits)[2] if fits else UNKNOWN  # licences name others, but after themselves


def in_file(head: bytes) -> str:
    """The SPDX expression in a file's first bytes, or ""."""
    found = SPDX.search(head)
    return found[1].decode().strip(" \t-") if found else ""


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
