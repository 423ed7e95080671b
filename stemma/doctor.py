"""``stemma doctor``: what this machine can do, and why."""

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

MINIMUM_DISK_GB = 2.0
MINIMUM_MEMORY_GB = 6.0


def examine(root: Path, out: Console) -> bool:
    """Print one line per finding; returns False if something the chain cannot do without is missing."""
    from environments.sandbox import sandbox_report

    found: list[tuple[str, bool | None, str]] = []
    version = ".".join(map(str, sys.version_info[:3]))
    found.append(("Python", (3, 11) <= sys.version_info[:2] <= (3, 12), f"{version} (3.11 or 3.12 needed)"))
    backends = sandbox_report()
    usable = [name for name, works, _ in backends if works]
    for name, works, reason in backends:
        note = f"{reason}{'; used by default' if usable and name == usable[0] else ''}"
        found.append((f"sandbox: {name}", works if not usable else works or None, note))
    if not usable:
        found.append(("sandbox", False, "no backend works: model-written code is never run unprotected"))
    found.append(_device())
    existing = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    found.append(
        ("disk", free >= MINIMUM_DISK_GB, f"{free:,.1f} GB free at {existing}; the demo writes under 1 GB")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    found.append(("memory", memory >= MINIMUM_MEMORY_GB, f"{memory:,.1f} GB; the demo needs 6"))
    found.append(("cores", True, f"{len(os.sched_getaffinity(0))}"))
    for name in ("torch", "megatron-core", "transformers", "datatrove", "prefect"):
        found.append((name, True, importlib.metadata.version(name)))
    npm = shutil.which("npm")
    found.append(("npm", True if npm else None, npm or "not there; only profiles with npm sources need it"))
    shown = Table(show_header=False, box=None)
    marks = {True: "[green]ok[/]", None: "[yellow]--[/]", False: "[red]missing[/]"}
    for what, state, note in found:
        shown.add_row(marks[state], what, note)
    out.print(shown)
    return all(state is not False for _, state, _ in found)


def _device() -> tuple[str, bool | None, str]:
    import torch

    if torch.cuda.is_available():
        return "device", True, f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return "device", None, "no CUDA device: training runs on the CPU backend (gloo, fp32)"
