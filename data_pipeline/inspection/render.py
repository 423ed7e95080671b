"""What ``inspect.py`` finds, on a terminal."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_pipeline.inspection.inspect import DocumentTrace, StageMix, TokenTrace

SHOWN = 40  # rows of a document's list of steps


def render_mix(tables: list[StageMix], console: Console) -> None:
    """One table per stage: planned and realized tokens, what remains, epochs and waste, by source."""
    if not tables:
        console.print("nothing is planned yet")
    for mix in tables:
        lengths = ", ".join(
            f"{phase['name']} {phase['tokens']:,} x {phase['sequence_length']}" for phase in mix.phases
        )
        table = Table(title=f"{mix.stage}: {mix.tokens:,} tokens ({lengths})", title_justify="left")
        for heading in ("domain", "source"):
            table.add_column(heading)
        for heading in ("share", "planned", "realized", "remaining", "epochs", "waste"):
            table.add_column(heading, justify="right")
        for domain in sorted({row.domain for row in mix.rows}):
            rows = [row for row in mix.rows if row.domain == domain]
            for row in rows:
                table.add_row(
                    domain,
                    row.source,
                    f"{row.planned.tokens / mix.tokens:.1%}",
                    f"{row.planned.tokens:,}",
                    f"{row.realized.tokens:,}" if row.realized else "-",
                    f"{row.remaining:,}",
                    f"{row.epochs:.2f}",
                    f"{row.waste:,}",
                )
            planned = sum(row.planned.tokens for row in rows)
            realized = sum(row.realized.tokens for row in rows if row.realized)
            table.add_row(
                domain,
                "(all)",
                f"{planned / mix.tokens:.1%}",
                f"{planned:,}",
                f"{realized:,}" if mix.trained else "-",
                f"{planned - realized:,}",
                "",
                f"{sum(row.waste for row in rows):,}",
                style="bold",
                end_section=True,
            )
        console.print(table)


def render_ledger(tables: list[StageMix], console: Console) -> bool:
    """Say for every trained stage whether planned and realized counts are equal; return whether all are."""
    trained = [mix for mix in tables if mix.trained]
    if not trained:
        console.print("no stage is trained yet")
    for mix in trained:
        if mix.mismatch:
            console.print(f"[red]differs[/red]  {mix.stage}: {escape(mix.mismatch)}")
        else:
            read = sum(row.planned.tokens > 0 for row in mix.rows)
            console.print(f"[green]equal[/green]    {mix.stage}: {mix.tokens:,} tokens of {read} sources")
    return not any(mix.mismatch for mix in trained)


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
        table.add_row(f"[bold]{key}[/bold]", escape(shown))
    console.print(table)


def _render_token(found: TokenTrace, console: Console) -> None:
    document = found.document
    _facts(
        console,
        {
            "where": f"{found.stage} ({found.phase}), step {found.step}, row {found.row}, pos {found.pos}",
            "token": f"{found.token} {found.text!r}, predicts {found.predicts}",
            "source": f"{found.source} ({found.domain}), epoch {found.epoch + 1}",
            "document": f"{document['id']}, token {found.offset} of {document['tokens']}",
            "origin": document["origin"],
            "cluster": document["cluster"] or "(no near-duplicates)",
            "decisions": document["decisions"],
        },
    )
    console.print(f"\n{escape(found.before)}[reverse]{escape(found.text)}[/reverse]{escape(found.after)}")


def _render_document(found: DocumentTrace, console: Console) -> None:
    keep = ("origin", "tokens", "bytes", "rule", "value", "cluster", "decisions")
    facts = {key: found.facts[key] for key in keep if found.facts.get(key) not in (None, "")}
    _facts(console, {"document": found.identifier, "source": found.source, "split": found.split, **facts})
    console.print(f"\n{escape(found.beginning)}\n")
    if not found.sightings:
        reasons = {"valid": "held out for validation", "rejected": "the corpus dropped it"}
        console.print(f"no planned step reads it: {reasons.get(found.split, 'its turn has not come')}")
        return
    table = Table("stage", "step", "row", "epoch", "tokens")
    for seen in found.sightings[:SHOWN]:
        span = f"{seen.first}-{seen.last}"
        table.add_row(seen.stage, str(seen.step), str(seen.row), str(seen.epoch + 1), span)
    console.print(table)
    if len(found.sightings) > SHOWN:
        console.print(f"... and {len(found.sightings) - SHOWN} more")
