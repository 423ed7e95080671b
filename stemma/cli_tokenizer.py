"""``stemma tokenizer``: the vocabulary of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemma.cli_options import Root, RunName
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import StemmaError

if TYPE_CHECKING:
    from tokenizer.report.encoders import NamedEncoder

app = typer.Typer(help="Look at the tokenizer of a run, compare it with others.", no_args_is_help=True)

Offline = Annotated[bool, typer.Option("--offline", help="ask no registry; use what was fetched before")]
DOCUMENTS = ("corpus", "trajectories")


@app.command("report")
def tokenizer_report(
    run: RunName = "nano",
    anchor: Annotated[
        list[str], typer.Option(help="measure anew beside this published one; may be repeated")
    ] = [],  # noqa: B006 (typer reads the default)
    offline: Offline = False,
    root: Root = Path("runs"),
) -> None:
    """Write the report on a run's tokenizer as a page to look at in a browser, and print its path."""
    from stemma.core.files import read_json
    from stemma.pipeline import open_run
    from tokenizer.report.anchors import anchor_names
    from tokenizer.report.measure import SCHEMA
    from tokenizer.report.write import REPORT, measure_artifact, write_report

    names = anchor_names(anchor)
    store = Store(root)
    artifacts = open_run(store, run)
    artifact = _need(artifacts, run, "tokenizer")
    report = read_json(artifact.file(REPORT))
    if names or report.get("schema") != SCHEMA:
        report = measure_artifact(
            artifact.path,
            [artifacts[name].path for name in DOCUMENTS if name in artifacts],
            title=run,
            held_out=artifact.manifest["config"].get("held_out", ()),
            anchors=names,
            cache=store.cache,
            offline=offline,
        )
    print(write_report(report, store.root / run / "reports", run))


@app.command("show")
def tokenizer_show(
    token: Annotated[str, typer.Argument(help="text of an entry, blanks included; with --id, its number")],
    run: Annotated[str, typer.Option(help="the run's name")] = "nano",
    number: Annotated[bool, typer.Option("--id", help="the argument is an id")] = False,
    escapes: Annotated[
        bool, typer.Option("--escapes", "-e", help=r"read \n, \t and \xNN in the argument")
    ] = False,
    root: Root = Path("runs"),
) -> None:
    """The pedigree of an entry: its place, the stage that added it, what it is made of, if it was pruned."""
    from stemma.pipeline import open_run
    from stemma.terminal import console
    from tokenizer.report.pedigree import pedigree_of, text_of
    from tokenizer.report.render import render_pedigree
    from tokenizer.report.write import pruned_rows, special_ids
    from tokenizer.vocabulary import VOCABULARY_FILE, Vocabulary

    folder = _need(open_run(Store(root), run), run, "tokenizer").path
    if not (folder / VOCABULARY_FILE).is_file():
        raise StemmaError(
            f"the tokenizer of run {run!r} keeps no pedigree: SentencePiece, which made it, says nothing of "
            "how an entry came up. Give a run with tokenizer.backend: bpe"
        )
    vocabulary, specials = Vocabulary.load(folder / VOCABULARY_FILE), special_ids(folder)
    if number:
        if not token.isdecimal():
            raise StemmaError(f"{token!r} is no id; give a number, or leave --id out")
        text = text_of(vocabulary, int(token), specials)
    else:
        text = _unescaped(token) if escapes else token.encode("utf-8", "surrogateescape")
    render_pedigree(pedigree_of(vocabulary, text, pruned_rows(folder), specials), vocabulary, console())


@app.command("compare")
def tokenizer_compare(
    tokenizers: Annotated[
        list[str],
        typer.Argument(help="runs, published ones (llama3_1, o200k, ..), or folders with a tokenizer.json"),
    ],
    on: Annotated[
        str, typer.Option(help="the run whose documents to measure on; by default the first's")
    ] = "",
    text: Annotated[list[Path], typer.Option(help="measure on this text file instead; may be repeated")] = [],  # noqa: B006
    html: Annotated[Path | None, typer.Option(help="write the whole report into this folder too")] = None,
    offline: Offline = False,
    root: Root = Path("runs"),
) -> None:
    """Bytes per token of several tokenizers on the same text; ratios are to the first."""
    from stemma.pipeline import open_run
    from stemma.terminal import console
    from tokenizer.report.measure import measure
    from tokenizer.report.render import render_comparison
    from tokenizer.report.texts import file_texts, measured_texts, of_unknown_use
    from tokenizer.report.write import write_report

    store = Store(root)
    if len(set(tokenizers)) != len(tokenizers):
        raise StemmaError(f"a tokenizer is named twice: {', '.join(tokenizers)}")
    if text:
        documents = file_texts(text)
    else:
        run = on or tokenizers[0]
        if not on and not _is_run(store, run):
            raise StemmaError(f"{run!r} is no run: say with --on RUN or --text FILE what to measure on")
        artifacts = open_run(store, run)
        held_out = _need(artifacts, run, "tokenizer").manifest["config"].get("held_out", ())
        folders = [artifacts[name].path for name in DOCUMENTS if name in artifacts]
        documents = measured_texts(folders, held_out)
        if run != tokenizers[0]:
            documents = of_unknown_use(documents)
    report = measure([_open(store, name, offline) for name in tokenizers], documents)
    render_comparison(report, console())
    if html:
        print(write_report(report, html, " | ".join(tokenizers)))


def _open(store: Store, name: str, offline: bool) -> "NamedEncoder":
    """A tokenizer by run, published name or path."""
    from stemma.core.packages import OutOfReach
    from stemma.pipeline import open_run
    from tokenizer.report.write import artifact_encoder, open_encoder

    if _is_run(store, name):
        return artifact_encoder(_need(open_run(store, name), name, "tokenizer").path, name, name)
    try:
        return open_encoder(name, store.cache, offline)
    except OutOfReach as error:
        raise StemmaError(f"{name} cannot be had: {error}") from error


def _is_run(store: Store, name: str) -> bool:
    from stemma.pipeline import RUN_RECORD

    return (store.root / name / RUN_RECORD).is_file()


def _need(artifacts: Mapping[str, Artifact], run: str, node: str) -> Artifact:
    if node not in artifacts:
        raise StemmaError(f"run {run!r} has no {node} yet; it has: {', '.join(artifacts) or 'nothing'}")
    return artifacts[node]


def _unescaped(value: str) -> bytes:
    """A text with Python's escapes read: ``\\n``, ``\\t``, ``\\xNN`` (a byte), ``\\\\``.

    Raises:
        StemmaError: an escape is not whole.
    """
    try:
        return value.encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1")
    except UnicodeError as error:
        raise StemmaError(
            f"{value!r} cannot be read ({error}); escapes are \\n, \\t, \\\\ and \\xNN for a byte"
        ) from error
