"""Pedigrees on a terminal: of a token, a document, a step, a few samples, the spikes of a stage."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from data_pipeline.curriculum.plan import reading
from data_pipeline.inspection.samples import Piece, SampleView, StepView
from data_pipeline.inspection.spikes import Spike
from data_pipeline.inspection.trace import DocumentTrace, TokenTrace
from stemma.core.printable import plain, printable

SHOWN = 40  # rows of a document's list of steps, or of a step
DOCUMENTS = 4  # of a row, in a step's table
EXCERPT = 160  # characters of a piece's beginning and end, in a sample


def render_trace(found: TokenTrace | DocumentTrace, console: Console) -> None:
    """Print the pedigree of a token, or the steps that read a document."""
    if isinstance(found, TokenTrace):
        _render_token(found, console)
    else:
        _render_document(found, console)


def _facts(console: Console, facts: Mapping[str, Any]) -> None:
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        shown = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
        table.add_row(f"[bold]{key}[/bold]", plain(shown))
    console.print(table)


def _render_token(found: TokenTrace, console: Console) -> None:
    document = found.document
    _facts(
        console,
        {
            "where": f"{found.stage} ({found.phase}), step {found.step}, row {found.row}, pos {found.pos}",
            "token": f"{found.token} {found.text!r}, predicts {found.predicts}",
            "source": f"{found.source} ({found.domain}), {reading(found.epoch)}",
            "document": f"{document['id']}, token {found.offset} of {document['tokens']}",
            "origin": document["origin"],
            "cluster": document["cluster"] or "(no near-duplicates)",
            "decisions": document["decisions"],
        },
    )
    console.print(f"\n{plain(found.before)}[reverse]{plain(found.text)}[/reverse]{plain(found.after)}")


def _render_document(found: DocumentTrace, console: Console) -> None:
    keep = ("origin", "tokens", "bytes", "rule", "value", "cluster", "decisions")
    facts = {key: found.facts[key] for key in keep if found.facts.get(key) not in (None, "")}
    _facts(console, {"document": found.identifier, "source": found.source, "split": found.split, **facts})
    console.print(f"\n{plain(found.beginning)}\n")
    if not found.sightings:
        reasons = {"valid": "held out for validation", "rejected": "the corpus dropped it"}
        console.print(f"no planned step reads it: {reasons.get(found.split, 'its turn has not come')}")
        return
    table = Table("stage", "step", "row", "read as", "tokens")
    for seen in found.sightings[:SHOWN]:
        span = f"{seen.first}-{seen.last}"
        table.add_row(seen.stage, str(seen.step), str(seen.row), reading(seen.epoch), span)
    console.print(table)
    if len(found.sightings) > SHOWN:
        console.print(f"... and {len(found.sightings) - SHOWN} more")


def render_step(view: StepView, console: Console) -> None:
    """A step's loss and its rows with their documents."""
    title = f"{view.stage}, step {view.step}"
    if view.receipt:
        loss, norm = (float.fromhex(view.receipt[name]) for name in ("loss", "grad_norm"))
        title += f": loss {loss:.4f}, gradient norm {norm:.3f}, batch {view.receipt['batch_sha256'][:12]}"
    table = Table(title=title, title_justify="left")
    for heading in ("row", "read"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("source", "loss", "document", "tokens"):
        table.add_column(heading, no_wrap=True)
    table.add_column("origin", overflow="fold")  # the one to give way where the terminal is narrow
    for row in view.rows[:SHOWN]:
        loss = view.losses.get(f"loss/{row.source}")
        about = [
            str(row.row),
            reading(row.epoch).removesuffix(" reading"),
            row.source,
            "" if loss is None else f"{loss:.3f}",
        ]
        for piece in row.pieces[:DOCUMENTS]:
            span = f"{piece.first}-{piece.last} of {piece.document['tokens']}"
            origin = plain(_short(piece.document["origin"], 40))
            table.add_row(*about, piece.document["id"], span, origin)
            about = [""] * 4
        if (more := len(row.pieces) - DOCUMENTS) > 0:
            table.add_row(*about, f"and {more} more", "", "")
    console.print(table)
    if len(view.rows) > SHOWN:
        console.print(f"... and {len(view.rows) - SHOWN} more rows; --row R --pos P shows a token of one")
    if view.losses:
        console.print("loss is the step's mean over all rows of a source: receipts hold none by row")


def render_samples(views: list[SampleView], console: Console) -> None:
    """Decoded samples, each under its pedigree, with a line where a document begins."""
    for view in views:
        where = f"{view.stage} sample {view.sample:,}"
        console.print(Rule(f"[bold]{where}[/bold]: step {view.step}, row {view.row}", align="left"))
        _facts(
            console,
            {
                "phase": f"{view.phase}, {view.sequence_length} tokens",
                "source": f"{view.source} ({view.domain}), {reading(view.epoch)}",
                "documents": str(len(view.pieces)),
            },
        )
        for piece in view.pieces:
            console.print(Rule(_piece(piece), align="left", style="dim", characters="·"))
            console.print(_excerpt(piece.text), markup=False, highlight=False)
        console.print()


def render_spikes(
    stage: str, found: list[Spike], console: Console, others: Callable[[int], None] | None = None
) -> None:
    """The jumps of a stage's loss, each with its rows.

    Args:
        stage: its name.
        found: its jumps.
        console: where to print.
        others: prints the rows of a step of a stage that has no plan.
    """
    if not found:
        console.print(f"{stage}: the loss of no step is above the median of those before it")
    for spike in found:
        loss = f"{spike.loss:.4f}" if math.isfinite(spike.loss) else "not finite"
        console.print(
            Rule(
                f"[bold]{stage} step {spike.step}[/bold]: loss {loss}, usually {spike.usual:.4f} "
                f"({spike.deviations:.1f} robust standard deviations above)",
                align="left",
            )
        )
        for name, value, usual in spike.above:
            console.print(f"  {name}: {value:.4f}, usually {usual:.4f}")
        if spike.view:
            render_step(spike.view, console)
        elif others:
            others(spike.step)


def _piece(piece: Piece) -> str:
    document = piece.document
    part = f"tokens {piece.first}-{piece.last} of {document['tokens']}"
    return f"[cyan]{document['id']}[/cyan] {part}  {plain(_short(document['origin']))}"


def _short(origin: str, width: int = 48) -> str:
    """The end of an origin tells more than its beginning."""
    return origin if len(origin) <= width else "..." + origin[3 - width :]


def _excerpt(text: str) -> str:
    text = printable(text)
    left_out = len(text) - 2 * EXCERPT
    if left_out <= 40:
        return text
    return f"{text[:EXCERPT]}\n[... {left_out:,} characters ...]\n{text[-EXCERPT:]}"
