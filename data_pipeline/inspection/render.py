"""Mixes and ledgers on a terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data_pipeline.inspection.difference import ALL, Share, Side, StageDifference, rows_of
from data_pipeline.inspection.mix import StageMix


def render_mix(tables: list[StageMix], console: Console) -> None:
    """One table per stage: planned and realized tokens, what remains, epochs and waste, by source."""
    if not tables:
        console.print("nothing is planned yet")
    for mix in tables:
        lengths = ", ".join(
            f"{phase['name']} {phase['tokens']:,} x {phase['sequence_length']}" for phase in mix.phases
        )
        state = "trained" if mix.trained else f"{mix.done:,} of {mix.steps:,} steps at its last checkpoint"
        table = Table(
            title=f"{mix.stage}: {mix.tokens:,} tokens ({lengths}), {state if mix.done else 'not begun'}",
            title_justify="left",
        )
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
                f"{realized:,}" if mix.done else "-",
                f"{planned - realized:,}",
                "",
                f"{sum(row.waste for row in rows):,}",
                style="bold",
                end_section=True,
            )
        console.print(table)


def render_ledger(tables: list[StageMix], console: Console) -> bool:
    """Say for every trained stage whether planned and realized counts are equal; return whether all are."""
    trained = [mix for mix in tables if mix.done]
    if not trained:
        console.print("no stage is trained yet")
    for mix in trained:
        if mix.mismatch:
            console.print(f"[red]differs[/red]  {mix.stage}: {escape(mix.mismatch)}")
        else:
            read = sum(row.realized.tokens > 0 for row in mix.rows if row.realized)
            console.print(f"[green]equal[/green]    {mix.stage}: {mix.realized:,} tokens of {read} sources")
    return not any(mix.mismatch for mix in trained)


def render_difference(found: list[StageDifference], names: tuple[str, str], console: Console) -> None:
    """Two mixes side by side; stages and phases that are equal are said to be so in a line."""
    if not found:
        console.print("neither has a planned stage")
    for stage in found:
        if stage.left is None or stage.right is None:
            there = names[0] if stage.left else names[1]
            console.print(f"{stage.stage}: only in {escape(there)}")
            continue
        if stage.equal:
            console.print(f"{stage.stage}: the same in both")
            continue
        if stage.same_tokens:
            console.print(f"{stage.stage}: the same tokens of every source; other parts of them are read")
            continue
        table = Table(title=f"{stage.stage}: {escape(names[0])} | {escape(names[1])}", title_justify="left")
        for heading in ("domain", "source"):
            table.add_column(heading)
        for heading in ("share", "", "change", "tokens", "", "change", "epochs", "", "change"):
            table.add_column(heading, justify="right")
        for domain, source, left, right in rows_of(stage):
            whole = source == ALL
            # A profile names a domain's sources only where they have weights of their own.
            comparable = whole or all(_lists(side, domain) for side in (stage.left, stage.right))
            shares = [side.share if side else 0.0 for side in (left, right)]
            tokens = [side.tokens if side else 0 for side in (left, right)]
            table.add_row(
                domain,
                source or "(all)",
                *(f"{share:.1%}" if side else "-" for share, side in zip(shares, (left, right))),
                _change(shares[1] - shares[0], "+.1%") if comparable else "",
                *(f"{count:,}" if side else "-" for count, side in zip(tokens, (left, right))),
                _change(tokens[1] - tokens[0], "+,") if comparable else "",
                *_epochs(left, right),
                style="bold" if whole else None,
                end_section=whole,
            )
        console.print(table)
        for name, side in zip(names, (stage.left, stage.right)):
            phases = ", ".join(f"{phase} {tokens:,} x {length}" for phase, tokens, length in side.phases)
            console.print(f"  phases of {escape(name)}: {phases}")


def _lists(side: Side, domain: str) -> bool:
    """Whether a side knows a domain's sources, or that it has none of it."""
    return [source for key, source in side.shares if key == domain] != [ALL]


def _change(value: float, form: str) -> str:
    return format(value, form) if abs(value) >= 0.0005 else "="


def _epochs(left: Share | None, right: Share | None) -> tuple[str, str, str]:
    known = [side.epochs if side else None for side in (left, right)]
    shown = ["-" if epochs is None else f"{epochs:.2f}" for epochs in known]
    if known[0] is None or known[1] is None:
        return shown[0], shown[1], ""
    change = known[1] - known[0]
    return shown[0], shown[1], f"{change:+.2f}" if abs(change) >= 0.005 else "="
