"""``stemma checkpoints``: what a run's training can go back to."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemma.cli_options import Root, RunName
from stemma.core.artifact import Store
from stemma.core.errors import DamagedError, LockedError, StemmaError

if TYPE_CHECKING:
    from rich.table import Table

    from pretrain.checkpoint.survey import Found

app = typer.Typer(help="Look at the checkpoints of a run, check them, make room.", no_args_is_help=True)

StageName = Annotated[str, typer.Option("--stage", help="one training stage; by default all")]


@app.command("list")
def checkpoints_list(run: RunName = "nano", stage: StageName = "", root: Root = Path("runs")) -> None:
    """The checkpoints of every training stage: steps, sizes, hashes of the state, milestones."""
    from pretrain.checkpoint.survey import survey
    from stemma.terminal import console

    found = {name: survey(folder) for name, folder in stage_folders(Store(root), run, stage).items()}
    out = console()
    out.print(table(found))
    size = sum(one.bytes for several in found.values() for one in several)
    out.print(f"{sum(map(len, found.values()))} checkpoints, {size / 1e6:,.1f} MB")


@app.command("verify")
def checkpoints_verify(run: RunName = "nano", stage: StageName = "", root: Root = Path("runs")) -> None:
    """Read every file of every checkpoint, compare it with what was saved, and follow the chain of hashes."""
    from pretrain.checkpoint.survey import examine
    from stemma.terminal import console

    out, problems = console(), []
    for name, folder in stage_folders(Store(root), run, stage).items():
        for checked in examine(folder):
            out.print(f"{name:<14} {checked.what:<28} {'DAMAGED' if checked.problem else 'good'}")
            problems += [checked.problem] if checked.problem else []
    if problems:
        raise DamagedError("\n".join(problems))


@app.command("prune")
def checkpoints_prune(
    run: RunName = "nano",
    stage: StageName = "",
    keep: Annotated[int, typer.Option(min=1, help="how many of the newest stay, of each stage")] = 1,
    milestones: Annotated[bool, typer.Option("--milestones", help="milestones may go too")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    root: Root = Path("runs"),
) -> None:
    """Delete older checkpoints of unfinished stages and what killed saves left; the newest good one stays."""
    from pretrain.checkpoint.retention import remove
    from pretrain.checkpoint.survey import prunable
    from stemma.core.progress import Progress
    from stemma.core.stage import lock, lock_path
    from stemma.terminal import console

    store, out = Store(root), console()
    folders = stage_folders(store, run, stage)
    doomed = {name: prunable(folder, keep, milestones) for name, folder in folders.items()}
    doomed = {name: found for name, found in doomed.items() if found}
    if not doomed:
        out.print("Nothing to delete: what is there is needed, or belongs to a finished stage.")
        return
    out.print(table(doomed))
    size = sum(one.bytes for found in doomed.values() for one in found)
    if not yes and not typer.confirm(f"Delete these ({size / 1e6:,.1f} MB)?"):
        raise typer.Abort
    for name, found in doomed.items():
        try:
            with lock(lock_path(folders[name]), 0.0, Progress(name)):
                shown = {one.folder for one in found}  # a training may have come and gone meanwhile
                remove(one.folder for one in prunable(folders[name], keep, milestones) if one.folder in shown)
        except LockedError as error:
            raise StemmaError(
                f"{name} is being trained at this moment, which deletes by itself what is not needed. "
                "Nothing of it was deleted; stop it first to do so by hand."
            ) from error
    out.print(f"Deleted {sum(map(len, doomed.values()))}.")


def stage_folders(store: Store, run: str, stage: str) -> dict[str, Path]:
    """Folders of a run's training stages, sealed or not.

    Raises:
        StemmaError: no such run, or the stage has no checkpoint; says which have.
    """
    from pretrain.checkpoint.survey import survey
    from stemma.pipeline import open_run, open_work

    folders = {name: artifact.path for name, artifact in open_run(store, run).items()}
    folders = {name: folder for name, folder in (folders | open_work(store, run)).items() if survey(folder)}
    if stage and stage not in folders:
        raise StemmaError(
            f"stage {stage!r} of run {run!r} has no checkpoint; these have: {', '.join(folders)}"
        )
    return {stage: folders[stage]} if stage else folders


def table(found: "dict[str, list[Found]]") -> "Table":
    """Checkpoints by stage."""
    from rich.table import Table

    shown = Table(box=None, header_style="bold")
    for title in ("stage", "kind", "step", "MB", "saved", "state SHA-256", "folder"):
        shown.add_column(title, justify="right" if title in ("step", "MB") else "left", no_wrap=True)
    for stage, several in found.items():
        for one in several:
            shown.add_row(
                stage,
                one.kind,
                f"{one.step:,}",
                f"{one.bytes / 1e6:,.1f}",
                "never" if one.saved is None else f"{datetime.fromtimestamp(one.saved):%Y-%m-%d %H:%M:%S}",
                one.state_sha256[:16],
                one.folder.name,
            )
    return shown
