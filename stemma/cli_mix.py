"""``stemma mix``: the data mix of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stemma.cli_options import Overrides, Root, RunName
from stemma.core.artifact import Store
from stemma.core.errors import StemmaError

if TYPE_CHECKING:
    from data_pipeline.inspection.difference import Side

app = typer.Typer(help="Look at the data mix of a run, compare it, change it.", no_args_is_help=True)

MixName = Annotated[
    str, typer.Argument(help="a run, a plan artifact's folder, or a profile (by name or .yaml path)")
]


@app.command("show")
def mix_show(run: RunName = "nano", root: Root = Path("runs")) -> None:
    """Planned and realized counts of every training stage, by source and domain."""
    from data_pipeline.inspection.mix import mix_tables
    from data_pipeline.inspection.render import render_mix
    from stemma.pipeline import open_run, open_work
    from stemma.terminal import console

    store = Store(root)
    render_mix(mix_tables(open_run(store, run), open_work(store, run)), console())


@app.command("diff")
def mix_diff(left: MixName, right: MixName, root: Root = Path("runs")) -> None:
    """Two mixes side by side: shares, tokens and epochs by stage and source, and the phases."""
    from data_pipeline.inspection.difference import compare_sides
    from data_pipeline.inspection.render import render_difference
    from stemma.terminal import console

    found = compare_sides(mix_sides(Store(root), left), mix_sides(Store(root), right))
    render_difference(found, (left, right), console())


@app.command("sample")
def mix_sample(
    run: RunName = "nano",
    root: Root = Path("runs"),
    stage: Annotated[str, typer.Option(help="training stage")] = "stem",
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="how many")] = 3,
    source: Annotated[str, typer.Option(help="only samples of this source")] = "",
    seed: Annotated[int, typer.Option(help="another seed draws other samples")] = 0,
) -> None:
    """Some training samples of a stage as text, each with its pedigree."""
    from data_pipeline.inspection.render_trace import render_samples
    from data_pipeline.inspection.samples import draw_samples
    from stemma.pipeline import open_run
    from stemma.terminal import console

    render_samples(draw_samples(open_run(Store(root), run), stage, n, source, seed), console())


@app.command("report")
def mix_report(run: RunName = "nano", root: Root = Path("runs")) -> None:
    """Write the mix as a page to look at in a browser, and print its path."""
    from data_pipeline.inspection.report.write import write_mix_report
    from stemma.pipeline import open_run, open_work

    store = Store(root)
    print(write_mix_report(open_run(store, run), store.root / run, run, open_work(store, run)))


@app.command("preview")
def mix_preview(
    profile: Annotated[str, typer.Argument(help="a profile, by name or .yaml path")] = "nano",
    overrides: Overrides = [],  # noqa: B006 (typer reads it)
    root: Root = Path("runs"),
) -> None:
    """The mix of a profile before anything of it is made: nothing is trained, and what is made is read."""
    from data_pipeline.inspection.render import render_mix
    from data_pipeline.inspection.report.mix_page import mix_page
    from stemma.core.files import write_atomic
    from stemma.inspection import inspected, page_path
    from stemma.terminal import console

    store, out = Store(root), console()
    with inspected(store, profile, overrides, say=lambda line: out.print(line, style="dim")) as subject:
        render_mix(subject.mixes, out)
        for note in subject.notes:
            out.print(f"- {note}", markup=False)
        path = page_path(store, subject)
        write_atomic(path, mix_page(subject.figures(), subject.name))
    print(path)


@app.command("edit")
def mix_edit(
    run: Annotated[str, typer.Argument(help="the run's name, such as nano")],
    file: Annotated[Path, typer.Argument(help="YAML with `phases` for the rest of the stage")],
    at_step: Annotated[int, typer.Option(min=1, help="steps that keep the mix there is")],
    stage: Annotated[str, typer.Option(help="training stage; by default the first not trained yet")] = "",
    root: Root = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    force: Annotated[bool, typer.Option(help="even where a finished stage has to be trained anew")] = False,
) -> None:
    """Change a run's mix from a step on: shows what follows, asks, and has the next `stemma run` go on so."""
    from data_pipeline.inspection.difference import compare_sides, side_of_mix
    from data_pipeline.inspection.render import render_difference
    from stemma.consequences import consequences, refusal
    from stemma.edits import propose, read_edit, save_edit
    from stemma.terminal import console

    store, out = Store(root), console()
    proposal = propose(store, run, stage, read_edit(file, at_step))
    sides = [{mix.stage: side_of_mix(mix) for mix in mixes} for mixes in (proposal.before, proposal.after)]
    render_difference(compare_sides(*sides), ("as it is", "edited"), out)
    for line in consequences(proposal, run):
        out.print(f"- {line}")
    if not force and (problem := refusal(proposal, "--force", "--at-step")):
        raise StemmaError(problem)
    if not yes and not typer.confirm(f"Change the mix of {proposal.stage} from step {at_step:,} on?"):
        raise typer.Abort
    path = save_edit(store.root / run, proposal.stage, proposal.edit)
    out.print(f"Written to {path}. Run the same `stemma run` again to go on.")


def mix_sides(store: Store, name: str) -> "Mapping[str, Side]":
    """What a name stands for: a plan's folder, a profile's path, a run, a profile's name, in this order.

    Raises:
        StemmaError: it is none of them.
    """
    from data_pipeline.inspection.difference import side_of_config, side_of_mix
    from data_pipeline.inspection.mix import mix_tables, stage_mix
    from stemma.pipeline import RUN_RECORD, open_run
    from stemma.profile import TRAINING_STAGES, load_profile, profile_names

    path = Path(name)
    if (path / "plan.json").is_file() or path.name == "plan.json":
        from data_pipeline.curriculum.plan import Plan

        folder = path if path.is_dir() else path.parent
        stage = folder.name.removeprefix("plan.").rpartition("-")[0] or folder.name
        return {stage: side_of_mix(stage_mix(stage, Plan.load(path)))}
    is_file = name.endswith((".yaml", ".yml"))
    if not is_file and (store.root / name / RUN_RECORD).exists():
        return {mix.stage: side_of_mix(mix) for mix in mix_tables(open_run(store, name))}
    if is_file or name in profile_names():
        profile = load_profile(name)
        domains = {source: config.domain for source, config in profile.data.sources.items()}
        domains |= dict.fromkeys(profile.trajectories.families, "agent")
        return {stage: side_of_config(profile.plan_stage(stage), domains) for stage in TRAINING_STAGES}
    raise StemmaError(
        f"{name!r} is neither a run in {store.root}, nor a plan artifact's folder, nor a profile; "
        f"profiles are: {', '.join(profile_names())}"
    )
