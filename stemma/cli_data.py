"""``stemma data``: the corpus of a run."""

from pathlib import Path
from typing import Annotated

import typer

from stemma.cli_options import Root, RunName
from stemma.core.artifact import Store

app = typer.Typer(help="Look at the corpus of a run.", no_args_is_help=True)

Count = Annotated[int, typer.Option("--n", "-n", min=1, help="how many")]


@app.command("rejects")
def data_rejects(
    run: RunName = "nano",
    root: Root = Path("runs"),
    rule: Annotated[
        str, typer.Option(help="a rule, a part of one, or a filter step; without it, the rules are listed")
    ] = "",
    n: Count = 5,
    source: Annotated[str, typer.Option(help="only of this source")] = "",
    seed: Annotated[int, typer.Option(help="another seed draws other examples")] = 0,
) -> None:
    """Documents the corpus rejected, with the rule and the value that rejected them."""
    from data_pipeline.inspection.lookup import need
    from data_pipeline.inspection.rejects import find_rejects
    from data_pipeline.inspection.render_data import render_rejects
    from stemma.pipeline import open_run
    from stemma.terminal import console

    corpus = need(open_run(Store(root), run), "corpus")
    render_rejects(find_rejects(corpus, rule, n, source, seed), rule, console())


@app.command("clusters")
def data_clusters(run: RunName = "nano", root: Root = Path("runs"), n: Count = 5) -> None:
    """The largest clusters of near-duplicates, with the document of each that was kept."""
    from data_pipeline.inspection.lookup import need
    from data_pipeline.inspection.rejects import find_clusters
    from data_pipeline.inspection.render_data import render_clusters
    from stemma.pipeline import open_run
    from stemma.terminal import console

    render_clusters(find_clusters(need(open_run(Store(root), run), "corpus"), n), console())
