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


@app.command("label")
def data_label(
    run: RunName = "nano",
    root: Root = Path("runs"),
    export: Annotated[Path | None, typer.Option(help="write a sheet to fill in: .csv or .jsonl")] = None,
    check: Annotated[
        list[Path], typer.Option(help="check this label file against the corpus; may be repeated")
    ] = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="write an endpoint's labels to this .jsonl")] = None,
    model: Annotated[str, typer.Option(help="the endpoint's model, for --out")] = "",
    base_url: Annotated[str, typer.Option(help="the endpoint, up to and including /v1")] = (
        "http://127.0.0.1:8080/v1"
    ),
    api_key_env: Annotated[str, typer.Option(help="environment variable that holds the API key")] = "",
    annotator: Annotated[str, typer.Option(help="who will label, for --export")] = "me",
    taxonomy: Annotated[str, typer.Option(help="a taxonomy file; stemma's by default")] = "",
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="how many documents")] = 100,
    seed: Annotated[int, typer.Option(help="another seed draws other documents")] = 0,
) -> None:
    """Have documents labelled for the quality model: by people (--export, --check) or a model (--out)."""
    from data_pipeline.inspection.lookup import need
    from data_pipeline.quality.cli import ask, check_files, export_sheet
    from data_pipeline.quality.taxonomy import BUNDLED, load_taxonomy
    from stemma.core.errors import StemmaError
    from stemma.pipeline import open_run
    from stemma.terminal import console

    if sum(bool(wish) for wish in (export, check, out)) != 1:
        raise StemmaError("say one of --export FILE, --check FILE (may be repeated) or --out FILE")
    corpus = need(open_run(Store(root), run), "corpus").path
    loaded = load_taxonomy(Path(taxonomy) if taxonomy else BUNDLED)
    if export:
        export_sheet(export, corpus, loaded, annotator, n, seed, console())
    elif out:
        if not model:
            raise StemmaError("--out needs --model: the name the endpoint knows its model by")
        config = {"model": model, "documents": n, "base_url": base_url, "api_key_env": api_key_env}
        ask(out, corpus, loaded, config, seed, root / "cache", console())
    else:
        check_files(check, corpus, loaded, console())


@app.command("report")
def data_report(run: RunName = "nano", root: Root = Path("runs")) -> None:
    """Write the corpus as a page to look at in a browser, and print its path."""
    from data_pipeline.inspection.report.write import write_corpus_report
    from stemma.pipeline import open_run

    store = Store(root)
    print(write_corpus_report(open_run(store, run), store.root / run, run))
