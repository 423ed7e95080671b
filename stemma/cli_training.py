"""``stemma training``: how a run's training went."""

from pathlib import Path
from typing import Annotated

import typer

from stemma.cli_options import Root, RunName
from stemma.core.artifact import Store
from stemma.core.errors import StemmaError

app = typer.Typer(help="Look at how a run's training went, or goes.", no_args_is_help=True)


@app.command("report")
def training_report(run: RunName = "nano", root: Root = Path("runs")) -> None:
    """Write losses, speed and measurements as a page to look at in a browser, and print its path."""
    from pretrain.report.write import write_training_report
    from stemma.pipeline import open_run, open_work

    store = Store(root)
    path = write_training_report(open_run(store, run), store.root / run, run, open_work(store, run))
    if path is None:
        raise StemmaError(f"run {run!r} has not trained a step yet; `stemma run` or `stemma demo` does")
    print(path)


@app.command("incidents")
def training_incidents(
    run: RunName = "nano",
    root: Root = Path("runs"),
    stage: Annotated[str, typer.Option(help="only of this training stage")] = "",
    step: Annotated[
        int | None, typer.Option(min=0, help="show the documents of this step, counted from 0")
    ] = None,
) -> None:
    """Steps that went wrong: what was unusual, what was done about it, and which documents were read."""
    from stemma.incidents import incidents, render_incident, render_incidents
    from stemma.pipeline import open_run, open_work
    from stemma.terminal import console

    store, out = Store(root), console()
    found = [
        each
        for each in incidents(open_run(store, run), open_work(store, run))
        if stage in ("", each.stage) and step in (None, each.step)
    ]
    if not found:
        out.print(f"run {run}: no step went wrong" + (f" in {stage}" if stage else ""))
    elif step is None:
        render_incidents(found, out)
    else:
        for each in found:
            render_incident(each, out)
