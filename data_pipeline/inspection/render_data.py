"""Rejects and duplicate clusters on a terminal."""

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from data_pipeline.inspection.rejects import Cluster, Rejects
from stemma.core.printable import plain, printable

EXCERPT = 500  # characters of a rejected text


def render_rejects(found: Rejects, rule: str, console: Console) -> None:
    """Examples under the rule, the value and the origin of each; or the rules there are."""
    if not found.rules:
        console.print("nothing was rejected")
        return
    if rule and not found.matched:
        console.print(f"no rule fits {plain(repr(rule))}; rules are:")
    table = Table("rule", box=None)
    table.add_column("documents", justify="right")
    for name, count in found.rules.items():
        table.add_row(plain(name), f"{count:,}")
    console.print(table)
    for row in found.rows if rule else []:
        console.print(
            Rule(
                f"[bold]{plain(row['rule'])}[/bold] {plain(row['value'])}  "
                f"[cyan]{row['id']}[/cyan]  {plain(row['source'])}  {plain(row['origin'])}",
                align="left",
            )
        )
        console.print(_excerpt(row["text"]), markup=False, highlight=False)


def render_clusters(found: list[Cluster], console: Console) -> None:
    """The largest clusters: the document kept, and some that went."""
    if not found:
        console.print("no near-duplicates were found")
    for cluster in found:
        kept = cluster.survivor
        console.print(
            Rule(
                f"[bold]{cluster.members:,} near-duplicates[/bold] of [cyan]{kept['id']}[/cyan]  "
                f"{plain(kept['source'])}  {plain(kept['origin'])}",
                align="left",
            )
        )
        console.print(_excerpt(kept["text"]), markup=False, highlight=False)
        for row in cluster.examples:
            console.print(f"  [dim]dropped[/dim] [cyan]{row['id']}[/cyan]  {plain(row['origin'])}")


def _excerpt(text: str) -> str:
    more = len(text) - EXCERPT
    return printable(text[:EXCERPT]) + (f"\n[... {more:,} more characters]" if more > 0 else "")
