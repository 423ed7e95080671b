"""The report and the pedigree of an entry on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from stemma.core.printable import plain
from tokenizer.report.entries import quoted
from tokenizer.report.html import size
from tokenizer.report.pedigree import Made, Pedigree
from tokenizer.vocabulary import Vocabulary


def render_comparison(report: Mapping[str, Any], console: Console) -> None:
    """Bytes per token of every group, the ceiling of the first tokenizer, and how the others compare."""
    reference, *others = report["tokenizers"]
    for group in ("domain", "language", "source"):
        rows = [row for row in report["groups"] if row["group"] == group]
        if group == "domain":
            rows = [*(row for row in report["groups"] if row["group"] in ("all", "held_out")), *rows]
        elif len(rows) < 2:
            continue  # it would say again what the row of all documents says
        table = Table(title=f"bytes per token, by {group}", title_justify="left")
        table.add_column(group, no_wrap=True)
        for heading in ("documents", "text", plain(reference["title"]), "ceiling"):
            table.add_column(heading, justify="right")
        for about in others:
            table.add_column(plain(about["title"]), justify="right")
        for row in rows:
            own = row["by"][reference["name"]]
            cells = [plain(row["name"] or "-"), f"{row['documents']:,}", size(row["bytes"])]
            cells += [f"{own['bytes_per_token']:.3f}", f"{own['ceiling']:.3f}" if "ceiling" in own else "-"]
            for about in others:
                value = row["by"][about["name"]]["bytes_per_token"]
                cells.append(f"{value:.3f} {_ratio(row['ratios'][about['name']])}")
            table.add_row(*cells, style="bold" if row["group"] in ("all", "held_out") else None)
        console.print(table)
    if others:
        console.print(
            f"behind each: tokens it takes for one of {plain(reference['title'])}'s; in colour where the 95% "
            "interval over documents excludes 1"
        )
    for about in report["tokenizers"]:
        console.print(
            f"{plain(about['title'])}: {about['entries']:,} entries, "
            f"{about['never_used']:.1%} of those learned never used here"
        )
    for row in report["missing"]:
        console.print(f"{plain(row['title'])} is not compared: {plain(row['reason'])}")


def _ratio(cell: Mapping[str, float]) -> str:
    shown = f"{cell['ratio']:.3f}"
    if cell.get("low", 0) > 1:
        return f"[green]{shown}[/green]"
    return f"[red]{shown}[/red]" if cell.get("high", 2) < 1 else shown


def render_pedigree(found: Pedigree, vocabulary: Vocabulary, console: Console) -> None:
    """Facts, the tree of what an entry is made of, and its other relations."""
    for label, value in found.facts.items():
        console.print(f"{label:>10}  {plain(value)}")
    if found.made and len(found.made.entry.text) > 1:
        if found.made.parts:
            tree = Tree(_branch(found.made))
            _grow(tree, found.made)
            console.print(tree)
        else:
            console.print("no joining comes to it: only a pre-token that is exactly this becomes it")
    if len(found.splits) > 1:
        cuts = (f"{_shown(vocabulary, left)} + {_shown(vocabulary, right)}" for left, right in found.splits)
        console.print(f"cuts into two earlier entries: {', '.join(cuts)}")
    if found.inside:
        built = (_shown(vocabulary, rank) for rank in found.inside)
        console.print(f"first built with it: {', '.join(built)}")
    if found.becomes:
        tokens = ", ".join(plain(quoted(token)) for token in found.becomes)
        console.print(f"text that has it becomes: {tokens}")
    for row in found.pruned:
        console.print(
            f"taken out: {plain(row['rule'])}, {plain(row['evidence'])}; added by {plain(row['stage'])}, "
            f"seen {row['count']:,g} times when it was"
        )


def _shown(vocabulary: Vocabulary, rank: int) -> str:
    return plain(quoted(vocabulary.texts[rank]))


def _branch(made: Made) -> str:
    scaffold = ", scaffold" if made.entry.scaffold else ""
    about = f"rank {made.rank:,}, {made.entry.stage}{scaffold}"
    return f"{plain(quoted(made.entry.text))}  [dim]{plain(about)}[/dim]"


def _grow(tree: Tree, made: Made) -> None:
    for part in made.parts:
        _grow(tree.add(_branch(part)), part)
