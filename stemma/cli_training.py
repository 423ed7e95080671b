"""``stemma training``: how a run's training went."""

from pathlib import Path

import typer

from stemma.cli_options import Root, RunName
from stemma.core.artifact import Store
from stemma.core.errors import StemmaError

app = typer.Typer(help="Look at how a run's training went, or goes.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `report` a command of its own while it is the only one."""


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
