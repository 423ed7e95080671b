"""``stemma mix``: the data mix of a run."""

from pathlib import Path

import typer

from stemma.cli_options import Root, RunName
from stemma.core.artifact import Store

app = typer.Typer(help="Look at the data mix of a run.", no_args_is_help=True)


@app.command("show")
def mix_show(run: RunName = "nano", root: Root = Path("runs")) -> None:
    """Planned and realized counts of every training stage, by source and domain."""
    from data_pipeline.inspection.inspect import mix_tables
    from data_pipeline.inspection.render import render_mix
    from stemma.pipeline import open_run
    from stemma.terminal import console

    render_mix(mix_tables(open_run(Store(root), run)), console())
