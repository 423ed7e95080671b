"""``inspect-mix``: a mix as tables, charts and decoded samples; nothing is trained, and no run disturbed."""

from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger, runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import Field

from flows.events import artifact_key
from flows.files import address
from flows.mixes import difference_lines, difference_rows, domain_table, glance_rows, markdown_table, mix_rows
from flows.names import typed_or
from flows.pictures import MARGIN, WIDTH, framed
from flows.reports import fenced
from stemma.core.artifact import Store
from stemma.core.files import write_atomic
from stemma.inspection import Subject, asked_for, inspected, page_path, slug
from stemma.pipeline import RUN_RECORD


def _run_name() -> str:
    given = runtime.flow_run.parameters
    other = given.get("compare_with") or ("itself, changed" if given.get("compare_overrides") else "")
    names = [Path(str(name)).stem for name in (given.get("run") or given["profile"], other) if name]
    return typed_or(" and ".join(names))


@flow(
    name="inspect-mix",
    description="What a profile or a run reads: tables, charts, decoded samples. Nothing is trained.",
    flow_run_name=_run_name,
    persist_result=False,
)
def inspect_mix(
    profile: str = "nano",
    run: str = "",
    overrides: list[str] = [],  # noqa: B006 (Prefect reads it)
    compare_with: str = "",
    compare_overrides: list[str] = [],  # noqa: B006
    samples: Annotated[int, Field(ge=0, le=20)] = 2,
    seed: Annotated[int, Field(ge=0)] = 0,
    root: str = "runs",
) -> None:
    """Show a mix. What is made is read; what is not made is planned beside it, or previewed and called so.

    Args:
        profile: What to look at, unless a run is named.
        run: A run instead, which may be training at this moment.
        overrides: Changes to that profile, one each, such as `curriculum.stem.seed=1`; a run is as it is.
        compare_with: Another run or profile, to see side by side what differs.
        compare_overrides: Changes to the other profile; without another, to that of the left side.
        samples: Decoded samples of each stage.
        seed: Another one shows other samples.
        root: Folder of runs, on the worker's machine.
    """
    store, log = Store(Path(root)), get_run_logger()
    with ExitStack() as stack:
        left = stack.enter_context(inspected(store, profile, overrides, run, say=log.info))
        _show(left, store, samples, seed)
        if not (compare_with or compare_overrides):
            return
        is_run = bool(compare_with) and (store.root / compare_with / RUN_RECORD).exists()
        other, changed = compare_with or profile, list(compare_overrides)
        if run and not compare_with:
            other, before = asked_for(store, run)
            changed = [*before, *changed]
        right = stack.enter_context(
            inspected(store, other, changed, compare_with if is_run else "", say=log.info)
        )
        if right.name == left.name:  # or one would take the other's page and pictures
            right = replace(right, name=f"{right.name} (2)")
        _show(right, store, samples, seed)
        _compare(left, right)


def _show(subject: Subject, store: Store, samples: int, seed: int) -> None:
    """The page, the report and a table per stage of one subject."""
    from data_pipeline.inspection.report.charts import composition, timeline
    from data_pipeline.inspection.report.mix_page import mix_page, spans_of, stacks_of
    from data_pipeline.inspection.report.page import colour_of

    figures, mixes = subject.figures(max(samples, 1), seed), subject.mixes
    stem = slug(subject.name)
    page = page_path(store, subject)
    write_atomic(page, mix_page(figures, subject.name))
    colours = colour_of(sorted({row.domain for mix in mixes for row in mix.rows}))
    width = WIDTH - 2 * MARGIN
    drawings = {
        "composition": (
            composition(stacks_of(mixes), colours, "Composition", "tokens", width),
            "Composition of every stage",
        ),
        "phases": (timeline(spans_of(mixes), colours, "Phases", width), "Phases along their tokens"),
    }
    pictures = []
    for kind, (drawn, title) in drawings.items():
        picture = framed(drawn, title, colours)
        # by its content: what an earlier inspection of the same name shows stays as it was
        path = page.parent / "pictures" / f"{stem}-{kind}-{sha256(picture.encode()).hexdigest()[:12]}.svg"
        write_atomic(path, picture)
        pictures.append(f"![{title}]({address(path, store.root)})")
    what = "Preview of the mix" if subject.preview else "Mix"
    link = address(page, store.root)
    lines = [f"# {what}: {subject.name}", "", *(f"- {note}" for note in subject.notes)]
    lines += [
        "",
        f"[The whole report, to look at in a browser]({link})",
        "",
        *(f"{one}\n" for one in pictures),
    ]
    lines += ["## Domains by stage", "", markdown_table(domain_table(mixes)), ""]
    if subject.glances:
        lines += ["## What the sources seem to have", "", markdown_table(glance_rows(subject.glances)), ""]
    if samples:
        lines += ["## Samples, decoded", ""]
        for stage, views in figures.samples.items():
            for view in views:
                where = f"{stage}, step {view.step:,}, row {view.row}: {view.source} ({view.domain})"
                origin = ", ".join(piece.document["origin"] for piece in view.pieces[:3])
                lines += [f"**{where}**", "", f"`{origin}`", ""]
                lines += [fenced("".join(piece.text for piece in view.pieces)), ""]
    create_markdown_artifact("\n".join(lines), key=f"inspected-{stem}", description=f"{what}: {subject.name}")
    for mix in mixes:
        create_table_artifact(
            mix_rows(mix),
            key=artifact_key("inspected", stem, mix.stage),
            description=f"{what} of {mix.stage}, {subject.name}: {mix.tokens:,} tokens, {mix.steps:,} steps",
        )


def _compare(left: Subject, right: Subject) -> None:
    from data_pipeline.inspection.difference import compare_sides

    names = (left.name, right.name)
    key = slug(f"{left.name} {right.name}")
    found = compare_sides(left.sides, right.sides)
    lines = [f"# {names[0]} | {names[1]}", ""]
    lines += [f"- {subject.name}: {note}" for subject in (left, right) for note in subject.notes]
    lines += ["", *difference_lines(found, names)]
    create_markdown_artifact(
        "\n".join(lines), key=f"difference-{key}", description=f"{names[0]} | {names[1]}"
    )
    for stage in found:
        if rows := difference_rows(stage, names):
            create_table_artifact(
                rows,
                key=artifact_key("difference", key, stage.stage),
                description=f"{stage.stage}: {names[0]} | {names[1]}",
            )
