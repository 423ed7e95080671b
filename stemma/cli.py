"""The command line: ``stemma --help``. Every command loads only what it needs."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from stemma import (
    __version__,
    cli_checkpoints,
    cli_convert,
    cli_data,
    cli_deploy,
    cli_mix,
    cli_tokenizer,
    cli_training,
)
from stemma.cli_options import (
    FromRun,
    GroupName,
    Name,
    Overrides,
    ProfileName,
    Root,
    RunName,
    StartFrom,
    StopAfter,
)
from stemma.core.artifact import Artifact, Store
from stemma.core.errors import StemmaError
from stemma.core.files import NO_ROOM, NOT_ALLOWED

app = typer.Typer(
    help="Train small agentic language models from scratch, with a pedigree for every token.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(cli_checkpoints.app, name="checkpoints")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_mix.app, name="mix")
app.add_typer(cli_tokenizer.app, name="tokenizer")
app.add_typer(cli_training.app, name="training")
app.command()(cli_convert.convert)
app.command()(cli_deploy.deploy)
app.command("verify-export")(cli_convert.verify_export)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if show:
        print(f"stemma {__version__}")
        raise typer.Exit


@app.command()
def run(
    profile: ProfileName = "nano",
    overrides: Overrides = [],  # noqa: B006 (typer reads the default)
    root: Root = Path("runs"),
    name: Name = "",
    group: GroupName = "",
    start_from: StartFrom = "",
    from_run: FromRun = "",
    stop_after: StopAfter = "",
) -> None:
    """Run the chain, or continue it, without Prefect."""
    from stemma.pipeline import begin
    from stemma.report import print_report
    from stemma.terminal import TerminalListener, console

    out = console()
    walk = begin(profile, overrides, root, name, start_from, from_run)
    order = walk.order(stop_after, group)
    with TerminalListener(out, len(order)) as listener:
        walk.listeners.append(listener)
        with walk.held():
            for node in order:
                walk.make(node)
    print_report(walk, out)


@app.command()
def demo(
    profile: ProfileName = "nano",
    overrides: Overrides = [],  # noqa: B006
    root: Root = Path("runs"),
    name: Name = "",
    group: GroupName = "",
    start_from: StartFrom = "",
    from_run: FromRun = "",
    stop_after: StopAfter = "",
) -> None:
    """Run the chain as a Prefect flow, without a server; `stemma ui` shows it afterwards."""
    from stemma.pipeline import begin
    from stemma.terminal import TerminalListener, console

    walk = begin(profile, overrides, root, name, start_from, from_run)
    order = walk.order(
        stop_after, group
    )  # what cannot be made fails before Prefect's import, which takes a second

    from flows.pipeline_flow import run_pipeline
    from stemma.report import print_report

    out = console()
    with TerminalListener(out, len(order)) as listener:
        run_pipeline(walk, stop_after, [listener], group)
    print_report(walk, out)


@app.command()
def runs(
    name: Annotated[
        str, typer.Argument(metavar="RUN", help="one run in full; by default all, a line each")
    ] = "",
    root: Root = Path("runs"),
) -> None:
    """List the runs: what each has made, where it stands, how to go on, and where to branch."""
    from stemma.standing import render, render_one, standing, standings
    from stemma.terminal import console

    if name:
        render_one(standing(Store(root), name), console())
    else:
        render(standings(Store(root)), console())


@app.command()
def ui(
    root: Root = Path("runs"),
    port: Annotated[int, typer.Option(help="port of the server")] = 4200,
    host: Annotated[
        str, typer.Option(help="address to listen on; others than the loopback want a password")
    ] = "127.0.0.1",
    database: Annotated[
        str, typer.Option(help="postgresql://user@host:port/name, without the password; SQLite by default")
    ] = "",
    auth: Annotated[
        bool, typer.Option("--auth", help="ask for a password, made up in ROOT/prefect/auth if there is none")
    ] = False,
) -> None:
    """Start the Prefect server and a worker, with every profile registered as a deployment."""
    from flows.ui import serve

    serve(root, port, host=host, database=database, auth=auth)


@app.command()
def plan(
    profile: Annotated[str, typer.Argument(help="a profile's name, or the path of a .yaml")],
    gpus: Annotated[int, typer.Option(min=1, help="number of GPUs")] = 64,
    gpu: Annotated[str, typer.Option(help="GPU type: a100, h100, h200 or b200")] = "h100",
    mfu: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="model FLOPs utilization of one GPU, assumed")
    ] = 0.4,
    tensor_parallel: Annotated[
        int | None, typer.Option(min=1, help="ranks that share each layer; by default what is fastest")
    ] = None,
    pipeline_parallel: Annotated[
        int | None, typer.Option(min=1, help="ranks that share the depth; by default what is fastest")
    ] = None,
    context_parallel: Annotated[
        int | None, typer.Option(min=1, help="ranks that share each sequence; by default what is fastest")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Say what a profile would train, without starting it: parameters, tokens, memory, days."""
    from pretrain.planner import plan_profile
    from pretrain.planner_tables import render
    from stemma.profile import load_profile
    from stemma.terminal import console

    loaded = load_profile(profile, overrides)
    report = plan_profile(
        loaded,
        gpus=gpus,
        gpu=gpu,
        mfu=mfu,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        context_parallel=context_parallel,
    )
    render(report, console())


