"""Which files of the folder of runs a server shows, and under which address: reports and their pictures.

An address has neither host nor port, so it is right wherever the server stands, today and after a restart:
``/files/<run>/reports/<file>`` is ``<folder of runs>/<run>/reports/<file>``.
"""

import re
from pathlib import Path
from urllib.parse import quote

PREFIX = "/files/"
REPORTS = "reports"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
}
NOT_RUNS = {"artifacts", "cache", "prefect"}


def address(path: Path, root: Path) -> str:
    """Where the server shows a file of a run: without host and port, so that it stays right.

    Args:
        path: below ``<root>/<run>/reports``.
        root: the folder of runs.
    """
    return PREFIX + quote(path.relative_to(root).as_posix())


def find(root: Path, wanted: str) -> Path | None:
    """The file that ``<run>/reports/<file>`` names; None for whatever is not to be shown.

    Args:
        root: the folder of runs.
        wanted: decoded, as it came from outside.
    """
    parts = wanted.split("/")
    if len(parts) < 3 or parts[1] != REPORTS or parts[0] in NOT_RUNS:
        return None
    if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_. @+-]*", part) for part in parts):
        return None  # nothing hidden, no "..", no backslash, no control character
    path = root.joinpath(*parts)
    folder = root / parts[0] / REPORTS
    try:
        real = path.resolve(strict=True)
        # A link could lead anywhere: what is shown lies in the run's own folder of reports.
        inside = real.is_relative_to(root.resolve() / parts[0] / REPORTS) and not folder.is_symlink()
        return path if inside and real.is_file() and path.suffix in KINDS else None
    except (OSError, RuntimeError):  # the latter: links in a circle
        return None
