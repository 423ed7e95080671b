"""Asks an ``engram-generator`` wheel for solved problems, in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.sources.item import Item
from stemma.core.errors import DamagedError


def generate(archive: Path, items: int) -> Iterator[Item]:
    """Solved problems by the generators of an ``engram-generator`` wheel: one text per generator.

    They run in a process of their own with a fixed hash seed: one of them iterates over a set of strings.

    Raises:
        DamagedError: the wheel's generators do not run.
    """
    command = [sys.executable, "-P", str(Path(__file__).with_name("engram.py")), str(archive), str(items)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    if done.returncode != 0:
        raise DamagedError(f"{archive.name}: its generators do not run here:\n{done.stderr.decode()[-2000:]}")
    for line in done.stdout.splitlines():
        row, text = json.loads(line)
        yield Item(row, text)
