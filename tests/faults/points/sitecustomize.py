"""Stops a process at a named place until somebody has done something to it.

Python imports this in every process that has the folder on its path and ``STEMMA_FAULT`` in its environment:
``{"point": "module:qualified.name#call", "folder": ..., "clock": bool}``. The first process that is about to
make that call writes its number to ``<folder>/reached`` and waits for ``<folder>/go``; later ones pass. With
``clock``, ``time.time`` goes wrong by the seconds in ``<folder>/clock``.
"""

import functools
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

plan = json.loads(os.environ.get("STEMMA_FAULT", "{}"))
folder = Path(plan.get("folder", "/"))


def hold() -> None:
    draft = folder / f".reached.{os.getpid()}"
    draft.write_text(str(os.getpid()))
    try:
        os.link(draft, folder / "reached")  # of several processes one is first, and its number is whole
    except FileExistsError:
        return
    while not (folder / "go").exists():
        time.sleep(0.01)


def wrap(module: object, name: str, call: int) -> None:
    *path, last = name.split(".")
    owner = functools.reduce(getattr, path, module)
    inner, calls = getattr(owner, last), 0

    @functools.wraps(inner)
    def held(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call and not (folder / "reached").exists():
            hold()
        return inner(*args, **kwargs)

    setattr(owner, last, held)


class Finder(importlib.abc.MetaPathFinder):
    """Lets the module be imported as ever, then wraps the function."""

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        module_name, _, rest = plan["point"].partition(":")
        if fullname != module_name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        name, _, call = rest.partition("#")
        execute = spec.loader.exec_module

        def then_wrap(module: object) -> None:
            execute(module)
            wrap(module, name, int(call or 1))

        spec.loader.exec_module = then_wrap
        return spec


if plan:  # of a test that runs in the background, which inherits that Ctrl-C is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)

if plan.get("point"):
    sys.meta_path.insert(0, Finder())

if plan.get("clock"):
    right = time.time

    def wrong() -> float:
        path = folder / "clock"
        return right() + (float(path.read_text()) if path.exists() else 0.0)

    time.time = wrong