@app.command()
def doctor(root: Root = Path("runs")) -> None:
    """Say what this machine can do: sandbox, devices, disk, registry client."""
    from stemma.doctor import examine
    from stemma.terminal import console

    if not examine(root, console()):
        raise typer.Exit(1)


@app.command()
def chat(
    run: RunName = "nano",
    root: Root = Path("runs"),
    prompt: Annotated[str, typer.Option(help="ask this once and exit")] = "",
    tools: Annotated[bool, typer.Option(help="offer the Python tool, run in the sandbox")] = False,
) -> None:
    """Talk to a run's exported model."""
    from posttrain.chat import chat as talk

    talk(artifact(root, run, "export").path / "hf", prompt=prompt, tools=tools)


@app.command()
def ledger(run: RunName = "nano", root: Root = Path("runs")) -> None:
    """Compare planned and realized counts of every trained stage; exit 1 if any differ."""
    from data_pipeline.inspection.mix import mix_tables
    from data_pipeline.inspection.render import render_ledger
    from stemma.pipeline import open_run, open_work
    from stemma.terminal import console

    store = Store(root)
    if not render_ledger(mix_tables(open_run(store, run), open_work(store, run)), console()):
        raise typer.Exit(1)


@app.command()
def trace(
    name: Annotated[str, typer.Argument(metavar="RUN", help="the run's name, such as nano")] = "nano",
    run: Annotated[str, typer.Option("--run", help="the same as an option")] = "",
    root: Root = Path("runs"),
    stage: Annotated[str, typer.Option(help="training stage")] = "commonsense",
    step: Annotated[int, typer.Option(min=0, help="training step, counted from 0 as in the receipts")] = 0,
    row: Annotated[
        int | None, typer.Option(min=0, help="row of the global batch, from 0; without it, the whole step")
    ] = None,
    pos: Annotated[int, typer.Option(min=0, help="position in the row, from 0")] = 0,
    document: Annotated[str, typer.Option(help="a document's id: list the steps that saw it")] = "",
    spike: Annotated[
        bool, typer.Option("--spike", help="the steps with the largest jumps of the loss")
    ] = False,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="how many spikes")] = 3,
) -> None:
    """From a training step, or a token of it, to its documents; from a document to its steps; from a spike of
    the loss to what was read there."""
    from data_pipeline.inspection.lookup import PLAN, need, stage_folder
    from data_pipeline.inspection.render_trace import render_spikes, render_step, render_trace
    from data_pipeline.inspection.samples import trace_step
    from data_pipeline.inspection.spikes import spikes
    from data_pipeline.inspection.trace import trace_document, trace_token
    from stemma.pipeline import open_run, open_work
    from stemma.terminal import console

    store, out = Store(root), console()
    artifacts, working = open_run(store, run or name), open_work(store, run or name)
    folder = artifacts[stage].path if stage in artifacts else working.get(stage)

    def other_rows(at: int) -> None:
        from posttrain.trace import render_rows, step_rows

        trajectories = need(artifacts, "trajectories").file("trajectories.jsonl")
        where = stage_folder(artifacts, working, stage)
        rows = step_rows(where, need(artifacts, "tokenizer").path, trajectories, at)
        render_rows(rows, out, None if spike else row)

    if document:
        render_trace(trace_document(artifacts, document), out)
    elif spike:
        render_spikes(stage, spikes(artifacts, working, stage, n), out, other_rows)
    elif f"{PLAN}{stage}" not in artifacts and stage in ("sft", "rl"):
        other_rows(step)
    elif row is None:
        render_step(trace_step(artifacts, stage, step, folder), out)
    else:
        render_trace(trace_token(artifacts, stage, step, row, pos), out)


def artifact(root: Path, run_name: str, node: str) -> Artifact:
    """A node's artifact in a run.

    Raises:
        StemmaError: the run or the node is not there yet.
    """
    from stemma.pipeline import open_run

    artifacts = open_run(Store(root), run_name)
    if node not in artifacts:
        raise StemmaError(f"run {run_name!r} has no {node} yet; it has: {', '.join(artifacts) or 'nothing'}")
    return artifacts[node]


def main() -> None:
    """Entry point: known errors are printed without a traceback and exit with their own code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: see pretrain/launch.py
    try:
        app()
    except StemmaError as error:
        print(f"stemma: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stemma: interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in NO_ROOM | NOT_ALLOWED:
            raise
        print(
            f"stemma: {error.filename or 'a file'}: {error.strerror}. Make room, give this user the right to "
            "use it, or choose another --root; then run the same command again",
            file=sys.stderr,
        )
        sys.exit(StemmaError.exit_code)


if __name__ == "__main__":
    main()
